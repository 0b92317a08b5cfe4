//! What the kernel does on its own that would spoil an announcement.

use std::io;
use std::net::IpAddr;

use lbcore::condition::Condition;
use nix::ifaddrs::getifaddrs;

use super::links;

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
    /// What to tell people, and what to do about it; `None` if all is well.
    pub fn condition(&self, address: IpAddr, interface: &str) -> Option<Condition> {
        let (reason, message) = match self {
            Self::No => return None,
            Self::Everywhere => (
                "ArpIgnoreOff",
                format!(
                    "{address} is a local address, and the kernel answers ARP for it on {interface} on every node \
                     that has it: set net.ipv4.conf.all.arp_ignore=1 and net.ipv4.conf.all.arp_announce=2 (with \
                     kube-proxy in IPVS mode: strictARP: true)"
                ),
            ),
            Self::OnItsInterface => (
                "AddressOnInterface",
                format!(
                    "{address} is configured on {interface}, so the kernel answers for it there: move it to the \
                     interface lo as a /32 or /128"
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
    if address.is_ipv6() {
        // Solicitations are answered only on the interface that has the address (unless it is proxied for).
        return Ok(if on_interface { KernelAnswer::OnItsInterface } else { KernelAnswer::No });
    }
    // The larger of the two is in force (`ip-sysctl.rst`).
    let ignore = arp_ignore("all")?.max(arp_ignore(interface)?);
    Ok(decide(ignore, on_interface))
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

fn arp_ignore(interface: &str) -> io::Result<u32> {
    let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{interface}/arp_ignore"))?;
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
        assert_eq!(KernelAnswer::No.condition("192.0.2.77".parse().unwrap(), "eth0"), None);
        let condition = KernelAnswer::Everywhere.condition("192.0.2.77".parse().unwrap(), "eth0").unwrap();
        assert!(condition.message.contains("arp_ignore=1"), "{condition}");
    }
}
