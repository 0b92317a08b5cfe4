//! What happened, counted by reason.

use std::ops::AddAssign;

use crate::wire::Invalid;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the machine was made. Each received frame is in exactly one of the `answered_*`, `dropped_*`
        /// and `noted_*` counters.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Each counter with its name, for a metrics exporter.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }

        impl AddAssign for Counters {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counters! {
    /// Frames received.
    received,
    /// ARP requests answered.
    answered_arp,
    /// Neighbor solicitations answered.
    answered_ndp,
    /// Frames that answered nobody's question and were remembered: replies to our directed requests, and claims of
    /// our addresses by others (see `conflicts`).
    noted_replies,
    /// Claims of an address of ours by another hardware address, and of one that is probed for.
    conflicts,
    /// Dropped: received too long ago (or at a time that cannot be), so that it may belong to a lease that is over.
    dropped_stale,
    /// Dropped: sent by one of our own interfaces.
    dropped_own,
    /// Dropped: on an interface that the machine does not know, or that is down.
    dropped_interface,
    /// Dropped: carries the tag of a VLAN. It belongs to the VLAN's own interface.
    dropped_vlan,
    /// Dropped: to a hardware address that is neither ours, nor broadcast, nor the right group.
    dropped_destination,
    /// Dropped: cut short, or lengths that do not fit.
    dropped_truncated,
    /// Dropped: a checksum, hop limit, code, operation, option or address that the protocol forbids.
    dropped_invalid,
    /// Dropped: neither ARP nor a neighbor message.
    dropped_other,
    /// Dropped: about an address that is not ours.
    dropped_foreign,
    /// Dropped: about an address that is ours on other interfaces only.
    dropped_elsewhere,
    /// Dropped: about an address whose lease does not hold.
    dropped_unleased,
    /// Dropped: the queue of frames to send was full.
    dropped_backlog,
    /// Announcements made: gratuitous ARP requests and unsolicited neighbor advertisements, repeats included.
    announced,
    /// Probes for another host that has an address which is to be taken for the first time.
    probed,
    /// Directed ARP requests sent to gateways and to hosts that asked.
    directed,
    /// Announcements made only so that switches keep our hardware address.
    refreshed,
    /// Announcements made against another's claim.
    defended,
    /// Frames that were ready and not sent, because their lease had run out by then.
    expired,
    /// Events that nobody polled in time.
    events_lost,
}

impl Counters {
    pub(crate) fn drop_invalid(&mut self, why: Invalid) {
        match why {
            Invalid::Truncated => self.dropped_truncated += 1,
            _ => self.dropped_invalid += 1,
        }
    }
}
