//! Who claims an address on the wire. Pure functions over frames that a tap saw; nothing here asks the nodes.
//!
//! The frames are decoded here once more on purpose: a judge does not borrow the eyes of the one that it judges.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lbcore::time::{Duration, Instant};

/// A frame that says "this address is at my MAC address".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// When it entered the segment.
    pub at: Instant,
    /// The address claimed.
    pub address: IpAddr,
    /// By the host at this cable.
    pub node: String,
    /// Whether it tells everybody unasked, as a new owner does; an answer to one who asked does not.
    pub announcement: bool,
}

/// Reads the address that an Ethernet frame claims, and whether it does so unasked: ARP of either operation by its
/// sender protocol address (RFC 826; an RFC 5227 probe has none there), a Neighbour Advertisement by its target,
/// a Neighbour Solicitation by its source (RFC 4861 §4.3, §4.4).
pub fn claimed(frame: &[u8]) -> Option<(IpAddr, bool)> {
    let broadcast = frame.first()? & 1 == 1;
    let array = |at: usize| -> Option<[u8; 4]> { frame.get(at..at + 4)?.try_into().ok() };
    let long = |at: usize| -> Option<[u8; 16]> { frame.get(at..at + 16)?.try_into().ok() };
    match frame.get(12..14)? {
        // Ethernet and IPv4, lengths 6 and 4.
        [0x08, 0x06] if frame.get(14..20)? == [0, 1, 8, 0, 6, 4] => {
            let (sender, target) = (Ipv4Addr::from(array(28)?), Ipv4Addr::from(array(38)?));
            (!sender.is_unspecified()).then_some((sender.into(), broadcast && sender == target))
        }
        [0x86, 0xdd] if *frame.get(20)? == 58 => match *frame.get(54)? {
            135 => {
                let source = Ipv6Addr::from(long(22)?);
                (!source.is_unspecified()).then_some((source.into(), false))
            }
            136 => {
                let solicited = frame.get(58)? & 0x40 != 0;
                Some((Ipv6Addr::from(long(62)?).into(), broadcast && !solicited))
            }
            _ => None,
        },
        _ => None,
    }
}

/// The time in which one node alone claimed an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenure {
    /// The address.
    pub address: IpAddr,
    /// The node.
    pub node: String,
    /// Its first claim.
    pub from: Instant,
    /// The first claim of the next one; `None` if there was no other.
    pub to: Option<Instant>,
}

/// Who owned each address when, by address and time. `claims` are in the order of time.
pub fn tenures<'a>(claims: impl IntoIterator<Item = &'a Claim>) -> Vec<Tenure> {
    let mut by_address: BTreeMap<IpAddr, Vec<Tenure>> = BTreeMap::new();
    for claim in claims {
        let tenures = by_address.entry(claim.address).or_default();
        match tenures.last_mut() {
            Some(last) if last.node == claim.node => continue,
            Some(last) => last.to = Some(claim.at),
            None => {}
        }
        tenures.push(Tenure { address: claim.address, node: claim.node.clone(), from: claim.at, to: None });
    }
    by_address.into_values().flatten().collect()
}

/// The last one who claimed `address`.
pub fn owner(claims: &[Claim], address: IpAddr) -> Option<&str> {
    claims.iter().rev().find(|claim| claim.address == address).map(|claim| claim.node.as_str())
}

