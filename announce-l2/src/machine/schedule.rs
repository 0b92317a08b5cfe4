//! What is to be said unasked on one interface, and when.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lbcore::time::{Duration, Instant};

use super::pace::{Bucket, Pace};
use crate::wire::MacAddr;

/// When an ARP announcement is made after an address was gained. The second follows soon, in case the first was
/// lost; the third and fourth come after a receiver's `locktime` of one second.
const ARP_ROUNDS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(1100), Duration::from_millis(2200)];
/// The same for advertisements: at most MAX_NEIGHBOR_ADVERTISEMENT = 3, at least RetransTimer = 1 s apart
/// (RFC 4861 §7.2.6).
const NDP_ROUNDS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(1100), Duration::from_millis(2200)];

/// Something to say. The order is the order of urgency when the pace does not let all go at once: what is first
/// heard of comes before what is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Job {
    /// Tell everybody against another's claim.
    Defend(IpAddr),
    /// Tell everybody for the first time.
    First(IpAddr),
    /// Tell a gateway.
    Gateway(IpAddr, Ipv4Addr),
    /// Tell the routers (RFC 9131 §4.1).
    Routers(IpAddr),
    /// Tell a host that asked.
    Asker(IpAddr, Ipv4Addr, MacAddr),
    /// Become a member of this group, of which the kernel tells the switches.
    Join(Ipv6Addr),
    /// Ask whether a stranger has it.
    Probe(IpAddr),
    /// Tell everybody again; which time this is, from 0 where no first one went before.
    Again(u8, IpAddr),
    /// Show the switches our hardware address.
    Refresh(IpAddr),
}

impl Job {
    /// What it is about.
    pub(crate) fn address(self) -> IpAddr {
        match self {
            Self::Defend(address)
            | Self::First(address)
            | Self::Gateway(address, _)
            | Self::Routers(address)
            | Self::Asker(address, ..)
            | Self::Probe(address)
            | Self::Again(_, address)
            | Self::Refresh(address) => address,
            Self::Join(group) => group.into(),
        }
    }
}

/// For which gain of the address a job was made (it is void after another), and when that began to be announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) gain: u64,
    pub(crate) since: Instant,
}

/// The jobs of one interface.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    bucket: Bucket,
    ready: BTreeMap<Job, Tag>,
    later: BTreeMap<(Instant, Job), Tag>,
    /// What the last token went into, if that must not take the next one as well.
    last: Option<Modest>,
}

/// Jobs of which there may be as many as one likes: they take every other token at most.
#[derive(Clone, Copy, Debug)]
enum Modest {
    /// Whoever forges claims decides about defences, and about nothing else.
    Defence,
    /// A candidate for thousands of addresses joins their groups when it starts.
    Join,
}

impl Modest {
    fn of(job: Job) -> Option<Self> {
        match job {
            Job::Defend(_) => Some(Self::Defence),
            Job::Join(_) => Some(Self::Join),
            _ => None,
        }
    }
}

