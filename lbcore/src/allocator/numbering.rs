//! Numbers the addresses that a pool gives of one family: 0 is given first.

use std::net::IpAddr;

use crate::addr::{AddressCount, AddressRange, Family, from_bits, to_bits};

/// A bijection between the addresses that a pool may give of one family and the numbers from 0 on, in the order
/// in which they are given: range by range as configured, each from its lowest address.
///
/// What is avoided (`avoidBuggyIPs`) has no number. It is skipped by arithmetic, so that a /8 costs as little as
/// a /24, and everything above this layer sees one gapless line of numbers.
#[derive(Clone, Debug)]
pub(super) struct Numbering {
    family: Family,
    avoid_buggy: bool,
    /// In the order of giving, and so by `start`.
    spans: Vec<Span>,
    /// Indices of `spans`, by `first`.
    by_rank: Vec<usize>,
}

/// A range that is not empty, in ranks. The rank of an address counts the addresses of its family below it,
/// without those that are avoided.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: u128,
    last: u128,
    /// The number of `first`.
    start: u128,
}

impl Numbering {
    /// Numbers the addresses of `family` in `ranges`, which do not overlap.
    pub(super) fn new(ranges: &[AddressRange], family: Family, avoid_buggy: bool) -> Self {
        let avoid_buggy = avoid_buggy && family == Family::V4;
        let mut spans: Vec<Span> = Vec::new();
        for range in ranges.iter().filter(|range| range.family() == family) {
            let (first, last) = (to_bits(range.first()), to_bits(range.last()));
            let (first, last) = if avoid_buggy {
                match (rank_of_good(first), rank_of_good(last + 1)) {
                    (first, end) if first < end => (first, end - 1),
                    _ => continue,
                }
            } else {
                (first, last)
            };
            let start = spans.last().map_or(0, |span| span.end() + 1);
            spans.push(Span { first, last, start });
        }
        let mut by_rank: Vec<_> = (0..spans.len()).collect();
        by_rank.sort_unstable_by_key(|&index| spans[index].first);
        Self { family, avoid_buggy, spans, by_rank }
    }

    /// The highest number, `None` if there is no address. (Not the count: all of IPv6 has 2¹²⁸.)
    pub(super) fn last(&self) -> Option<u128> {
        self.spans.last().map(Span::end)
    }

    /// How many addresses there are.
    pub(super) fn count(&self) -> AddressCount {
        self.last().map_or(AddressCount::ZERO, |last| AddressCount::new(last.saturating_add(1)))
    }

    /// The number of `address`, if it may be given.
    pub(super) fn number(&self, address: IpAddr) -> Option<u128> {
        if Family::of(address) != self.family || self.avoid_buggy && is_buggy(address) {
            return None;
        }
        let bits = to_bits(address);
        let rank = if self.avoid_buggy { rank_of_good(bits) } else { bits };
        let after = self.by_rank.partition_point(|&index| self.spans[index].first <= rank);
        let span = self.spans[*self.by_rank.get(after.checked_sub(1)?)?];
        (rank <= span.last).then(|| span.start + (rank - span.first))
    }

    /// The address with this number.
    pub(super) fn address(&self, number: u128) -> Option<IpAddr> {
        let after = self.spans.partition_point(|span| span.start <= number);
        let span = self.spans.get(after.checked_sub(1)?)?;
        if number > span.end() {
            return None;
        }
        let rank = span.first + (number - span.start);
        let bits = if self.avoid_buggy { (rank / 254) << 8 | (rank % 254 + 1) } else { rank };
        Some(from_bits(self.family, bits))
    }
}

impl Span {
    fn end(&self) -> u128 {
        self.start + (self.last - self.first)
    }
}

/// Whether some old equipment drops `address`: IPv4, ending in .0 or .255.
pub(super) fn is_buggy(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if matches!(address.octets()[3], 0 | 255))
}

