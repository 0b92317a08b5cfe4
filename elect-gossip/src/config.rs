//! What a node is told before it starts.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use lbcore::id::NodeName;
use lbcore::time::Duration;

use crate::wire::MAX_PROMISE;

/// The longest node name, in bytes: what Kubernetes allows.
pub const MAX_NODE_NAME: usize = 253;

/// A node of the cluster.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The name of this node; unique in the cluster.
    pub node: NodeName,
    /// Where to listen, for datagrams and for streams alike. Port 0 takes a free one.
    pub bind: SocketAddr,
    /// The address at which the others reach this node; `None` takes [`bind`](Self::bind), which must then name
    /// an address.
    pub advertise: Option<SocketAddr>,
    /// Where to find nodes to join. It does no harm if this node is among them, so that all can have the same list.
    pub seeds: Vec<Seed>,
    /// The cluster's secret.
    pub keys: Keyring,
    /// How fast.
    pub timing: Timing,
}

impl Config {
    /// A node with the default timing that knows nobody yet.
    pub fn new(node: impl Into<NodeName>, bind: SocketAddr, keys: Keyring) -> Self {
        Self { node: node.into(), bind, advertise: None, seeds: Vec::new(), keys, timing: Timing::default() }
    }

    /// The same node that joins through `seeds`: [`Seed`]s, or addresses.
    #[must_use]
    pub fn with_seeds<S: Into<Seed>>(self, seeds: impl IntoIterator<Item = S>) -> Self {
        Self { seeds: seeds.into_iter().map(Into::into).collect(), ..self }
    }

    /// The same node with this timing. All nodes of a cluster must have the same.
    #[must_use]
    pub fn with_timing(self, timing: Timing) -> Self {
        Self { timing, ..self }
    }

    /// The same node, reached by the others at `address`.
    #[must_use]
    pub fn with_advertise(self, address: SocketAddr) -> Self {
        Self { advertise: Some(address), ..self }
    }

    pub(crate) fn validate(&self) -> Result<(), BuildError> {
        let length = self.node.as_str().len();
        if length == 0 || length > MAX_NODE_NAME {
            return Err(BuildError::NodeName { length });
        }
        self.timing.validate()
    }
}

/// Where a node looks for others: `ADDRESS:PORT`, `HOST:PORT`, or the address and port of a multicast group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Seed {
    /// A node's address. Or a group's, IPv4 or IPv6: it is joined on the interface of [`Config::bind`], in IPv6 on
    /// the one that the scope of the address names, and all in it meet each other.
    Address(SocketAddr),
    /// A name in the DNS. All its addresses are seeds; it is resolved again and again.
    Name {
        /// The host's name.
        host: String,
        /// The port of each of its addresses.
        port: u16,
    },
}

impl FromStr for Seed {
    type Err = SeedError;

    fn from_str(text: &str) -> Result<Self, SeedError> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 { Err(SeedError::Port) } else { Ok(Self::Address(address)) };
        }
        if text.contains('%') {
            return Err(SeedError::Scope);
        }
        if text.starts_with('[') || text.matches(':').count() > 1 {
            return Err(SeedError::Address);
        }
        let (host, port) = text.split_once(':').ok_or(SeedError::Port)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(SeedError::Port)?;
        let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        // The last label of a name is never a number: that would be an address.
        let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
        let number = last.bytes().all(|byte| byte.is_ascii_digit());
        if host.len() > 253 || number || !host.bytes().all(known) {
            return Err(SeedError::Host);
        }
        Ok(Self::Name { host: host.to_owned(), port })
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl From<SocketAddr> for Seed {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

/// The text is no seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SeedError {
    /// It has no port, or one that is none.
    #[error(
        "a seed ends in a colon and a port from 1 to 65535, as in 192.0.2.1:7946 or gossip.example.org:7946"
    )]
    Port,
    /// It is neither an address nor a name.
    #[error(
        "neither an address nor the name of a host: write 192.0.2.1:7946, [2001:db8::1]:7946 or gossip.example.org:7946"
    )]
    Host,
    /// It looks like an IPv6 address, and is none.
    #[error("no IPv6 address with a port: write [2001:db8::1]:7946")]
    Address,
    /// The scope of the address is not a number.
    #[error(
        "the scope of an address is the number of an interface, as `ip link` tells it: write [ff02::1ab%2]:7946"
    )]
    Scope,
}

