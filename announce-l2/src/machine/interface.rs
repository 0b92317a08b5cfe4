//! The interfaces that a machine works on.

use std::fmt;
use std::net::Ipv4Addr;

use lbcore::id::InterfaceName;
use lbcore::time::Instant;

use super::askers::Askers;
use super::pace::Pace;
use super::schedule::Schedule;
use crate::wire::MacAddr;

/// The number by which the kernel knows an interface. It is not used again while the machine is up, unlike its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct IfIndex(pub u32);

impl fmt::Debug for IfIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// An interface on which addresses may be announced.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Interface {
    /// Its number.
    pub index: IfIndex,
    /// Its name.
    pub name: InterfaceName,
    /// Its hardware address.
    pub mac: MacAddr,
    /// Whether frames can be sent: it is up and has a carrier.
    pub up: bool,
    /// The IPv4 gateways reached through it. They are told directly where an address is.
    pub gateways: Vec<Ipv4Addr>,
}

impl Interface {
    /// An interface that is up, without gateways.
    pub fn new(index: IfIndex, name: impl Into<InterfaceName>, mac: MacAddr) -> Self {
        Self { index, name: name.into(), mac, up: true, gateways: Vec::new() }
    }
}

/// An interface with what the machine keeps for it.
#[derive(Clone, Debug)]
pub(super) struct Port {
    pub(super) interface: Interface,
    pub(super) schedule: Schedule,
    pub(super) askers: Askers,
    /// When to show the switches our hardware address, and with which address the last time.
    pub(super) refresh_at: Option<Instant>,
}

impl Port {
    pub(super) fn new(interface: Interface, pace: Pace) -> Self {
        Self { interface, schedule: Schedule::new(pace), askers: Askers::default(), refresh_at: None }
    }
}