/// How many IPv4 addresses below `bits` end neither in .0 nor in .255.
fn rank_of_good(bits: u128) -> u128 {
    (bits >> 8) * 254 + (bits & 255).saturating_sub(1).min(254)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges_numbered(ranges: &[&str], family: Family, avoid_buggy: bool) -> Numbering {
        let ranges: Vec<_> = ranges.iter().map(|range| range.parse().unwrap()).collect();
        Numbering::new(&ranges, family, avoid_buggy)
    }

    fn addresses(numbering: &Numbering) -> Vec<String> {
        (0..).map_while(|number| numbering.address(number)).map(|address| address.to_string()).collect()
    }

    #[test]
    fn gives_range_by_range_as_configured() {
        let numbering =
            ranges_numbered(&["10.0.1.0/31", "fd00::/126", "10.0.0.254-10.0.1.255"], Family::V6, false);
        assert_eq!(addresses(&numbering), ["fd00::", "fd00::1", "fd00::2", "fd00::3"]);
        let numbering = ranges_numbered(&["10.0.1.0/31", "10.0.0.254/31"], Family::V4, false);
        assert_eq!(addresses(&numbering), ["10.0.1.0", "10.0.1.1", "10.0.0.254", "10.0.0.255"]);
        assert_eq!(numbering.number("10.0.0.254".parse().unwrap()), Some(2));
        assert_eq!(numbering.number("10.0.1.2".parse().unwrap()), None);
        assert_eq!(numbering.number("10.0.0.253".parse().unwrap()), None);
        assert_eq!(numbering.number("::1".parse().unwrap()), None);
    }

    #[test]
    fn what_is_avoided_has_no_number() {
        let numbering = ranges_numbered(&["10.0.1.254-10.0.2.1", "10.0.3.0/32"], Family::V4, true);
        assert_eq!(addresses(&numbering), ["10.0.1.254", "10.0.2.1"]);
        assert_eq!(numbering.number("10.0.1.255".parse().unwrap()), None);
        assert_eq!(numbering.count(), AddressCount::new(2));
        let none = ranges_numbered(&["10.0.3.0/32", "10.0.3.255/32"], Family::V4, true);
        assert_eq!((none.last(), none.count()), (None, AddressCount::ZERO));
    }

    #[test]
    fn the_largest_pools_have_numbers_too() {
        let all = ranges_numbered(&["::/0"], Family::V6, true);
        assert_eq!(all.last(), Some(u128::MAX));
        assert_eq!(all.count().get(), u128::MAX);
        assert_eq!(all.number("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap()), Some(u128::MAX));
        let halves = ranges_numbered(&["8000::/1", "::/1"], Family::V6, false);
        assert_eq!(halves.last(), Some(u128::MAX));
        assert_eq!(halves.address(u128::MAX), "7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().ok());
        let all_v4 = ranges_numbered(&["0.0.0.0/0"], Family::V4, true);
        assert_eq!(all_v4.count().get(), 254 << 24);
        assert_eq!(all_v4.address((254 << 24) - 1), "255.255.255.254".parse().ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn numbers_and_addresses_are_one_to_one(
            cuts in proptest::collection::btree_set(0_u32..2000, 2..8),
            rotate in 0_usize..4,
            avoid: bool,
        ) {
            let at = |offset: u32| from_bits(Family::V4, 0x0a00_0000 + u128::from(offset));
            let cuts: Vec<_> = cuts.into_iter().collect();
            let mut ranges: Vec<_> =
                cuts.chunks_exact(2).map(|ends| AddressRange::new(at(ends[0]), at(ends[1])).unwrap()).collect();
            let turn = rotate % ranges.len();
            ranges.rotate_left(turn);
            let numbering = Numbering::new(&ranges, Family::V4, avoid);
            let mut naive = Vec::new();
            for range in &ranges {
                let bits = to_bits(range.first())..=to_bits(range.last());
                naive.extend(bits.map(|bits| from_bits(Family::V4, bits)).filter(|a| !(avoid && is_buggy(*a))));
            }
            prop_assert_eq!(numbering.count().get(), naive.len() as u128);
            for (number, address) in naive.iter().enumerate() {
                prop_assert_eq!(numbering.address(number as u128), Some(*address));
                prop_assert_eq!(numbering.number(*address), Some(number as u128));
            }
            prop_assert_eq!(numbering.address(naive.len() as u128), None);
        }
    }
}
