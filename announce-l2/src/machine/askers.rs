//! Who asked lately for which address.

use std::net::Ipv4Addr;

use lbcore::time::{Duration, Instant};

use crate::wire::MacAddr;

const SLOTS: usize = 256;
/// Hosts keep an entry that they do not use for about this long.
const RECENT: Duration = Duration::from_secs(120);

/// A host that asked for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) host: Ipv4Addr,
    pub(crate) mac: MacAddr,
    wanted: Ipv4Addr,
    heard: Instant,
}

/// The hosts on one interface that asked lately. Of fixed size, so that no flood of forged questions makes it grow:
/// a new asker takes the place of the one that falls on the same slot.
#[derive(Clone, Debug)]
pub(crate) struct Askers {
    slots: Vec<Option<Asker>>,
}

impl Default for Askers {
    fn default() -> Self {
        Self { slots: vec![None; SLOTS] }
    }
}

impl Askers {
    pub(crate) fn note(&mut self, now: Instant, host: Ipv4Addr, mac: MacAddr, wanted: Ipv4Addr) {
        // The hosts of a /24 that ask for one address all have slots of their own.
        let slot = host.octets().into_iter().chain(wanted.octets()).fold(0u8, u8::wrapping_add);
        if let Some(slot) = self.slots.get_mut(usize::from(slot)) {
            *slot = Some(Asker { host, mac, wanted, heard: now });
        }
    }

    /// The latest `limit` hosts that asked for `wanted`, the latest first.
    pub(crate) fn of(&self, now: Instant, wanted: Ipv4Addr, limit: usize) -> Vec<Asker> {
        let recent = |asker: &&Asker| asker.wanted == wanted && now.saturating_since(asker.heard) <= RECENT;
        let mut askers: Vec<Asker> = self.slots.iter().flatten().filter(recent).copied().collect();
        askers.sort_by_key(|asker| (std::cmp::Reverse(asker.heard), asker.host));
        askers.truncate(limit);
        askers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_who_asked_for_it() {
        let vip = Ipv4Addr::new(192, 0, 2, 100);
        let mut askers = Askers::default();
        for host in 1..=50 {
            let at = Instant::from_millis(u64::from(host));
            askers.note(at, Ipv4Addr::new(192, 0, 2, host), MacAddr([2, 0, 0, 0, 0, host]), vip);
        }
        askers.note(
            Instant::from_millis(60),
            Ipv4Addr::new(192, 0, 2, 200),
            MacAddr::ZERO,
            Ipv4Addr::new(192, 0, 2, 101),
        );
        let latest: Vec<u8> =
            askers.of(Instant::from_millis(100), vip, 3).iter().map(|asker| asker.host.octets()[3]).collect();
        assert_eq!(latest, [50, 49, 48]);
        assert_eq!(askers.of(Instant::from_millis(100), vip, 100).len(), 50, "a /24 has no collisions");
        assert_eq!(askers.of(Instant::from_millis(1_000_000), vip, 100), [], "long ago");
    }
}
