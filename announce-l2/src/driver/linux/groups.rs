//! Membership in multicast groups. The kernel tells the switches about it (MLD); without that, one that snoops does
//! not deliver solicitations, not even to a promiscuous interface.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::Ipv6Addr;

use socket2::{Domain, Socket, Type};

use crate::machine::IfIndex;

/// A socket takes some 2300 memberships at the default `net.core.optmem_max`, and each costs more than the one
/// before.
const PER_SOCKET: usize = 1000;
/// How many memberships are changed before frames are looked at again: each costs the kernel some 50 µs.
const STEP: usize = 32;

type Membership = (IfIndex, Ipv6Addr);

/// The memberships that are held, on as many sockets as it takes.
#[derive(Debug, Default)]
pub(super) struct Groups {
    sockets: Vec<(Socket, usize)>,
    /// Each membership with the socket that holds it.
    joined: BTreeMap<Membership, usize>,
    to_join: VecDeque<Membership>,
    to_leave: VecDeque<Membership>,
    /// Why joining failed the last time, for each interface, and what was not joined.
    failed: BTreeMap<IfIndex, String>,
    unjoined: Vec<Membership>,
}

impl Groups {
    /// What is not of `wanted` is left, and not joined.
    pub(super) fn keep(&mut self, wanted: &BTreeSet<Membership>) {
        self.to_join.retain(|group| wanted.contains(group));
        self.unjoined.retain(|group| wanted.contains(group));
        let unjoined: BTreeSet<IfIndex> = self.unjoined.iter().map(|(interface, _)| *interface).collect();
        self.failed.retain(|interface, _| unjoined.contains(interface));
        self.to_leave = self.joined.keys().filter(|group| !wanted.contains(group)).copied().collect();
    }

    /// Joins `group`. The work is done by [`step`](Self::step).
    pub(super) fn join(&mut self, group: Membership) {
        self.to_leave.retain(|leaving| *leaving != group);
        if !self.joined.contains_key(&group) {
            self.to_join.push_back(group);
        }
    }

    /// Joins again what could not be joined. The switches have not been told of it, so that it takes no token again.
    pub(super) fn try_again(&mut self) {
        self.failed.clear();
        self.to_join.extend(self.unjoined.drain(..));
    }

    /// Does a part of the work, and tells whether there is more.
    pub(super) fn step(&mut self) -> bool {
        for _ in 0..STEP {
            if let Some(group) = self.to_join.pop_front() {
                match self.take(group) {
                    Ok(socket) => drop(self.joined.insert(group, socket)),
                    Err(error) => {
                        self.unjoined.push(group);
                        self.failed.insert(group.0, error.to_string());
                    }
                }
            } else if let Some(group) = self.to_leave.pop_front() {
                self.leave(group);
            } else {
                return false;
            }
        }
        true
    }

    /// The interfaces on which a group could not be joined, and why.
    pub(super) fn failed(&self) -> &BTreeMap<IfIndex, String> {
        &self.failed
    }

    fn take(&mut self, (interface, group): Membership) -> io::Result<usize> {
        let full = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOBUFS));
        for (index, (socket, members)) in self.sockets.iter_mut().enumerate() {
            if *members >= PER_SOCKET {
                continue;
            }
            match socket.join_multicast_v6(&group, interface.0) {
                Ok(()) => {
                    *members += 1;
                    return Ok(index);
                }
                // The system's limit is lower than ours.
                Err(error) if full(&error) && *members > 0 => *members = PER_SOCKET,
                Err(error) => return Err(error),
            }
        }
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
        socket.join_multicast_v6(&group, interface.0)?;
        self.sockets.push((socket, 1));
        Ok(self.sockets.len() - 1)
    }

    fn leave(&mut self, group: Membership) {
        let Some(index) = self.joined.remove(&group) else { return };
        if let Some((socket, members)) = self.sockets.get_mut(index) {
            // Of an interface that is gone the kernel keeps the membership until it is left, and then says ENODEV.
            let _ = socket.leave_multicast_v6(&group.1, group.0.0);
            *members = members.saturating_sub(1);
        }
    }
}
