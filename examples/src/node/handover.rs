//! Open connections when an address moves from one living node to another.
//!
//! The clients' next segments come to the new owner, whose kernel knows nothing of the connections and would reset them.
//! For a grace period the new owner passes TCP segments that belong to no connection which began here on to the former
//! owner, which goes on serving them and answers its clients directly. By nftables, at the ingress of the interface and
//! on layer 2: the packet is not routed (the address is local here, so it could not be), only its hardware addresses
//! change.
//!
//! What began here is known by its SYN. Two nodes never pass an address to each other: who loses it passes nothing on
//! for it any more.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use announce_l2::machine::{IfIndex, Interface};
use announce_l2::wire::MacAddr;
use lbcore::elect::Member;
use lbcore::id::NodeName;
use lbcore::time::Instant;

use super::forward::nft::{self, NftError};

const TABLE: &str = "lbcore_handover";

/// How many connections are remembered as begun here. Beyond that new ones are cut during the grace period.
const KNOWN: u32 = 262_144;

/// Passes segments on to former owners.
#[derive(Debug)]
pub struct HandOver {
    grace: Duration,
    interfaces: Vec<Interface>,
    passing: BTreeMap<IpAddr, Passing>,
}

/// Where the segments of an address go.
#[derive(Clone, Debug)]
struct Passing {
    to: Member,
    until: Instant,
}

impl HandOver {
    /// Learns whether the kernel lets us, with an empty table. Segments are passed on for `grace` after a move.
    ///
    /// # Errors
    /// `nft` is missing, or is refused.
    pub async fn new(grace: Duration) -> Result<Self, NftError> {
        nft::run(&format!("table netdev {TABLE}\ndelete table netdev {TABLE}\n{}", known_sets())).await?;
        Ok(Self { grace, interfaces: Vec::new(), passing: BTreeMap::new() })
    }

    /// The interfaces that addresses are announced on.
    pub fn set_interfaces(&mut self, interfaces: &[Interface]) {
        interfaces.clone_into(&mut self.interfaces);
    }

    /// For the grace period from `now` on, segments for each address of `moved` that belong to no connection of this
    /// node are passed on to its former owner. To be called before the address is announced. Addresses that are not
    /// `owned` any more are passed on no longer.
    ///
    /// # Errors
    /// The rules are refused; those before stay in force.
    pub async fn apply(
        &mut self,
        now: Instant,
        moved: &BTreeMap<IpAddr, Member>,
        owned: impl Fn(&IpAddr) -> bool,
    ) -> Result<(), NftError> {
        let before = self.passing.len();
        self.passing.retain(|address, _| owned(address));
        if moved.is_empty() && self.passing.len() == before {
            return Ok(());
        }
        self.passing.retain(|_, passing| passing.until > now);
        let until = now + self.grace;
        let moved_to = moved.iter().map(|(address, to)| (*address, Passing { to: to.clone(), until }));
        self.passing.extend(moved_to);
        let mut rules = known_sets();
        rules.push_str(&known_elements(&established(|address| moved.contains_key(&address))));
        for interface in &self.interfaces {
            rules.push_str(&ingress(now, interface, &self.passing));
        }
        nft::run(&rules).await
    }

    /// Removes all rules.
    pub async fn undo(self) {
        if let Err(error) = nft::run(&format!("table netdev {TABLE}\ndelete table netdev {TABLE}\n")).await {
            eprintln!("{error}");
        }
    }
}

/// The hardware address of a member on the segment of our `interface`: that of its interface of the same name, or its
/// only one.
fn hardware(member: &Member, interface: &Interface) -> Option<MacAddr> {
    let same = member.hardware.get(&interface.name);
    let only = member.hardware.values().next().filter(|_| member.hardware.len() == 1);
    same.or(only).map(|octets| MacAddr(*octets))
}

/// Number and nftables type of a family's addresses, and the name of its header.
const FAMILIES: [(u8, &str, &str); 2] = [(4, "ipv4_addr", "ip"), (6, "ipv6_addr", "ip6")];

fn version(address: IpAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}

/// The table with the connections that are known; those that are there stay.
fn known_sets() -> String {
    let mut rules = format!("add table netdev {TABLE}\n");
    for (version, kind, _) in FAMILIES {
        let _ = writeln!(
            rules,
            "add set netdev {TABLE} known{version} {{ type {kind} . inet_service . {kind} . inet_service; \
             size {KNOWN}; flags dynamic,timeout; timeout 1h; }}"
        );
    }
    rules
}

/// The connections, client first, as elements of these sets.
fn known_elements(connections: &[(SocketAddr, SocketAddr)]) -> String {
    let mut rules = String::new();
    for (client, here) in connections {
        let version = version(here.ip());
        let _ = writeln!(
            rules,
            "add element netdev {TABLE} known{version} {{ {} . {} . {} . {} }}",
            client.ip(),
            client.port(),
            here.ip(),
            here.port()
        );
    }
    rules
}

