//! The command line of the node.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{ArgPredicate, PathBufValueParser, TypedValueParser};
use clap::{Args, ValueEnum};
use elect_gossip::Seed;
use elect_lease::etcd::Endpoint;
use lbcore::time::parse_duration;

use super::readiness::{Check, Pace};
use crate::files::STDIN;

/// What a node is told on its command line.
#[derive(Args, Clone, Debug)]
pub struct NodeArgs {
    /// This node's name, as its Node document and its endpoints have it
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    pub node: String,

    /// YAML of MetalLB, Kubernetes and the Gateway API: files or folders; read again when they change
    #[arg(long, value_name = "PATH", required = true, num_args = 1.., value_parser = manifest_path())]
    pub manifests: Vec<PathBuf>,

    /// How to tell the network
    #[arg(long, value_enum, default_value = "l2")]
    pub announce: Announce,

    /// Interfaces to answer on: a name, or a pattern with `*`; all suitable ones if none is given
    #[arg(long = "interface", value_name = "PATTERN")]
    pub interfaces: Vec<String>,

    /// How fast to announce: `guarded` for switches that shut a port which sends more than some ARP a second
    #[arg(long, value_enum, default_value = "normal")]
    pub pace: AnnouncePace,

    /// Take an address that nobody of the cluster had before at once, without asking whether a stranger has it
    #[arg(long)]
    pub no_probing: bool,

    /// How owners are elected: `gossip` among the nodes themselves, within a quarter of a second, with an owner on each side of a
    /// partition; `lease-etcd` by leases in an etcd, within seconds, with never more than one: what `--etcd` alone means
    #[arg(
        long,
        value_enum,
        default_value = "gossip",
        default_value_if("etcd", ArgPredicate::IsPresent, "lease-etcd")
    )]
    pub elector: ElectorMode,

    /// A member of the etcd cluster; may be given several times
    #[arg(
        long = "etcd",
        value_name = "http://HOST:PORT",
        required_if_eq("elector", "lease-etcd"),
        conflicts_with = "listen_gossip"
    )]
    pub etcd: Vec<Endpoint>,

    /// What the keys in etcd begin with: nodes with the same prefix elect together
    #[arg(long, value_name = "PREFIX", default_value = "lbcore", requires = "etcd")]
    pub etcd_prefix: String,

    /// How long a node's lease in etcd holds; a dead node's addresses have no owner for so long
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = duration, requires = "etcd")]
    pub lease: Duration,

    /// Elect owners with the other nodes, which are heard at this address; without it the node is alone
    #[arg(long, value_name = "ADDRESS:PORT", requires = "key_file")]
    pub listen_gossip: Option<SocketAddr>,

    /// Where other nodes are found: an address, a name, or a multicast group; may be given several times
    #[arg(long = "seed", value_name = "HOST:PORT", requires = "listen_gossip")]
    pub seeds: Vec<Seed>,

    /// A file with the cluster's key, the same on every node: `openssl rand -hex 32` makes one. Further lines: keys that
    /// are accepted too. SIGHUP reads it again
    #[arg(long, value_name = "FILE", requires = "listen_gossip")]
    pub key_file: Option<PathBuf>,

    /// Between two heartbeats; an owner is replaced after `--misses` of them
    #[arg(long, value_name = "DURATION", default_value = "50ms", value_parser = duration)]
    pub heartbeat: Duration,

    /// Heartbeats to miss before an owner is replaced
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u32).range(3..=20))]
    pub misses: u32,

    /// The BGP identifier; by default the node's own IPv4 address
    #[arg(long, value_name = "ADDRESS")]
    pub router_id: Option<std::net::Ipv4Addr>,

    /// Who makes addresses end here: this process on `lo`, or another (kube-proxy, a CNI)
    #[arg(long, value_enum, default_value = "lo")]
    pub delivery: DeliveryMode,

    /// Who carries the traffic of plain services to their endpoints
    #[arg(long, value_enum, default_value = "auto")]
    pub forward: ForwardMode,

    /// Only a node that passes is eligible: tcp://HOST:PORT, http://HOST:PORT/PATH or exec:PROGRAM ARGUMENT…
    #[arg(long = "check", value_name = "CHECK")]
    pub checks: Vec<Check>,

    /// Between two tries of a check, and how long one may take
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub check_every: Duration,

    /// Failures in a row that make a node ineligible
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub fall: u32,

    /// Successes in a row that make it eligible again
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub rise: u32,

    /// Whether connections that are open when an address moves here from a living node stay with that one, by nftables,
    /// for as long as `--grace`
    #[arg(long, value_enum, default_value = "auto")]
    pub hand_over: HandOverMode,

    /// How long connections may go on when the node stops or an address moves
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub grace: Duration,

    /// Tell what happens as JSON lines
    #[arg(long)]
    pub json: bool,
}

impl NodeArgs {
    /// Whether it puts addresses or rules on this machine that another node would take for its own.
    pub fn changes_the_machine(&self) -> bool {
        self.delivery == DeliveryMode::Lo
            || matches!(self.forward, ForwardMode::Auto | ForwardMode::Nft)
            || self.hand_over == HandOverMode::Auto
    }

