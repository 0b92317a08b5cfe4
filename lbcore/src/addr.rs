//! Address families and ranges of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of `address`.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    /// Bits in an address: 32 or 128.
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A range of addresses of one family, both ends included.
///
/// Written `10.0.0.0/24`, `10.0.0.10-10.0.0.50` or the same in IPv6. As in MetalLB, the host bits of a prefix
/// are ignored (`10.0.0.7/24` is `10.0.0.0/24`), and one address is written `10.0.0.7/32`.
///
/// ```
/// use lbcore::addr::AddressRange;
///
/// let range: AddressRange = "10.0.0.10 - 10.0.0.50".parse()?;
/// assert_eq!(range.count().to_string(), "41");
/// assert!(range.contains("10.0.0.50".parse().unwrap()));
/// assert!("10.0.0.50-10.0.0.10".parse::<AddressRange>().is_err());
/// # Ok::<_, lbcore::addr::RangeError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange {
    family: Family,
    first: u128,
    last: u128,
}

impl AddressRange {
    /// The addresses from `first` to `last`, both included.
    ///
    /// # Errors
    /// [`RangeError::MixedFamilies`] and [`RangeError::Inverted`].
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, RangeError> {
        let family = Family::of(first);
        if family != Family::of(last) {
            return Err(RangeError::MixedFamilies { first, last });
        }
        if first > last {
            return Err(RangeError::Inverted { first, last });
        }
        Ok(Self { family, first: to_bits(first), last: to_bits(last) })
    }

    /// The range of one address.
    pub fn single(address: IpAddr) -> Self {
        let bits = to_bits(address);
        Self { family: Family::of(address), first: bits, last: bits }
    }

    /// The family of its addresses.
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Its lowest address.
    pub fn first(&self) -> IpAddr {
        from_bits(self.family, self.first)
    }

    /// Its highest address.
    pub fn last(&self) -> IpAddr {
        from_bits(self.family, self.last)
    }

    /// How many addresses it has.
    pub fn count(&self) -> AddressCount {
        AddressCount::of_span(self.last - self.first)
    }

    /// Whether `address` is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.family == Family::of(address) && (self.first..=self.last).contains(&to_bits(address))
    }

    /// Whether an address lies in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.family == other.family && self.first <= other.last && other.first <= self.last
    }

    /// A block of addresses that no service can have and of which the range has some, with what it is for
    /// (RFC 6890, RFC 4291): this network, loopback, multicast, broadcast, link-local IPv6, mapped IPv4.
    pub fn reserved(&self) -> Option<(IpNet, &'static str)> {
        let v4 = |a, b, c, d, bits| IpNet::new_assert(Ipv4Addr::new(a, b, c, d).into(), bits);
        let v6 = |first, second_last, last, bits| {
            IpNet::new_assert(Ipv6Addr::new(first, 0, 0, 0, 0, second_last, 0, last).into(), bits)
        };
        let blocks = [
            (v4(0, 0, 0, 0, 8), "this network"),
            (v4(127, 0, 0, 0, 8), "loopback"),
            (v4(224, 0, 0, 0, 4), "multicast"),
            (v4(255, 255, 255, 255, 32), "broadcast"),
            (v6(0, 0, 0, 128), "unspecified"),
            (v6(0, 0, 1, 128), "loopback"),
            (v6(0, 0xffff, 0, 96), "mapped IPv4"),
            (v6(0xfe80, 0, 0, 10), "link-local"),
            (v6(0xff00, 0, 0, 8), "multicast"),
        ];
        blocks.into_iter().find(|(block, _)| self.overlaps(&Self::from(*block)))
    }

    /// What is left of the range without `addresses`, from the lowest.
    pub fn without<'a>(&self, addresses: impl IntoIterator<Item = &'a IpAddr>) -> Vec<Self> {
        let mut taken: Vec<u128> =
            addresses.into_iter().filter(|address| self.contains(**address)).map(|it| to_bits(*it)).collect();
        taken.sort_unstable();
        let (mut rest, mut parts) = (Some(self.first), Vec::new());
        for bits in taken {
            let Some(first) = rest.filter(|first| *first <= bits) else { continue };
            if first < bits {
                parts.push(Self { family: self.family, first, last: bits - 1 });
            }
            rest = bits.checked_add(1);
        }
        if let Some(first) = rest.filter(|first| *first <= self.last) {
            parts.push(Self { family: self.family, first, last: self.last });
        }
        parts
    }

    /// The fewest prefixes that cover exactly this range, in order.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        match (self.first(), self.last()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => IpSubnets::from(Ipv4Subnets::new(first, last, 0)),
            (IpAddr::V6(first), IpAddr::V6(last)) => IpSubnets::from(Ipv6Subnets::new(first, last, 0)),
            _ => unreachable!("both ends are of one family by construction"),
        }
    }
}

