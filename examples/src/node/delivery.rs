//! Makes addresses deliverable: packets for them end here, and the kernel never answers for them by itself.
//!
//! Each address is put on the loopback interface with `arp_ignore=1`, so that the kernel accepts what arrives
//! for it but leaves ARP to the announcer (for IPv6 the kernel does not answer for loopback addresses anyway). This
//! is done on every candidate before anything is announced, and undone on exit.
//!
//! The addresses are marked by their protocol number (`IFA_PROTO`, Linux 5.18), so that those left by a process
//! that was killed are found again: taken over if still wanted, removed otherwise. The kernel settings of such a
//! process stay as it left them, since nobody knows what they were before.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use futures_util::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use nix::errno::Errno;

/// Ours among the values of `IFA_PROTO`; 0 to 3 are the kernel's.
const PROTOCOL: u8 = 0xb1;

/// The kernel settings that keep it from answering for addresses of the loopback interface.
const QUIET: &[(&str, &str)] =
    &[("net.ipv4.conf.all.arp_ignore", "1"), ("net.ipv4.conf.all.arp_announce", "2")];

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// A kernel setting cannot be written.
    #[error("cannot set {name}={value}: run as root or with CAP_NET_ADMIN, or use --delivery none")]
    Sysctl {
        /// The setting.
        name: String,
        /// The value it should have.
        value: String,
        /// Why not.
        source: io::Error,
    },
    /// The kernel refuses an address.
    #[error("cannot {action} {address} on lo: {remedy}")]
    Address {
        /// "put" or "remove".
        action: &'static str,
        /// The address.
        address: IpAddr,
        /// What to do about it.
        remedy: &'static str,
        /// Why not.
        source: rtnetlink::Error,
    },
    /// The kernel does not talk to us.
    #[error("cannot ask the kernel for its addresses")]
    Netlink(#[source] io::Error),
    /// The kernel's addresses cannot be listed.
    #[error("cannot list the kernel's addresses")]
    List(#[source] rtnetlink::Error),
}

/// Kernel settings that we changed, to be put back.
#[derive(Debug, Default)]
pub struct Sysctls {
    before: BTreeMap<String, String>,
}

impl Sysctls {
    /// Sets `name` to `value` and remembers what it was.
    ///
    /// # Errors
    /// [`DeliveryError::Sysctl`] if the kernel refuses.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), DeliveryError> {
        let path = sysctl_path(name);
        let failed =
            |source| DeliveryError::Sysctl { name: name.to_owned(), value: value.to_owned(), source };
        let before = std::fs::read_to_string(&path).map_err(failed)?.trim().to_owned();
        if before != value {
            std::fs::write(&path, value).map_err(failed)?;
            self.before.entry(name.to_owned()).or_insert(before);
        }
        Ok(())
    }

    /// Lets this machine forward IPv6. As a router it would no longer heed the advertisements of others, from which it
    /// may have its default route: it is told to go on.
    ///
    /// # Errors
    /// [`DeliveryError::Sysctl`] if the kernel refuses.
    pub fn forward_ipv6(&mut self) -> Result<(), DeliveryError> {
        let interfaces = std::fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten();
        for interface in interfaces.filter_map(|entry| entry.file_name().into_string().ok()) {
            let name = format!("net/ipv6/conf/{interface}/accept_ra");
            let heeds = std::fs::read_to_string(sysctl_path(&name)).is_ok_and(|value| value.trim() == "1");
            if heeds {
                self.set(&name, "2")?;
            }
        }
        self.set("net.ipv6.conf.all.forwarding", "1")
    }

    /// Puts back what was; a setting that cannot be put back stays, and the others are tried.
    pub fn restore(&mut self) {
        for (name, value) in std::mem::take(&mut self.before) {
            if let Err(error) = std::fs::write(sysctl_path(&name), &value) {
                eprintln!("cannot put back {name}={value}: {error}");
            }
        }
    }
}

/// A start that fails leaves the machine as it was.
impl Drop for Sysctls {
    fn drop(&mut self) {
        self.restore();
    }
}

/// `name` is written with dots, or with slashes if a part of it has dots.
fn sysctl_path(name: &str) -> PathBuf {
    let relative = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    PathBuf::from("/proc/sys").join(relative)
}

