//! What the kernel does on its own that would spoil an announcement.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;

use lbcore::condition::Condition;
use nix::ifaddrs::getifaddrs;

use super::links::{self, LinkTable};
use crate::machine::Interface;

/// Whether the kernel itself answers for an address, beside whoever announces it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelAnswer {
    /// It does not: the address is not local, or the kernel was told not to.
    No,
    /// It does, on every interface, because the address is local and `arp_ignore` is 0. Every candidate that is
    /// prepared like this answers, not only the owner.
    Everywhere,
    /// It does on this interface, because the address is configured on it. No setting short of silence for all
    /// addresses changes that.
    OnItsInterface,
}

impl KernelAnswer {
    /// What to tell people about `addresses`, and what to do about it; `None` if all is well.
    pub fn condition(&self, addresses: &[IpAddr], interface: &str) -> Option<Condition> {
        const NAMED: usize = 4;
        let [first, others @ ..] = addresses else { return None };
        let mut address = first.to_string();
        for other in others.iter().take(NAMED - 1) {
            let _ = write!(address, ", {other}");
        }
        if addresses.len() > NAMED {
            let _ = write!(address, " and {} more", addresses.len() - NAMED);
        }
        let (is, it) =
            if others.is_empty() { ("is a local address", "it") } else { ("are local addresses", "them") };
        let (reason, message) = match self {
            Self::No => return None,
            Self::Everywhere => (
                "ArpIgnoreOff",
                format!(
                    "{address} {is}, and the kernel answers ARP for {it} on {interface} on every node that has {it}: set net.ipv4.conf.all.arp_ignore=1 and net.ipv4.conf.all.arp_announce=2 (with \
                     kube-proxy in IPVS mode: strictARP: true)"
                ),
            ),
            Self::OnItsInterface => (
                "AddressOnInterface",
                format!(
                    "{address} {is} of {interface}, so the kernel answers for {it} there: move {it} to the interface lo \
                     as /32 or /128"
                ),
            ),
        };
        Some(Condition::yes("KernelAnswers", reason, message))
    }
}

/// Whether this kernel answers by itself for `address` on `interface`. Ask on every candidate before anything is
/// announced, and again when addresses or settings change.
///
/// # Errors
/// What netlink or the files of `/proc/sys/net` give; `NotFound` if there is no such interface.
pub fn kernel_answers(address: IpAddr, interface: &str) -> io::Result<KernelAnswer> {
    if !links::is_local(address)? {
        return Ok(KernelAnswer::No);
    }
    let on_interface = getifaddrs()?.any(|entry| {
        let configured = entry.address.as_ref().and_then(|address| {
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
        });
        entry.interface_name == interface && configured == Some(address)
    });
    // The larger of the two is in force (`ip-sysctl.rst`).
    let ignore = arp_ignore("all")?.max(arp_ignore(interface)?);
    Ok(judge(address, ignore, on_interface))
}

/// What the kernel answers on `interfaces` for those of `addresses` that `table` has as local.
pub(super) fn answers(table: &LinkTable, addresses: &[IpAddr], interfaces: &[Interface]) -> Vec<Condition> {
    let all = arp_ignore("all").unwrap_or(0);
    let proxied = |name| setting(name, "proxy_arp").unwrap_or(0) != 0;
    let mut conditions = Vec::new();
    for interface in interfaces {
        let name = interface.name.as_str();
        if addresses.iter().any(IpAddr::is_ipv4) && (proxied("all") || proxied(name)) {
            conditions.push(proxies(name));
        }
        let mut ignore = None;
        let (mut everywhere, mut here) = (Vec::new(), Vec::new());
        for address in addresses {
            let Some(on_interface) = table.local_on(*address, interface.index) else { continue };
            let ignore = *ignore.get_or_insert_with(|| all.max(arp_ignore(name).unwrap_or(0)));
            match judge(*address, ignore, on_interface) {
                KernelAnswer::No => {}
                KernelAnswer::Everywhere => everywhere.push(*address),
                KernelAnswer::OnItsInterface => here.push(*address),
            }
        }
        conditions.extend(KernelAnswer::Everywhere.condition(&everywhere, name));
        conditions.extend(KernelAnswer::OnItsInterface.condition(&here, name));
    }
    conditions
}

/// Solicitations are answered only on the interface that has the address (unless it is proxied for); ARP as the setting
/// says.
fn judge(address: IpAddr, arp_ignore: u32, on_interface: bool) -> KernelAnswer {
    match address {
        IpAddr::V6(_) if on_interface => KernelAnswer::OnItsInterface,
        IpAddr::V6(_) => KernelAnswer::No,
        IpAddr::V4(_) => decide(arp_ignore, on_interface),
    }
}

/// 0: any local address on any interface; 1 and 2: those on the interface itself; 3: all but those of scope host;
/// 8: none.
fn decide(arp_ignore: u32, on_interface: bool) -> KernelAnswer {
    match (arp_ignore, on_interface) {
        (8, _) | (1..=2, false) => KernelAnswer::No,
        (_, true) => KernelAnswer::OnItsInterface,
        (_, false) => KernelAnswer::Everywhere,
    }
}

/// Of addresses that are not local, with `proxy_arp` (`ip-sysctl.rst`).
fn proxies(interface: &str) -> Condition {
    let why = format!(
        "proxy ARP is on for {interface}, so the kernel answers there for every address that it routes by another interface, \
         whoever owns it: set net.ipv4.conf.all.proxy_arp=0 and net.ipv4.conf.{interface}.proxy_arp=0"
    );
    Condition::yes("KernelAnswers", "ProxyArp", why)
}

fn arp_ignore(interface: &str) -> io::Result<u32> {
    setting(interface, "arp_ignore")
}

fn setting(interface: &str, name: &str) -> io::Result<u32> {
    let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{interface}/{name}"))?;
    text.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arp_ignore_decides() {
        use KernelAnswer::{Everywhere, No, OnItsInterface};
        for (arp_ignore, on_interface, elsewhere) in [
            (0, OnItsInterface, Everywhere),
            (1, OnItsInterface, No),
            (2, OnItsInterface, No),
            (3, OnItsInterface, Everywhere),
            (8, No, No),
        ] {
            assert_eq!(decide(arp_ignore, true), on_interface, "arp_ignore={arp_ignore}");
            assert_eq!(decide(arp_ignore, false), elsewhere, "arp_ignore={arp_ignore}");
        }
    }

    #[test]
    fn what_is_not_local_is_not_answered() {
        assert_eq!(kernel_answers("192.0.2.77".parse().unwrap(), "lo").unwrap(), KernelAnswer::No);
        let addresses: Vec<IpAddr> = (1..=6).map(|last| IpAddr::from([192, 0, 2, last])).collect();
        assert_eq!(KernelAnswer::No.condition(&addresses, "eth0"), None);
        assert_eq!(KernelAnswer::Everywhere.condition(&[], "eth0"), None);
        let condition = KernelAnswer::Everywhere.condition(&addresses, "eth0").unwrap();
        for said in ["192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4 and 2 more are local", "arp_ignore=1"] {
            assert!(condition.message.contains(said), "{condition}");
        }
    }
}