    /// Whether it elects owners with other nodes.
    pub fn elects(&self) -> bool {
        self.elector == ElectorMode::LeaseEtcd || self.listen_gossip.is_some()
    }

    /// How often and how patiently checks are made.
    pub fn check_pace(&self) -> Pace {
        Pace { every: self.check_every, fall: self.fall, rise: self.rise }
    }
}

/// How owners are elected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ElectorMode {
    /// Among the nodes themselves.
    Gossip,
    /// By leases in an etcd.
    LeaseEtcd,
}

/// The announcers to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Announce {
    /// ARP and NDP on the segment.
    L2,
    /// BGP to the routers.
    Bgp,
    /// Both.
    Both,
}

impl Announce {
    /// Whether ARP and NDP are among them.
    pub fn l2(self) -> bool {
        self != Self::Bgp
    }

    /// Whether BGP is among them.
    pub fn bgp(self) -> bool {
        self != Self::L2
    }
}

/// How fast to announce on a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AnnouncePace {
    /// 64 frames at once, then 500 a second.
    Normal,
    /// 5 frames at once, then 10 a second.
    Guarded,
}

/// Who makes addresses deliverable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeliveryMode {
    /// This process, on the loopback interface.
    Lo,
    /// Somebody else.
    None,
}

/// Whether open connections outlive a move of their address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HandOverMode {
    /// If the kernel lets us.
    Auto,
    /// No: they are reset.
    None,
}

/// Who forwards plain services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ForwardMode {
    /// The kernel if it lets us, else this process.
    Auto,
    /// The kernel, by nftables.
    Nft,
    /// This process.
    Relay,
    /// Somebody else.
    None,
}

/// The standard input can be read only once.
fn manifest_path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| match path.as_os_str() == STDIN {
        true => Err("a node reads its documents again when they change: write them to a file, and name it"),
        false => Ok(path),
    })
}

/// A name that a Node can have (RFC 1123), capitals let pass.
fn node_name(text: &str) -> Result<String, String> {
    let is_one = |text: &str| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        !text.is_empty() && text.len() <= 253 && text.bytes().all(known)
    };
    if is_one(text) {
        Ok(text.to_owned())
    } else {
        Err("a node's name is of letters, digits, - and .".to_owned())
    }
}

/// A duration that is not zero.
fn duration(text: &str) -> Result<Duration, String> {
    let span = parse_duration(text).map_err(|error| error.to_string())?;
    if span.is_zero() { Err(format!("{text:?} is no time at all")) } else { Ok(span) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        node: NodeArgs,
    }

    fn parse(line: &str) -> Result<NodeArgs, String> {
        let words = std::iter::once("node").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.node).map_err(|error| error.to_string())
    }

    #[test]
    fn a_short_line_is_enough() {
        let args = parse("--node n1 --manifests a b").unwrap();
        assert_eq!(args.manifests.len(), 2);
        assert_eq!(args.heartbeat, Duration::from_millis(50));
        assert!(args.announce.l2() && !args.announce.bgp());
    }

    #[test]
    fn an_etcd_is_never_passed_over() {
        let etcd = "--node n1 --manifests a --etcd http://192.0.2.1:2379";
        for line in [etcd.to_owned(), format!("{etcd} --elector lease-etcd")] {
            assert!(parse(&line).unwrap().elector == ElectorMode::LeaseEtcd, "{line}");
        }
        assert!(parse("--node n1 --manifests a").unwrap().elector == ElectorMode::Gossip);
    }

    #[test]
    fn the_command_of_the_readme_is_one() {
        let readme = include_str!("../../../README.md").replace("\\\n", " ").replace("\"$(hostname)\"", "n1");
        let line =
            readme.lines().find_map(|line| line.strip_prefix("cargo run --release --example node -- "));
        let args = parse(line.unwrap()).unwrap();
        assert!(args.key_file.is_some() && args.listen_gossip.is_some() && args.seeds.len() == 1);
    }

    #[test]
    fn what_is_wrong_is_said_with_the_fix() {
        for (line, said) in [
            ("--node n1", "--manifests"),
            ("--node n/1 --manifests a", "a node's name"),
            ("--node n1 --manifests a -", "write them to a file"),
            ("--node n1 --manifests a --heartbeat 50", "write one like 90s, 1m30s or 300ms"),
            ("--node n1 --manifests a --heartbeat 0s", "no time at all"),
            ("--node n1 --manifests a --seed 192.0.2.1:7946", "--listen-gossip"),
            (
                "--node n1 --manifests a --listen-gossip 192.0.2.1:7946 --key-file k --seed n1",
                "ends in a colon",
            ),
            ("--node n1 --manifests a --elector lease-etcd", "--etcd <http://HOST:PORT>"),
            (
                "--node n1 --manifests a --elector lease-etcd --etcd 192.0.2.1:2379",
                "write it as http://HOST:PORT",
            ),
            ("--node n1 --manifests a --lease 1s", "--etcd"),
            ("--node n1 --manifests a --check ping", "write tcp://HOST:PORT"),
            ("--node n1 --manifests a --announce arp", "possible values: l2, bgp, both"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(said), "{line}: {error}");
        }
    }
}