/// The rules of one interface, made anew.
fn ingress(now: Instant, interface: &Interface, passing: &BTreeMap<IpAddr, Passing>) -> String {
    let IfIndex(index) = interface.index;
    let (name, mac) = (&interface.name, interface.mac);
    let mut rules = format!(
        "add chain netdev {TABLE} c{index} {{ type filter hook ingress device \"{name}\" priority 0; policy accept; }}\n\
         flush chain netdev {TABLE} c{index}\n"
    );
    for (version, kind, ip) in FAMILIES {
        let map = format!("owners{version}_{index}");
        let flow = format!("{ip} saddr . tcp sport . {ip} daddr . tcp dport");
        let _ = writeln!(
            rules,
            "add map netdev {TABLE} {map} {{ type {kind} : ether_addr; flags timeout; }}\n\
             flush map netdev {TABLE} {map}\n\
             add rule netdev {TABLE} c{index} {ip} daddr @{map} tcp flags & (fin|syn|rst|ack) == syn \
             update @known{version} {{ {flow} }}\n\
             add rule netdev {TABLE} c{index} {ip} daddr @{map} {flow} != @known{version} \
             ether daddr set {ip} daddr map @{map} ether saddr set {mac} fwd to \"{name}\""
        );
    }
    for (address, Passing { to, until }) in passing {
        let left = until.saturating_since(now).as_millis();
        if let Some(owner) = hardware(to, interface).filter(|_| left > 0) {
            let map = format!("owners{}_{index}", version(*address));
            let _ = writeln!(
                rules,
                "add element netdev {TABLE} {map} {{ {address} timeout {left}ms : {owner} }}"
            );
        }
    }
    rules
}

/// The established connections of this machine to an address that is `wanted`, client first.
fn established(wanted: impl Fn(IpAddr) -> bool) -> Vec<(SocketAddr, SocketAddr)> {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let tables = [read("/proc/thread-self/net/tcp"), read("/proc/thread-self/net/tcp6")];
    let parsed = tables.iter().flat_map(|table| table.lines().skip(1).filter_map(parse_established));
    parsed.filter(|(_, here)| wanted(here.ip())).collect()
}

/// A line of `/proc/net/tcp` or `tcp6`: `sl local_address rem_address st …`.
fn parse_established(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    const ESTABLISHED: &str = "01";
    let mut words = line.split_whitespace().skip(1);
    let (local, remote, state) = (words.next()?, words.next()?, words.next()?);
    if state != ESTABLISHED {
        return None;
    }
    Some((parse_address(remote)?, parse_address(local)?))
}

/// `0100007F:0050`: the address in words of 32 bits, each as the machine has it in memory.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word =
        |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let octets: [u8; 16] = words.as_flattened().try_into().ok()?;
            Ipv6Addr::from(octets).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// The addresses that are newly this node's, each with its former owner if that is alive: what [`HandOver::apply`] is
/// told.
pub fn moved(
    gained: impl IntoIterator<Item = IpAddr>,
    former: &BTreeMap<IpAddr, NodeName>,
    members: &BTreeMap<NodeName, Member>,
) -> BTreeMap<IpAddr, Member> {
    let from = |address: IpAddr| Some((address, members.get(former.get(&address)?)?.clone()));
    gained.into_iter().filter_map(from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_read_from_the_kernels_tables() {
        let line = |local: &str, remote: &str, state: &str| {
            format!(
                "   1: {local} {remote} {state} 00000000:00000000 00:00000000 00000000     0        0 1 1"
            )
        };
        let v4 = line("0A0200C0:0050", "640200C0:9C40", "01");
        let expected = ("192.0.2.100:40000".parse().unwrap(), "192.0.2.10:80".parse().unwrap());
        if cfg!(target_endian = "little") {
            assert_eq!(parse_established(&v4), Some(expected));
            let mapped =
                line("0000000000000000FFFF00000A0200C0:0050", "0000000000000000FFFF0000640200C0:9C40", "01");
            assert_eq!(parse_established(&mapped), Some(expected));
            let v6 = "000000FD000000000000000010000000:01BB";
            assert_eq!(parse_address(v6), Some("[fd00::10]:443".parse().unwrap()));
        }
        assert_eq!(parse_established(&line("0A0200C0:0050", "640200C0:9C40", "0A")), None, "it listens");
        for bad in ["", "0A0200C0", "0A0200C:0050", "0A0200C0:", "0A0200C0:10000", "ä:1"] {
            assert_eq!(parse_address(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn only_a_living_former_owner_is_passed_to() {
        let address = |last| IpAddr::from([192, 0, 2, last]);
        let former = [(address(1), "n1".into()), (address(2), "n2".into())].into();
        let members = [("n1".into(), Member::default()), ("n3".into(), Member::default())].into();
        let gained = moved([address(1), address(2), address(3)], &former, &members);
        assert_eq!(gained.into_keys().collect::<Vec<_>>(), [address(1)]);
    }
}