/// The first of all jobs that are no defences.
const NO_DEFENCE: Job = Job::First(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
/// The first of all that join, and of those after them.
const JOINS: Job = Job::Join(Ipv6Addr::UNSPECIFIED);
const AFTER_JOINS: Job = Job::Probe(IpAddr::V4(Ipv4Addr::UNSPECIFIED));

impl Schedule {
    pub(crate) fn new(pace: Pace) -> Self {
        Self { bucket: Bucket::new(pace), ready: BTreeMap::new(), later: BTreeMap::new(), last: None }
    }

    /// Adds a job that is due.
    pub(crate) fn add(&mut self, job: Job, tag: Tag) {
        self.ready.insert(job, tag);
    }

    /// Whether a job that is due still waits for its turn.
    pub(crate) fn waits(&self, job: Job) -> bool {
        self.ready.contains_key(&job)
    }

    /// Plans the next repeat after `job`, if there is one.
    pub(crate) fn repeat(&mut self, job: Job, tag: Tag) {
        let (round, address) = match job {
            Job::First(address) => (1, address),
            Job::Again(round, address) => (round + 1, address),
            _ => return,
        };
        let rounds = if address.is_ipv4() { &ARP_ROUNDS[..] } else { &NDP_ROUNDS[..] };
        if let Some(after) = rounds.get(usize::from(round)) {
            self.later.insert((tag.since + *after, Job::Again(round, address)), tag);
        }
    }

    /// Forgets all that is to be said.
    pub(crate) fn clear(&mut self) {
        self.ready.retain(|job, _| matches!(job, Job::Join(_)));
        self.later.clear();
    }

    /// The most urgent of what is due, if `wanted`; what is not wanted (any more) is thrown away and costs no token. Of
    /// two tokens a defence or a join gets one at most.
    pub(crate) fn next(
        &mut self,
        now: Instant,
        mut wanted: impl FnMut(Job, Tag) -> bool,
    ) -> Option<(Job, Tag)> {
        while let Some(entry) = self.later.first_entry().filter(|entry| entry.key().0 <= now) {
            let ((_, job), tag) = entry.remove_entry();
            self.ready.insert(job, tag);
        }
        loop {
            let other = match self.last {
                Some(Modest::Defence) => self.ready.range(NO_DEFENCE..).next(),
                Some(Modest::Join) => self.ready.range(..JOINS).chain(self.ready.range(AFTER_JOINS..)).next(),
                None => None,
            };
            let (job, tag) = other.or(self.ready.first_key_value()).map(|(job, tag)| (*job, *tag))?;
            if !wanted(job, tag) {
                self.ready.remove(&job);
                continue;
            }
            if !self.bucket.take(now) {
                return None;
            }
            self.ready.remove(&job);
            self.last = Modest::of(job);
            return Some((job, tag));
        }
    }

    /// When there may be something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        let ready = (!self.ready.is_empty()).then(|| self.bucket.available_at());
        let later = self.later.first_key_value().map(|((at, _), _)| *at);
        ready.into_iter().chain(later).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn first_announcements_come_before_everything_that_repeats() {
        let mut schedule = Schedule::new(Pace { burst: 1, per_second: 1000 });
        let tag = Tag { gain: 1, since: Instant::ZERO };
        let gateway = Ipv4Addr::new(192, 0, 2, 254);
        schedule.add(Job::Again(1, address(1)), tag);
        schedule.add(Job::Gateway(address(1), gateway), tag);
        schedule.add(Job::First(address(2)), tag);
        schedule.add(Job::Defend(address(9)), tag);
        schedule.add(Job::First(address(1)), tag);
        let mut order = Vec::new();
        let mut now = Instant::from_millis(1);
        while let Some(due) = schedule.due() {
            now = now.max(due);
            order.extend(schedule.next(now, |_, _| true).map(|(job, _)| job));
        }
        assert_eq!(
            order,
            [
                Job::Defend(address(9)),
                Job::First(address(1)),
                Job::First(address(2)),
                Job::Gateway(address(1), gateway),
                Job::Again(1, address(1)),
            ]
        );
    }

    #[test]
    fn defences_take_every_other_token_at_most() {
        let mut schedule = Schedule::new(Pace { burst: 1, per_second: 1000 });
        let tag = Tag { gain: 1, since: Instant::ZERO };
        let mut order = Vec::new();
        schedule.add(Job::Probe(address(1)), tag);
        schedule.add(Job::First(address(2)), tag);
        for ms in 1..=6 {
            // As many claims as one likes.
            (10..20).for_each(|last| schedule.add(Job::Defend(address(last)), tag));
            order.extend(schedule.next(Instant::from_millis(ms), |_, _| true).map(|(job, _)| job));
        }
        let defends = |job: &Job| matches!(job, Job::Defend(_));
        assert_eq!(order.iter().map(defends).collect::<Vec<_>>(), [true, false, true, false, true, true]);
        assert_eq!((order[1], order[3]), (Job::First(address(2)), Job::Probe(address(1))));
    }

    #[test]
    fn joins_come_after_what_is_new_and_take_turns_with_the_rest() {
        let mut schedule = Schedule::new(Pace { burst: 1, per_second: 1000 });
        let tag = Tag { gain: 1, since: Instant::ZERO };
        let group = |last| Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, last);
        (1..=4).for_each(|last| schedule.add(Job::Join(group(last)), tag));
        (1..=2).for_each(|last| schedule.add(Job::Probe(address(last)), tag));
        schedule.add(Job::First(address(1)), tag);
        let mut order = Vec::new();
        for ms in 1..=7 {
            order.extend(schedule.next(Instant::from_millis(ms), |_, _| true).map(|(job, _)| job));
        }
        assert_eq!(
            order,
            [
                Job::First(address(1)),
                Job::Join(group(1)),
                Job::Probe(address(1)),
                Job::Join(group(2)),
                Job::Probe(address(2)),
                Job::Join(group(3)),
                Job::Join(group(4)),
            ]
        );
        // What is to be said is begun anew when an interface comes back; a group that was not joined is still to be.
        schedule.add(Job::Join(group(5)), tag);
        schedule.add(Job::First(address(1)), tag);
        schedule.clear();
        assert!(schedule.waits(Job::Join(group(5))) && !schedule.waits(Job::First(address(1))));
    }

    #[test]
    fn repeats_follow_their_table() {
        for (what, address, expected) in [
            ("ARP", address(1), vec![0, 100, 1100, 2200]),
            ("NDP", "2001:db8::1".parse().unwrap(), vec![0, 1100, 2200]),
        ] {
            let mut schedule = Schedule::new(Pace::NORMAL);
            let start = Instant::from_millis(1000);
            schedule.add(Job::First(address), Tag { gain: 1, since: start });
            let mut times = Vec::new();
            let mut now = start;
            while let Some(due) = schedule.due() {
                now = now.max(due);
                while let Some((job, tag)) = schedule.next(now, |_, _| true) {
                    times.push(now.saturating_since(start).as_millis());
                    schedule.repeat(job, tag);
                }
            }
            assert_eq!(times, expected, "{what}");
        }
    }

    #[test]
    fn what_is_not_wanted_costs_nothing() {
        let mut schedule = Schedule::new(Pace { burst: 1, per_second: 1 });
        let tag = Tag { gain: 1, since: Instant::ZERO };
        for last in 0..100 {
            schedule.add(Job::First(address(last)), tag);
        }
        let next = schedule.next(Instant::from_millis(1), |job, _| job.address() == address(99));
        assert_eq!(next.map(|(job, _)| job), Some(Job::First(address(99))));
        assert_eq!(schedule.due(), None);
    }
}
