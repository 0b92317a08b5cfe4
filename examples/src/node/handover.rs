//! Open connections when an address moves from one living node to another.
//!
//! The clients' next segments come to the new owner, whose kernel knows nothing of the connections and would reset them.
//! For a grace period the new owner passes TCP segments that belong to no connection which began here on to the former
//! owner, which goes on serving them and answers its clients directly. By nftables, at the ingress of the interface and
//! on layer 2: the packet is not routed (the address is local here, so it could not be), only its hardware addresses
//! change.
//!
//! What began here is known by its SYN, and by the number of the move: after the address has moved away and back, the same
//! port of the same client may be that of a connection that began elsewhere.
//!
//! Who loses the address goes on passing: the clients' segments come here until the next owner has announced itself, and
//! from then on by way of that one, so that an address may move twice within the grace period. No segment goes round: the
//! owner passes on what comes from clients, never what a node has passed on, and a former owner, of what nodes pass on, only
//! that of the one to which it lost the address. So each step leads to an earlier owner.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use announce_l2::machine::{IfIndex, Interface};
use announce_l2::wire::MacAddr;
use lbcore::elect::Member;
use lbcore::id::NodeName;
use lbcore::time::Instant;

use super::forward::conntrack::State;
use super::forward::nft::{self, NftError};

const TABLE: &str = "lbcore_handover";

/// How many connections are remembered as begun here. Beyond that new ones are cut during the grace period.
const KNOWN: u32 = 262_144;

/// Passes segments on to former owners.
#[derive(Debug)]
pub struct HandOver {
    grace: Duration,
    interfaces: Vec<Interface>,
    members: Vec<Member>,
    passing: BTreeMap<IpAddr, Passing>,
    /// The number of the last move.
    moves: u32,
}

/// Who answers for an address, as this node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This node.
    Us,
    /// Another one.
    Other(Member),
    /// None, for the moment.
    Nobody,
}

/// Where the segments of an address go.
#[derive(Clone, Debug)]
struct Passing {
    to: Member,
    until: Instant,
    /// The number of the move that this began with.
    number: u32,
    holder: Holder,
}

impl HandOver {
    /// Learns whether the kernel lets us, with an empty table. Segments are passed on for `grace` after a move.
    ///
    /// # Errors
    /// `nft` is missing, or is refused.
    pub async fn new(grace: Duration) -> Result<Self, NftError> {
        let known = known_sets(grace);
        nft::run(&(without_table() + &known)).await?;
        let (interfaces, members) = (Vec::new(), Vec::new());
        Ok(Self { grace, interfaces, members, passing: BTreeMap::new(), moves: 0 })
    }

    /// The interfaces that addresses are announced on.
    pub fn set_interfaces(&mut self, interfaces: &[Interface]) {
        interfaces.clone_into(&mut self.interfaces);
    }

    /// For the grace period from `now` on, segments for each address of `moved` that belong to no connection of this
    /// node are passed on to its former owner. To be called before the address is announced, and whenever `holder` of an
    /// address changes. `members` are those who may pass segments on to us.
    ///
    /// # Errors
    /// The rules are refused; those before stay in force. Or the kernel does not tell of the connections that it
    /// redirects; the rules are in force without them.
    pub async fn apply(
        &mut self,
        now: Instant,
        moved: &BTreeMap<IpAddr, Member>,
        members: &BTreeMap<NodeName, Member>,
        holder: impl Fn(IpAddr) -> Holder,
    ) -> Result<(), NftError> {
        self.passing.retain(|_, passing| passing.until > now);
        let mut changed = !moved.is_empty();
        for (address, passing) in &mut self.passing {
            let now = holder(*address);
            changed |= passing.holder != now;
            passing.holder = now;
        }
        changed |= !self.passing.is_empty() && !self.members.iter().eq(members.values());
        if !changed {
            return Ok(());
        }
        self.members = members.values().cloned().collect();
        let until = now + self.grace;
        self.moves = self.moves.wrapping_add(1);
        let number = self.moves;
        if !moved.is_empty() {
            // Clients that did not hear that the address was another's in between go on beginning connections here: who
            // begins one while the kernel is asked for those that are open is to be known as well.
            let watched: BTreeSet<IpAddr> = moved.keys().copied().collect();
            nft::run(&self.rules(now, Some((number, &watched)))).await?;
        }
        self.passing.extend(moved.iter().map(|(address, to)| {
            (*address, Passing { to: to.clone(), until, number, holder: holder(*address) })
        }));
        let mut connections = Vec::new();
        let mut untold = Ok(());
        if !moved.is_empty() {
            connections = sockets();
            match redirected() {
                Ok(redirected) => connections.extend(redirected),
                Err(error) => untold = Err(NftError::Untold(error)),
            }
        }
        connections.retain(|(_, here)| moved.contains_key(&here.ip()));
        nft::run(&(self.rules(now, None) + &known_elements(number, &connections))).await?;
        untold
    }

