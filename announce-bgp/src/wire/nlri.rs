//! Prefixes, as UPDATE carries them (RFC 4271 §4.3).

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use lbcore::addr::{Family, from_bits, to_bits};

use super::reader::Reader;

/// Prefixes of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prefixes {
    /// IPv4.
    V4(Vec<Ipv4Net>),
    /// IPv6.
    V6(Vec<Ipv6Net>),
}

impl Prefixes {
    /// Their family.
    pub fn family(&self) -> Family {
        match self {
            Self::V4(_) => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        match self {
            Self::V4(prefixes) => prefixes.len(),
            Self::V6(prefixes) => prefixes.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The prefixes, in order.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> {
        let (v4, v6) = match self {
            Self::V4(prefixes) => (prefixes.as_slice(), [].as_slice()),
            Self::V6(prefixes) => ([].as_slice(), prefixes.as_slice()),
        };
        v4.iter().copied().map(IpNet::V4).chain(v6.iter().copied().map(IpNet::V6))
    }

    /// Reads prefixes of `family` to the end; `None` if a length is out of bounds or the last one is cut short.
    /// Bits beyond the length are irrelevant (RFC 4271 §4.3) and cleared.
    pub(super) fn decode(family: Family, bytes: &[u8]) -> Option<Self> {
        Some(match family {
            Family::V4 => Self::V4(decode(family, bytes, |prefix| match prefix {
                IpNet::V4(prefix) => Some(prefix),
                IpNet::V6(_) => None,
            })?),
            Family::V6 => Self::V6(decode(family, bytes, |prefix| match prefix {
                IpNet::V6(prefix) => Some(prefix),
                IpNet::V4(_) => None,
            })?),
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|prefix| put_prefix(out, prefix));
    }
}

fn decode<T>(family: Family, bytes: &[u8], typed: impl Fn(IpNet) -> Option<T>) -> Option<Vec<T>> {
    let mut reader = Reader::new(bytes);
    let mut prefixes = Vec::new();
    while !reader.is_empty() {
        let length = reader.u8().filter(|length| *length <= family.bits())?;
        let bytes = reader.take(usize::from(length.div_ceil(8)))?;
        let mut bits = bytes.iter().fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
        // From the low end of what was read to the high end of an address; a length of zero reads nothing.
        bits = bits.checked_shl(u32::from(family.bits()) - u32::from(length.div_ceil(8)) * 8).unwrap_or(0);
        let prefix = IpNet::new(from_bits(family, bits), length).ok()?;
        prefixes.push(typed(prefix.trunc())?);
    }
    Some(prefixes)
}

/// How many octets [`put_prefix`] writes.
pub(super) fn prefix_length(prefix: IpNet) -> usize {
    1 + usize::from(prefix.prefix_len().div_ceil(8))
}

/// Appends one prefix.
pub(super) fn put_prefix(out: &mut Vec<u8>, prefix: IpNet) {
    let length = prefix.prefix_len();
    let bytes = usize::from(length.div_ceil(8));
    out.push(length);
    let bits = to_bits(prefix.network());
    match prefix {
        IpNet::V4(_) => out.extend((bits as u32).to_be_bytes().iter().take(bytes)),
        IpNet::V6(_) => out.extend(bits.to_be_bytes().iter().take(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_util::hex;
    use super::*;

    #[test]
    fn prefixes_by_the_book() {
        for (family, bytes, expected) in [
            (Family::V4, "", Some("")),
            (Family::V4, "00", Some("0.0.0.0/0")),
            (Family::V4, "20 c0000201 18 c00002", Some("192.0.2.1/32 192.0.2.0/24")),
            (Family::V4, "09 0aff", Some("10.128.0.0/9")),
            (Family::V4, "01 80", Some("128.0.0.0/1")),
            (Family::V4, "21 c000020100", None),
            (Family::V4, "18 c000", None),
            (Family::V4, "20", None),
            (Family::V6, "00", Some("::/0")),
            (Family::V6, "80 20010db8000000000000000000000001", Some("2001:db8::1/128")),
            (Family::V6, "21 20010db8ff", Some("2001:db8:8000::/33")),
            (Family::V6, "81 20010db800000000000000000000000100", None),
            (Family::V6, "40 20010db8000000", None),
            (Family::V6, "ff", None),
        ] {
            let decoded = Prefixes::decode(family, &hex(bytes));
            let text = decoded.as_ref().map(|prefixes| {
                prefixes.iter().map(|prefix| prefix.to_string()).collect::<Vec<_>>().join(" ")
            });
            assert_eq!(text.as_deref(), expected, "{bytes}");
            if let Some(decoded) = decoded {
                let mut again = Vec::new();
                decoded.encode(&mut again);
                assert_eq!(Prefixes::decode(family, &again), Some(decoded.clone()), "{bytes}");
                assert_eq!(decoded.iter().map(prefix_length).sum::<usize>(), again.len());
            }
        }
    }
}