/// How long `address` had two owners within a stretch of time in which it should change hands at most once each
/// way, such as from one fault to the next: from the first claim of a new owner to the last claim that the former
/// one makes without having become owner again.
///
/// A former owner has become owner again when it announces the address and the other one says nothing about it
/// any more in that stretch; an announcement may wait its turn where there are many, and an answer come before it. When
/// the two take turns, they are two owners. `before` is the owner at its beginning.
pub fn two_owners(claims: &[Claim], address: IpAddr, before: Option<&str>) -> Duration {
    let claims: Vec<&Claim> = claims.iter().filter(|claim| claim.address == address).collect();
    // The last run of claims by one node is a takeover if an announcement is among them.
    let last_run = claims.iter().rposition(|claim| claims.last().is_some_and(|last| last.node != claim.node));
    let last_run = last_run.map_or(0, |index| index + 1);
    let announced = claims[last_run..].iter().any(|claim| claim.announcement);
    let takeover = if announced { last_run } else { claims.len() };

    // By former owner: the first claim of the one that came after it.
    let mut succeeded_at: BTreeMap<&str, Instant> = BTreeMap::new();
    let mut current = before;
    let mut seen: Vec<&str> = before.into_iter().collect();
    let mut longest = Duration::ZERO;
    for (index, claim) in claims.iter().enumerate() {
        let node = claim.node.as_str();
        let again = succeeded_at.get(node).copied();
        match again {
            Some(_) if index >= takeover => {}
            Some(since) => longest = longest.max(claim.at.saturating_since(since)),
            None if !seen.contains(&node) => {
                if let Some(former) = current {
                    succeeded_at.entry(former).or_insert(claim.at);
                }
                seen.push(node);
                current = Some(node);
            }
            None => {}
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 201));

    /// `"1!@0 2!@5 1@7"`: n1 announces at 0 ms, n2 announces at 5 ms, n1 answers at 7 ms.
    fn claims(script: &str) -> Vec<Claim> {
        let claim = |word: &str| {
            let (who, at) = word.split_once('@').unwrap();
            Claim {
                at: Instant::from_millis(at.parse().unwrap()),
                address: ADDRESS,
                node: format!("n{}", who.trim_end_matches('!')),
                announcement: who.ends_with('!'),
            }
        };
        script.split_whitespace().map(claim).collect()
    }

    #[test]
    fn two_owners_at_once() {
        for (name, before, script, millis) in [
            ("nobody claims", Some("n1"), "", 0),
            ("one owner", None, "1!@0 1@5 1!@9", 0),
            ("a clean takeover", Some("n1"), "1@0 2!@5 2!@6 2@9", 0),
            ("the former owner answers once more", Some("n1"), "2!@5 1@7 2@9", 2),
            ("its very last word counts", Some("n1"), "2!@5 1@7 1@30", 25),
            ("even when it is the last word of all", Some("n1"), "2!@5 2@6 1@8", 3),
            ("it becomes owner again", Some("n1"), "2!@5 2@6 1!@50 1@60", 0),
            ("it announces, but the other does not give way", Some("n1"), "2!@5 1!@50 2@60", 45),
            ("a duel", Some("n1"), "2!@5 1!@6 2!@7 1!@8 2!@9", 3),
            ("a duel that the former owner wins", Some("n1"), "2!@5 1!@6 2!@7 1!@9 1@12", 1),
            ("three nodes, the second former owner speaks late", Some("n1"), "2!@5 3!@20 2@26", 6),
            ("three nodes, the first one speaks", Some("n1"), "2!@5 3!@20 1@26 3@27", 21),
            ("the owner before is unknown", None, "1@0 2!@5 1@9 2@10", 4),
            ("an answer before the announcement of the takeover back", Some("n1"), "2!@5 1@8 1!@9", 0),
            ("an answer before it, while the other one still speaks", Some("n1"), "2!@5 1@8 2@9 1!@10", 3),
        ] {
            let found = two_owners(&claims(script), ADDRESS, before);
            assert_eq!(found, Duration::from_millis(millis), "{name}");
        }
    }

    #[test]
    fn claims_of_other_addresses_do_not_count() {
        let mut claims = claims("2!@5 1@9 2@10");
        claims[1].address = IpAddr::from([192, 0, 2, 200]);
        assert_eq!(two_owners(&claims, ADDRESS, Some("n1")), Duration::ZERO);
        assert_eq!(owner(&claims, claims[1].address), Some("n1"));
        assert_eq!(owner(&claims, ADDRESS), Some("n2"));
        assert_eq!(owner(&claims, IpAddr::from([192, 0, 2, 1])), None);
    }

    #[test]
    fn tenures_follow_each_other() {
        let mut claims = claims("1!@0 1@3 2!@5 2@6 1!@9");
        claims[0].address = IpAddr::from([192, 0, 2, 200]);
        let tenure = |address: IpAddr, node: &str, from, to: Option<u64>| Tenure {
            address,
            node: node.to_owned(),
            from: Instant::from_millis(from),
            to: to.map(Instant::from_millis),
        };
        let expected = [
            tenure(claims[0].address, "n1", 0, None),
            tenure(ADDRESS, "n1", 3, Some(5)),
            tenure(ADDRESS, "n2", 5, Some(9)),
            tenure(ADDRESS, "n1", 9, None),
        ];
        assert_eq!(tenures(&claims), expected);
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    #[test]
    fn frames_that_claim_an_address() {
        let v6 = IpAddr::V6("2001:db8::201".parse().unwrap());
        let ip6 = |source: &str, icmp: &str| {
            format!(
                "3333ff000201 020000000001 86dd 60000000 0020 3a ff {source} ff0200000000000000000001ff000201 {icmp}"
            )
        };
        let target = "20010db8000000000000000000000201";
        let unspecified = "00000000000000000000000000000000";
        for (name, hex, expected) in [
            (
                "an ARP reply to one who asked",
                "020000000009 020000000001 0806 0001 0800 06 04 0002 020000000001 c00002c9 020000000009 c0000264".to_owned(),
                Some((ADDRESS, false)),
            ),
            (
                "an announcement as a request, RFC 5227 §3",
                "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 c00002c9 000000000000 c00002c9".to_owned(),
                Some((ADDRESS, true)),
            ),
            (
                "an announcement as a reply",
                "ffffffffffff 020000000001 0806 0001 0800 06 04 0002 020000000001 c00002c9 ffffffffffff c00002c9".to_owned(),
                Some((ADDRESS, true)),
            ),
            (
                "a question asked from the address",
                "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 c00002c9 000000000000 c0000201".to_owned(),
                Some((ADDRESS, false)),
            ),
            (
                "a probe claims nothing, RFC 5227 §2.1.1",
                "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 00000000 000000000000 c00002c9".to_owned(),
                None,
            ),
            (
                "ARP of another hardware",
                "ffffffffffff 020000000001 0806 0006 0800 06 04 0002 020000000001 c00002c9 ffffffffffff c00002c9".to_owned(),
                None,
            ),
            ("a cut frame", "ffffffffffff 020000000001 0806 0001 0800 06 04 0002 020000000001 c000".to_owned(), None),
            ("an unsolicited advertisement", ip6(target, &format!("88000000 20000000 {target}")), Some((v6, true))),
            ("a solicited one", ip6(target, &format!("88000000 60000000 {target}")), Some((v6, false))),
            ("a solicitation from the address", ip6(target, &format!("87000000 00000000 {unspecified}")), Some((v6, false))),
            ("a DAD probe claims nothing", ip6(unspecified, &format!("87000000 00000000 {target}")), None),
            ("another ICMPv6 message", ip6(target, "80000000 00000000"), None),
            ("nothing", String::new(), None),
        ] {
            assert_eq!(claimed(&bytes(&hex)), expected, "{name}");
        }
    }
}