/// How fast the nodes notice a death, and how careful they are about it.
///
/// All nodes of a cluster must agree: a node that waits less than the others' lease would make a second owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timing {
    /// Time between two heartbeats. 5 ms to 10 s.
    pub interval: Duration,
    /// After so many intervals without an answer the lease of an owner has run out. 3 to 20.
    pub missed: u32,
    /// How much longer than the lease the others wait, for clocks that do not run alike: the lease counts from when a
    /// heartbeat was sent, their patience from when its answer came. At least a tenth of the interval.
    pub margin: Duration,
    /// Time between an owner falling silent and its telling the successor, for the announcers of this node to hear
    /// of it first. Below the interval.
    pub handover_pause: Duration,
    /// In a cluster of more members than this a node sends heartbeats each [`interval`](Self::interval) only to those
    /// that would act on its death, and to all others each [`slow_interval`](Self::slow_interval).
    pub all_pairs: usize,
    /// Time between two heartbeats to those. From the interval to a hundred times that.
    pub slow_interval: Duration,
    /// How long the membership must be unchanged before a living owner gives up a role only to even the load or
    /// for another's preference.
    pub rebalance_after: Duration,
    /// How long a node that is gone is still called for, so that a partition heals.
    pub forget_after: Duration,
}

impl Timing {
    /// Heartbeats each `interval`; a lease of `missed` intervals; the rest in proportion.
    pub fn new(interval: Duration, missed: u32) -> Self {
        Self {
            interval,
            missed,
            margin: interval / 10,
            handover_pause: (interval / 5).min(Duration::from_millis(2)),
            all_pairs: 16,
            slow_interval: Duration::from_millis(500).clamp(interval, interval * u32::from(MAX_PROMISE)),
            rebalance_after: Duration::from_millis(500).max(interval * 10),
            forget_after: Duration::from_secs(3600),
        }
    }

    /// 20 ms × 3, for machines that are not saturated: a dead node is noticed after 42 to 62 ms.
    pub fn tuned() -> Self {
        Self::new(Duration::from_millis(20), 3)
    }

    /// How long a process that is said to be gone has to say that it is not.
    pub(crate) fn last_word(&self) -> Duration {
        self.interval / 10
    }

    /// How long an owner may act after a round of heartbeats that somebody answered.
    pub fn lease(&self) -> Duration {
        self.interval * self.missed
    }

    /// How long after the last word from an owner the others take over.
    pub fn takeover(&self) -> Duration {
        self.lease() + self.margin
    }

    /// How long after its last word a node is held for dead that promised to speak again after so many intervals.
    pub(crate) fn patience(&self, promise: u8) -> Duration {
        self.takeover() + self.interval * u32::from(promise.saturating_sub(1))
    }

    /// Each how many rounds those are spoken to that need not hear each.
    pub(crate) fn slow_rounds(&self) -> u8 {
        let rounds = self.slow_interval.as_nanos() / self.interval.as_nanos().max(1);
        u8::try_from(rounds).unwrap_or(MAX_PROMISE).clamp(1, MAX_PROMISE)
    }

    fn validate(&self) -> Result<(), BuildError> {
        let wrong = |what: &'static str| Err(BuildError::Timing { what });
        if !(Duration::from_millis(5)..=Duration::from_secs(10)).contains(&self.interval) {
            return wrong("interval must be from 5 ms to 10 s");
        }
        if !(3..=20).contains(&self.missed) {
            return wrong("missed must be from 3 to 20");
        }
        if self.margin < self.interval / 10 || self.margin > self.lease() {
            return wrong("margin must be at least a tenth of the interval and at most the lease");
        }
        if self.handover_pause >= self.interval {
            return wrong("handover_pause must be below the interval");
        }
        if self.slow_interval < self.interval || self.slow_interval > self.interval * u32::from(MAX_PROMISE) {
            return wrong("slow_interval must be from the interval to a hundred times that");
        }
        if self.forget_after < self.takeover() {
            return wrong("forget_after must not be below the takeover time");
        }
        Ok(())
    }
}

impl Default for Timing {
    /// 50 ms × 4: a dead node is noticed after 155 to 205 ms.
    fn default() -> Self {
        Self::new(Duration::from_millis(50), 4)
    }
}

/// A secret that all nodes of a cluster share: 256 bits from a good source, for example `openssl rand -hex 32`.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey([u8; 32]);

impl ClusterKey {
    /// The key with these bits.
    pub const fn new(bits: [u8; 32]) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for ClusterKey {
    type Err = KeyError;

    /// Reads 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        let mut bits = [0; 32];
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(KeyError);
        }
        for (byte, digits) in bits.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| KeyError)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| KeyError)?;
        }
        Ok(Self(bits))
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(…)")
    }
}

/// The text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cluster key is 64 hexadecimal digits: make one with `openssl rand -hex 32`")]
pub struct KeyError;

/// The keys in use: one to seal with, and others that are still (or already) accepted, for a rotation.
///
/// To rotate without an interruption: let all nodes accept the new key, then let all seal with it, then drop
/// the old one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyring {
    pub(crate) seal: ClusterKey,
    pub(crate) accept: Vec<ClusterKey>,
}

impl Keyring {
    /// Seals with `key` and accepts no other.
    pub const fn new(key: ClusterKey) -> Self {
        Self { seal: key, accept: Vec::new() }
    }

    /// Accepts `key` too.
    #[must_use]
    pub fn accepting(mut self, key: ClusterKey) -> Self {
        self.accept.push(key);
        self
    }
}

