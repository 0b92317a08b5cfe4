//! A bridge, and hosts with a cable to it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;

use super::{Error, LinkState, Netns, Tap, TapFilter, link};

const BRIDGE: &str = "br0";

/// The interface of a host that [`Segment::host`] makes.
const FIRST_INTERFACE: &str = "eth0";

/// The names of a segment's ports by interface index, shared with its taps.
pub(super) type Ports = Arc<Mutex<BTreeMap<u32, String>>>;

/// One layer-2 segment: a bridge in a namespace of its own, which has no address and says nothing itself.
#[derive(Debug)]
pub struct Segment {
    switch: Arc<Netns>,
    bridge: String,
    ports: Ports,
}

/// A part of a segment, with hosts of its own: a second switch with a cable to the first.
#[derive(Debug)]
pub struct Branch {
    part: Segment,
    /// The trunk's end of the cable.
    uplink: String,
}

/// A machine on a segment: a namespace with the interface `eth0`.
#[derive(Debug)]
pub struct Host {
    netns: Netns,
    mac: [u8; 6],
    addresses: Vec<IpNet>,
}

impl Segment {
    /// Makes an empty segment. `name` appears in error messages.
    pub fn new(name: &str) -> Result<Self, Error> {
        let switch = Arc::new(Netns::new(name)?);
        // The bridge has no business of its own on the segment: no router solicitations, no MLD reports.
        for scope in ["all", "default"] {
            match switch.set_sysctl(&format!("net.ipv6.conf.{scope}.disable_ipv6"), "1") {
                Err(error) if error.source.kind() == io::ErrorKind::NotFound => {}
                done => done?,
            }
        }
        let segment = Self { switch, bridge: BRIDGE.to_owned(), ports: Ports::default() };
        segment.add_bridge()?;
        Ok(segment)
    }

    /// Adds a part with hosts of its own, which all others on the segment hear as if they were on one switch, until
    /// [`Branch::set_isolated`]. The segment and all its branches have the same taps.
    ///
    /// `name` is the name of its port on the bridge, so at most 12 characters.
    pub fn branch(&self, name: &str) -> Result<Branch, Error> {
        let (switch, ports) = (self.switch.clone(), self.ports.clone());
        let part = Self { switch, bridge: format!("br-{name}"), ports };
        part.add_bridge()?;
        let (trunk, uplink) = (&self.bridge, format!("up-{name}"));
        self.switch.netlink(&format!("join {name} to {trunk}"), async |handle| {
            link::add_patch(handle, (trunk, &uplink), (&part.bridge, &format!("to-{name}"))).await
        })?;
        Ok(Branch { part, uplink })
    }

    fn add_bridge(&self) -> Result<(), Error> {
        let bridge = &self.bridge;
        self.switch.netlink(&format!("add the bridge {bridge}"), async |handle| {
            link::add_bridge(handle, bridge).await
        })
    }

    /// Adds a host with `addresses` on its `eth0`, up and ready.
    ///
    /// `name` is the name of its port on the bridge too, so at most 15 characters. MAC addresses are
    /// `02:00:00:00:00:01` and so on, in the order of the calls.
    pub fn host(&self, name: &str, addresses: &[IpNet]) -> Result<Host, Error> {
        let netns = Netns::new(name)?;
        let mac = self.plug(&netns, FIRST_INTERFACE, addresses)?;
        Ok(Host { netns, mac, addresses: addresses.to_vec() })
    }

    /// Gives a namespace an interface on this segment, such as a router's second one, and returns its MAC address.
    pub fn plug(&self, netns: &Netns, interface: &str, addresses: &[IpNet]) -> Result<[u8; 6], Error> {
        let port = netns.name();
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let number = u32::try_from(ports.len()).unwrap_or(u32::MAX).saturating_add(1);
        let [a, b, c, d] = number.to_be_bytes();
        let mac = [0x02, 0x00, a, b, c, d];
        self.switch.netlink(&format!("plug {port} in"), async |handle| {
            link::add_cable(handle, &self.bridge, port, (interface, mac, netns.file.as_fd())).await
        })?;
        let (index, _) = self.switch.link(port)?;
        ports.insert(index, port.to_owned());
        drop(ports);
        netns.netlink(&format!("bring {interface} up"), async |handle| {
            link::set(handle, interface, LinkState::Up).await?;
            for address in addresses {
                link::add_address(handle, interface, *address).await?;
            }
            Ok(())
        })?;
        Ok(mac)
    }

    /// Cuts the cable of a host: its port of the bridge goes down. The host sees its carrier go, within a
    /// millisecond; nobody else is told anything.
    pub fn cut(&self, host: &Netns) -> Result<(), Error> {
        self.switch.set_link(host.name(), LinkState::Down)
    }

    /// Mends the cable of a host.
    pub fn restore(&self, host: &Netns) -> Result<(), Error> {
        self.switch.set_link(host.name(), LinkState::Up)
    }

    /// Listens to all that enters the bridge from now on.
    pub fn tap(&self, filter: TapFilter) -> Result<Tap, Error> {
        Tap::open(&self.switch, self.ports.clone(), filter)
    }

    /// The namespace that the bridge `br0` is in, for settings that this type does not offer.
    pub fn switch(&self) -> &Netns {
        &self.switch
    }
}

impl Host {
    /// The MAC address of its `eth0`.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// The addresses that it was made with.
    pub fn addresses(&self) -> &[IpNet] {
        &self.addresses
    }
}

impl Branch {
    /// Cuts this part off from all other isolated branches, or ends that. The segment's own hosts still hear all
    /// branches and are heard by them; every carrier stays up.
    pub fn set_isolated(&self, isolated: bool) -> Result<(), Error> {
        let (switch, uplink) = (&self.part.switch, &self.uplink);
        switch.netlink(&format!("isolate {uplink}"), async |handle| {
            link::set_isolated(handle, uplink, isolated).await
        })
    }
}

/// A branch *is* a segment, with a cable to another one.
impl Deref for Branch {
    type Target = Segment;

    fn deref(&self) -> &Segment {
        &self.part
    }
}

/// A host *is* a namespace, with a cable.
impl Deref for Host {
    type Target = Netns;

    fn deref(&self) -> &Netns {
        &self.netns
    }
}