/// The address as a number; an IPv4 address is below 2³².
pub fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address of `family` with this number. Bits beyond the family's width are ignored.
pub fn from_bits(family: Family, bits: u128) -> IpAddr {
    match family {
        #[expect(clippy::cast_possible_truncation, reason = "an IPv4 address has 32 bits")]
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(bits as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

impl From<IpNet> for AddressRange {
    fn from(prefix: IpNet) -> Self {
        let bits = u32::from(Family::of(prefix.addr()).bits() - prefix.prefix_len());
        let span = 1_u128.checked_shl(bits).map_or(u128::MAX, |count| count - 1);
        let first = to_bits(prefix.network());
        Self { family: Family::of(prefix.addr()), first, last: first | span }
    }
}

impl FromStr for AddressRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let text = text.trim();
        if let Some((first, last)) = text.split_once('-') {
            let address = |text: &str| {
                let text = text.trim();
                text.parse::<IpAddr>().map_err(|_| RangeError::NotAnAddress { text: text.to_owned() })
            };
            return Self::new(address(first)?, address(last)?);
        }
        if text.contains('/') {
            return match text.parse::<IpNet>() {
                Ok(prefix) => Ok(prefix.into()),
                Err(_) => Err(RangeError::NotAPrefix { text: text.to_owned() }),
            };
        }
        match text.parse::<IpAddr>() {
            Ok(address) => Err(RangeError::BareAddress { address }),
            Err(_) => Err(RangeError::NotARange { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut prefixes = self.prefixes();
        match (prefixes.next(), prefixes.next()) {
            (Some(prefix), None) => write!(f, "{prefix}"),
            _ => write!(f, "{}-{}", self.first(), self.last()),
        }
    }
}

impl fmt::Debug for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// How many addresses: never overflows, and is exact up to 2¹²⁸ − 1. A count beyond (only all of IPv6 has one)
/// stays at that value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressCount(u128);

impl AddressCount {
    /// None.
    pub const ZERO: Self = Self(0);

    /// `count` addresses.
    pub const fn new(count: u128) -> Self {
        Self(count)
    }

    const fn of_span(span: u128) -> Self {
        Self(span.saturating_add(1))
    }

    /// The number.
    pub const fn get(self) -> u128 {
        self.0
    }

    /// The sum.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, zero if `other` is more.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl std::iter::Sum for AddressCount {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::ZERO, Self::saturating_add)
    }
}

impl fmt::Display for AddressCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Why a text or a pair of addresses is no [`AddressRange`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RangeError {
    /// The first address is higher than the last.
    #[error("the range {first}-{last} is inverted: write the lower address first, {last}-{first}")]
    Inverted {
        /// The first address given.
        first: IpAddr,
        /// The last address given.
        last: IpAddr,
    },
    /// One end is IPv4, the other IPv6.
    #[error("the range {first}-{last} mixes IPv4 and IPv6: write one range for each family")]
    MixedFamilies {
        /// The first address given.
        first: IpAddr,
        /// The last address given.
        last: IpAddr,
    },
    /// One address without a prefix length.
    #[error("{address} is an address, not a range: write {address}/{}", Family::of(*address).bits())]
    BareAddress {
        /// The address.
        address: IpAddr,
    },
    /// An end of a range is no address.
    #[error("{text:?} is no IP address: write both ends in full, for example 10.0.0.10-10.0.0.50")]
    NotAnAddress {
        /// The text of that end.
        text: String,
    },
    /// The text has a slash but is no prefix.
    #[error("{text:?} is no prefix: write ADDRESS/LENGTH, for example 10.0.0.0/24 or fd00::/120")]
    NotAPrefix {
        /// The text.
        text: String,
    },
    /// The text is neither a prefix nor a range.
    #[error("{text:?} is no address range: write 10.0.0.0/24 or 10.0.0.10-10.0.0.50")]
    NotARange {
        /// The text.
        text: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(text: &str) -> AddressRange {
        text.parse().unwrap()
    }

    #[test]
    fn reads_what_metallb_reads() {
        for (text, first, last, count) in [
            ("10.0.0.0/24", "10.0.0.0", "10.0.0.255", 256),
            ("10.0.0.7/24", "10.0.0.0", "10.0.0.255", 256),
            ("10.0.0.10-10.0.0.50", "10.0.0.10", "10.0.0.50", 41),
            (" 10.0.0.10 - 10.0.1.50 ", "10.0.0.10", "10.0.1.50", 297),
            ("10.0.0.1/32", "10.0.0.1", "10.0.0.1", 1),
            ("fd00::/120", "fd00::", "fd00::ff", 256),
            ("fd00::1-fd00::1:0", "fd00::1", "fd00::1:0", 65536),
            ("0.0.0.0/0", "0.0.0.0", "255.255.255.255", 1 << 32),
        ] {
            let range = range(text);
            assert_eq!(range.first(), first.parse::<IpAddr>().unwrap(), "{text}");
            assert_eq!(range.last(), last.parse::<IpAddr>().unwrap(), "{text}");
            assert_eq!(range.count(), AddressCount::new(count), "{text}");
        }
    }

    #[test]
    fn refuses_with_the_fix() {
        for (text, message) in [
            (
                "10.0.0.9-10.0.0.1",
                "the range 10.0.0.9-10.0.0.1 is inverted: write the lower address first, 10.0.0.1-10.0.0.9",
            ),
            (
                "10.0.0.1-fd00::1",
                "the range 10.0.0.1-fd00::1 mixes IPv4 and IPv6: write one range for each family",
            ),
            ("10.0.0.1", "10.0.0.1 is an address, not a range: write 10.0.0.1/32"),
            ("fd00::1", "fd00::1 is an address, not a range: write fd00::1/128"),
            (
                "10.0.0.0/33",
                "\"10.0.0.0/33\" is no prefix: write ADDRESS/LENGTH, for example 10.0.0.0/24 or fd00::/120",
            ),
            ("10.0.0.1-", "\"\" is no IP address: write both ends in full, for example 10.0.0.10-10.0.0.50"),
            (
                "10.0.0.1-9",
                "\"9\" is no IP address: write both ends in full, for example 10.0.0.10-10.0.0.50",
            ),
            ("ten", "\"ten\" is no address range: write 10.0.0.0/24 or 10.0.0.10-10.0.0.50"),
        ] {
            assert_eq!(text.parse::<AddressRange>().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn all_of_ipv6_does_not_overflow() {
        let all = range("::/0");
        assert_eq!(all.count(), AddressCount::new(u128::MAX));
        assert_eq!([all.count(), all.count()].into_iter().sum::<AddressCount>().get(), u128::MAX);
        assert_eq!(all.prefixes().count(), 1);
    }

    #[test]
    fn overlap_is_of_one_family_and_mutual() {
        assert!(range("10.0.0.0/24").overlaps(&range("10.0.0.255-10.0.1.3")));
        assert!(!range("10.0.0.0/24").overlaps(&range("10.0.1.0/24")));
        assert!(!range("::/0").overlaps(&range("10.0.1.0/24")));
    }

    #[test]
    fn blocks_that_no_service_can_have_are_known() {
        let block = |text: &str| range(text).reserved().map(|(block, _)| block.to_string());
        for fine in [
            "1.0.0.0-126.255.255.255",
            "128.0.0.0-223.255.255.255",
            "::2-::fffe:ffff:ffff",
            "2000::-fe7f:ffff::",
        ] {
            assert_eq!(block(fine), None, "{fine}");
        }
        for (text, expected) in [
            ("0.0.0.0/0", "0.0.0.0/8"),
            ("126.255.255.255-127.0.0.0", "127.0.0.0/8"),
            ("239.1.1.1/32", "224.0.0.0/4"),
            ("255.255.255.255/32", "255.255.255.255/32"),
            ("::/127", "::/128"),
            ("::1/128", "::1/128"),
            ("::ffff:192.0.2.1/128", "::ffff:0.0.0.0/96"),
            ("febf::/16", "fe80::/10"),
            ("ff02::1/128", "ff00::/8"),
        ] {
            assert_eq!(block(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn addresses_are_taken_out() {
        let without = |text: &str, taken: &[&str]| {
            let taken: Vec<IpAddr> = taken.iter().map(|text| text.parse().unwrap()).collect();
            range(text).without(&taken).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(without("10.0.0.0/30", &["10.0.0.2", "10.0.0.9", "::1"]), "10.0.0.0/31 10.0.0.3/32");
        assert_eq!(without("10.0.0.0/30", &["10.0.0.3", "10.0.0.0", "10.0.0.0"]), "10.0.0.1-10.0.0.2");
        assert_eq!(without("10.0.0.7/32", &["10.0.0.7"]), "");
        assert_eq!(without("ffff::/16", &["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]).split(' ').count(), 1);
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(a: u128, b: u128, v4: bool) {
            let family = if v4 { Family::V4 } else { Family::V6 };
            let (a, b) = (from_bits(family, a), from_bits(family, b));
            let written = AddressRange::new(a.min(b), a.max(b)).unwrap();
            prop_assert_eq!(range(&written.to_string()), written);
        }

        #[test]
        fn prefixes_cover_exactly(a: u32, span in 0_u32..5000) {
            let first = IpAddr::V4(Ipv4Addr::from_bits(a));
            let last = IpAddr::V4(Ipv4Addr::from_bits(a.saturating_add(span)));
            let range = AddressRange::new(first, last).unwrap();
            let count: AddressCount = range.prefixes().map(|prefix| AddressRange::from(prefix).count()).sum();
            prop_assert_eq!(count, range.count());
            prop_assert_eq!(range.prefixes().next().unwrap().network(), first);
        }

        #[test]
        fn no_text_panics(text in "[0-9a-f:./ -]{0,40}") {
            let _ = text.parse::<AddressRange>();
        }
    }
}