/// The addresses on the loopback interface that are ours.
#[derive(Debug)]
pub struct Delivery {
    netlink: rtnetlink::Handle,
    loopback: u32,
    held: BTreeSet<IpAddr>,
    sysctls: Sysctls,
    _connection: tokio::task::JoinSet<()>,
}

impl Delivery {
    /// Quiets the kernel and finds the addresses that an earlier process left.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn new() -> Result<Self, DeliveryError> {
        let mut sysctls = Sysctls::default();
        for (name, value) in QUIET {
            sysctls.set(name, value)?;
        }
        let (connection, netlink, _) = rtnetlink::new_connection().map_err(DeliveryError::Netlink)?;
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(connection);
        // The loopback interface is the first of every network namespace.
        let loopback = 1;
        let mut held = BTreeSet::new();
        let mut listed = netlink.address().get().set_link_index_filter(loopback).execute();
        while let Some(message) = listed.try_next().await.map_err(DeliveryError::List)? {
            if is_ours(&message) {
                held.extend(address_of(&message));
            }
        }
        Ok(Self { netlink, loopback, held, sysctls, _connection: tasks })
    }

    /// Makes exactly `wanted` deliverable; gives the addresses for which that failed, each with its reason. One that
    /// the kernel refuses does not keep the others from it.
    pub async fn apply(&mut self, wanted: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, DeliveryError> {
        let mut failed = BTreeMap::new();
        for address in self.held.clone().difference(wanted) {
            match self.remove(*address).await {
                Ok(()) => drop(self.held.remove(address)),
                Err(error) => drop(failed.insert(*address, error)),
            }
        }
        for address in wanted.difference(&self.held.clone()) {
            match self.put(*address).await {
                Ok(true) => drop(self.held.insert(*address)),
                // Somebody else put it there, and may take it away.
                Ok(false) => {}
                Err(error) => drop(failed.insert(*address, error)),
            }
        }
        failed
    }

    /// Takes everything back: addresses, then settings.
    pub async fn undo(mut self) {
        for error in self.apply(&BTreeSet::new()).await.values() {
            eprintln!("{error}");
        }
        self.sysctls.restore();
    }

    /// Whether it was not there before.
    async fn put(&self, address: IpAddr) -> Result<bool, DeliveryError> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.netlink.address().add(self.loopback, address, bits);
        let message = request.message_mut();
        message.header.scope = AddressScope::Universe;
        message.attributes.push(AddressAttribute::Protocol(PROTOCOL.into()));
        // Duplicate address detection is for interfaces with neighbours.
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        match request.execute().await {
            Ok(()) => Ok(true),
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -(Errno::EEXIST as i32) => {
                Ok(false)
            }
            Err(source) => Err(refused("put", address, source)),
        }
    }

    async fn remove(&self, address: IpAddr) -> Result<(), DeliveryError> {
        let mut message = AddressMessage::default();
        message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.prefix_len = if address.is_ipv4() { 32 } else { 128 };
        message.header.index = self.loopback;
        message.attributes.push(AddressAttribute::Local(address));
        // Without this the kernel takes any that has the address, 127.0.0.1/8 among them.
        message.attributes.push(AddressAttribute::Address(address));
        let removed = self.netlink.address().del(message).execute().await;
        match removed {
            // Somebody else took it away.
            Err(rtnetlink::Error::NetlinkError(error))
                if error.raw_code() == -(Errno::EADDRNOTAVAIL as i32) =>
            {
                Ok(())
            }
            removed => removed.map_err(|source| refused("remove", address, source)),
        }
    }
}

fn refused(action: &'static str, address: IpAddr, source: rtnetlink::Error) -> DeliveryError {
    let disabled = std::fs::read_to_string(sysctl_path("net.ipv6.conf.lo.disable_ipv6"));
    let remedy = if address.is_ipv6() && disabled.is_ok_and(|value| value.trim() == "1") {
        "IPv6 is off there: set net.ipv6.conf.lo.disable_ipv6=0"
    } else {
        "run as root or with CAP_NET_ADMIN, or use --delivery none"
    };
    DeliveryError::Address { action, address, remedy, source }
}

fn is_ours(message: &AddressMessage) -> bool {
    message.attributes.iter().any(
        |attribute| matches!(attribute, AddressAttribute::Protocol(value) if u8::from(*value) == PROTOCOL),
    )
}

fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    })
}