    /// The table as it is to be. Connections to those of `watched` that begin are known as of the move with this number.
    fn rules(&self, now: Instant, watched: Option<(u32, &BTreeSet<IpAddr>)>) -> String {
        let mut rules = known_sets(self.grace);
        for interface in &self.interfaces {
            rules.push_str(&ingress(now, interface, &self.members, &self.passing));
            if let Some((number, addresses)) = watched {
                rules.push_str(&watch(interface, number, addresses));
            }
        }
        rules
    }

    /// Removes all rules.
    pub async fn undo(self) {
        if let Err(error) = nft::run(&without_table()).await {
            eprintln!("{error}");
        }
    }
}

fn without_table() -> String {
    format!("table netdev {TABLE}\ndelete table netdev {TABLE}\n")
}

/// Removes what a process that was killed left behind. Where `nft` cannot, there is nothing.
pub(super) async fn remove_leftover() {
    let _ = nft::run(&without_table()).await;
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

/// The table with the connections that are known; those that are there stay. They need not be known for longer than
/// segments are passed on.
fn known_sets(grace: Duration) -> String {
    let known_for = grace.as_secs() + 1;
    let mut rules = format!("add table netdev {TABLE}\n");
    for (version, kind, _) in FAMILIES {
        let _ = writeln!(
            rules,
            "add set netdev {TABLE} known{version} {{ type {kind} . inet_service . {kind} . inet_service . mark; \
             size {KNOWN}; flags dynamic,timeout; timeout {known_for}s; }}"
        );
    }
    rules
}

/// The connections, client first, as elements of these sets.
fn known_elements(number: u32, connections: &[(SocketAddr, SocketAddr)]) -> String {
    let mut rules = String::new();
    for (client, here) in connections {
        let version = version(here.ip());
        let _ = writeln!(
            rules,
            "add element netdev {TABLE} known{version} {{ {} . {} . {} . {} . {number} }}",
            client.ip(),
            client.port(),
            here.ip(),
            here.port()
        );
    }
    rules
}

/// The rules of one interface, made anew.
fn ingress(
    now: Instant,
    interface: &Interface,
    members: &[Member],
    passing: &BTreeMap<IpAddr, Passing>,
) -> String {
    let IfIndex(index) = interface.index;
    let (name, mac) = (&interface.name, interface.mac);
    let peers = format!("peers_{index}");
    let mut rules = format!(
        "add chain netdev {TABLE} c{index} {{ type filter hook ingress device \"{name}\" priority 0; policy accept; }}\n\
         flush chain netdev {TABLE} c{index}\n\
         add set netdev {TABLE} {peers} {{ type ether_addr; }}\n\
         flush set netdev {TABLE} {peers}\n"
    );
    // One that has just left may still pass segments on.
    let known = members.iter().chain(passing.values().map(|passing| &passing.to));
    for peer in known.filter_map(|member| hardware(member, interface)).filter(|peer| *peer != mac) {
        let _ = writeln!(rules, "add element netdev {TABLE} {peers} {{ {peer} }}");
    }
    for (version, kind, ip) in FAMILIES {
        let (map, moves) = (format!("owners{version}_{index}"), format!("moves{version}_{index}"));
        let next = format!("next{version}_{index}");
        let flow = format!("{ip} saddr . tcp sport . {ip} daddr . tcp dport . meta mark");
        let pass = format!("ether daddr set {ip} daddr map @{map} ether saddr set {mac} fwd to \"{name}\"");
        let _ = writeln!(
            rules,
            "add map netdev {TABLE} {map} {{ type {kind} : ether_addr; flags timeout; }}\n\
             add map netdev {TABLE} {moves} {{ type {kind} : mark; flags timeout; }}\n\
             add set netdev {TABLE} {next} {{ type {kind} . ether_addr; flags timeout; }}\n\
             flush map netdev {TABLE} {map}\n\
             flush map netdev {TABLE} {moves}\n\
             flush set netdev {TABLE} {next}\n\
             add rule netdev {TABLE} c{index} meta mark set {ip} daddr map @{moves}\n\
             add rule netdev {TABLE} c{index} {ip} daddr @{map} tcp flags & (fin|syn|rst|ack) == syn \
             update @known{version} {{ {flow} }}\n\
             add rule netdev {TABLE} c{index} {ip} daddr @{map} ether saddr != @{peers} {flow} != @known{version} {pass}\n\
             add rule netdev {TABLE} c{index} {ip} daddr . ether saddr @{next} {flow} != @known{version} {pass}\n\
             add rule netdev {TABLE} c{index} {ip} daddr @{moves} meta mark set 0"
        );
    }
    for (address, Passing { to, until, number, holder }) in passing {
        let left = until.saturating_since(now).as_millis();
        let version = version(*address);
        if let Some(owner) = hardware(to, interface).filter(|_| left > 0) {
            let _ = writeln!(
                rules,
                "add element netdev {TABLE} moves{version}_{index} {{ {address} timeout {left}ms : {number} }}\n\
                 add element netdev {TABLE} owners{version}_{index} {{ {address} timeout {left}ms : {owner} }}"
            );
            if let Holder::Other(next) = holder
                && let Some(next) = hardware(next, interface)
                && next != owner
            {
                let _ = writeln!(
                    rules,
                    "add element netdev {TABLE} next{version}_{index} {{ {address} . {next} timeout {left}ms }}"
                );
            }
        }
    }
    rules
}

/// After those of [`ingress`], the rules by which connections to `addresses` are known that begin.
fn watch(interface: &Interface, number: u32, addresses: &BTreeSet<IpAddr>) -> String {
    let IfIndex(index) = interface.index;
    let mut rules = String::new();
    for (version, kind, ip) in FAMILIES {
        let set = format!("begun{version}_{index}");
        let _ = writeln!(
            rules,
            "add set netdev {TABLE} {set} {{ type {kind}; }}\n\
             flush set netdev {TABLE} {set}\n\
             add rule netdev {TABLE} c{index} {ip} daddr @{set} tcp flags & (fin|syn|rst|ack) == syn meta mark set {number} \
             update @known{version} {{ {ip} saddr . tcp sport . {ip} daddr . tcp dport . meta mark }} meta mark set 0"
        );
    }
    for address in addresses {
        let _ =
            writeln!(rules, "add element netdev {TABLE} begun{}_{index} {{ {address} }}", version(*address));
    }
    rules
}

/// The connections that end at this machine, client first.
fn sockets() -> Vec<(SocketAddr, SocketAddr)> {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let tables = [read("/proc/thread-self/net/tcp"), read("/proc/thread-self/net/tcp6")];
    tables.iter().flat_map(|table| table.lines().skip(1).filter_map(parse_open)).collect()
}

/// Those that this machine's kernel redirects to others, client first: no socket knows them.
fn redirected() -> io::Result<Vec<(SocketAddr, SocketAddr)>> {
    let connections = nft::redirected()?.into_iter();
    let open = connections.filter(|connection| connection.state != State::Apart);
    Ok(open.map(|connection| (connection.client, connection.to)).collect())
}

/// A line of `/proc/net/tcp` or `tcp6`: `sl local_address rem_address st …`.
fn parse_open(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    // Those that have ended may have begun anew elsewhere: SYN-SENT (02), TIME-WAIT (06), CLOSE (07), LISTEN (0A).
    const NONE: [&str; 4] = ["02", "06", "07", "0A"];
    let mut words = line.split_whitespace().skip(1);
    let (local, remote, state) = (words.next()?, words.next()?, words.next()?);
    if NONE.contains(&state) {
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
            assert_eq!(parse_open(&v4), Some(expected));
            let mapped =
                line("0000000000000000FFFF00000A0200C0:0050", "0000000000000000FFFF0000640200C0:9C40", "01");
            assert_eq!(parse_open(&mapped), Some(expected));
            let v6 = "000000FD000000000000000010000000:01BB";
            assert_eq!(parse_address(v6), Some("[fd00::10]:443".parse().unwrap()));
        }
        assert_eq!(parse_open(&line("0A0200C0:0050", "640200C0:9C40", "0A")), None, "it listens");
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