/// Why an elector cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The node's name is empty or too long.
    #[error("the name of a node has 1 to {MAX_NODE_NAME} bytes, not {length}")]
    NodeName {
        /// Its length in bytes.
        length: usize,
    },
    /// The timing contradicts itself.
    #[error("timing: {what}")]
    Timing {
        /// What is wrong, with the fix.
        what: &'static str,
    },
    /// The others could not reach this node.
    #[error(
        "nobody can be told to reach this node at {bind}: bind to an address of the node, or set `advertise`"
    )]
    Advertise {
        /// Where it listens.
        bind: SocketAddr,
    },
    /// The address to listen at cannot be had.
    #[error("cannot listen on {protocol} {bind}")]
    Bind {
        /// The address.
        bind: SocketAddr,
        /// UDP or TCP: both are needed.
        protocol: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// A multicast group that is a seed cannot be joined.
    #[error("cannot join the multicast group {group} on the interface of {bind}")]
    Join {
        /// The group.
        group: SocketAddr,
        /// Where this node listens.
        bind: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The system has no randomness to give.
    #[error("the system's source of randomness failed")]
    Randomness {
        /// What the system says.
        source: std::io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_and_never_shown() {
        let text = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eFF";
        let key: ClusterKey = text.parse().unwrap();
        assert_eq!(key.bits()[30..], [0x1e, 0xff]);
        assert_eq!(format!("{:?}", Keyring::new(key)), "Keyring { seal: ClusterKey(…), accept: [] }");
        for bad in ["", "00", &text[1..], &text.replace("00", "0x"), &text.replace("00", "+1"), "ä"] {
            let parsed = bad.parse::<ClusterKey>();
            assert!(parsed.is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_seed_is_an_address_a_name_or_a_group() {
        for text in ["192.0.2.1:7946", "[2001:db8::1]:7946", "239.1.2.3:7946", "[ff02::1ab%2]:7946"] {
            assert_eq!(text.parse(), Ok(Seed::Address(text.parse().unwrap())));
            assert_eq!(text.parse::<Seed>().unwrap().to_string(), text);
        }
        for text in ["gossip.example.org:7946", "n1:1", "a_b-c.lan.:65535"] {
            assert!(matches!(text.parse(), Ok(Seed::Name { .. })), "{text}");
            assert_eq!(text.parse::<Seed>().unwrap().to_string(), text);
        }
        for (text, error) in [
            ("", SeedError::Port),
            ("n1", SeedError::Port),
            ("n1:", SeedError::Port),
            ("n1:0", SeedError::Port),
            ("n1:65536", SeedError::Port),
            ("192.0.2.1:0", SeedError::Port),
            (":7946", SeedError::Host),
            ("192.0.2.256:7946", SeedError::Host),
            ("192.0.2:7946", SeedError::Host),
            ("n 1:7946", SeedError::Host),
            ("http://n1:7946", SeedError::Address),
            ("2001:db8::1:7946", SeedError::Address),
            ("[2001:db8::1]", SeedError::Address),
            ("[ff02::1%eth0]:7946", SeedError::Scope),
        ] {
            assert_eq!(text.parse::<Seed>(), Err(error), "{text}");
        }
    }

    #[test]
    fn the_defaults_are_sound_and_contradictions_are_refused() {
        for good in [Timing::default(), Timing::tuned(), Timing::new(Duration::from_millis(5), 3)] {
            good.validate().unwrap();
        }
        assert_eq!(Timing::default().takeover(), Duration::from_millis(205));
        assert_eq!(Timing::tuned().takeover(), Duration::from_millis(62));
        assert_eq!(Timing::default().slow_rounds(), 10);
        assert_eq!(Timing::tuned().slow_rounds(), 25);
        let slow = Timing::new(Duration::from_secs(10), 3);
        slow.validate().unwrap();
        assert_eq!(slow.slow_rounds(), 1);
        assert_eq!(Timing::default().patience(10), Duration::from_millis(205 + 450));
        let bad = |change: &dyn Fn(&mut Timing)| {
            let mut timing = Timing::default();
            change(&mut timing);
            timing.validate().unwrap_err().to_string()
        };
        assert_eq!(bad(&|t| t.interval = Duration::ZERO), "timing: interval must be from 5 ms to 10 s");
        assert_eq!(bad(&|t| t.missed = 2), "timing: missed must be from 3 to 20");
        assert!(bad(&|t| t.margin = Duration::ZERO).contains("margin must be at least"));
        assert!(bad(&|t| t.margin = Duration::from_secs(1)).contains("at most the lease"));
        assert!(bad(&|t| t.handover_pause = t.interval).contains("handover_pause"));
        assert!(bad(&|t| t.slow_interval = t.interval / 2).contains("slow_interval"));
        assert!(bad(&|t| t.slow_interval = t.interval * 101).contains("slow_interval"));
        assert!(bad(&|t| t.forget_after = Duration::ZERO).contains("forget_after"));
    }
}
