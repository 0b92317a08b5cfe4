//! The contract of [`Announcer`].

use std::net::IpAddr;
use std::sync::Arc;

use crate::announce::{AnnounceSet, AnnounceState, AnnounceStatus, Announcement, Announcer, Stop};
use crate::elect::LeaseId;
use crate::time::{Duration, Instant};

/// What the suite needs of a backend's test environment: one node with one announcer whose driver runs, and an
/// observer elsewhere on its network.
pub trait Harness {
    /// The announcer under test.
    fn announcer(&self) -> Arc<dyn Announcer>;

    /// The time of the announcer's clock.
    fn now(&self) -> Instant;

    /// Lets `span` pass, with everything that falls due in it.
    fn advance(&mut self, span: Duration);

    /// How long a change takes from the call until the observer sees it. Zero is a fine answer.
    fn latency(&self) -> Duration;

    /// An announcement of `address` in this backend's terms, fenced by `lease`.
    fn announcement(&self, address: IpAddr, lease: Option<LeaseId>) -> Announcement;

    /// Whether the observer, asking the network and never the announcer, is told now that `address` is reached
    /// through this node.
    fn observe(&mut self, address: IpAddr) -> bool;

    /// How many announcements and withdrawals the observer has received so far; upkeep that is not caused by a
    /// change (keepalives, slow refreshes) does not count.
    fn changes(&self) -> u64;

    /// Stops the driver, waits for its end, and gives the last status.
    fn stop(&mut self, how: Stop) -> Arc<AnnounceStatus>;
}

type Build<'a> = &'a mut dyn FnMut() -> Box<dyn Harness>;

/// Runs every clause, each on a harness of its own.
pub fn run_all(build: Build<'_>) {
    for (_, clause) in CLAUSES {
        clause(&mut *build());
    }
}

/// A clause of the contract: asserts one promise on a fresh harness, and panics if it is broken.
pub type Clause = fn(&mut dyn Harness);

/// The clauses, by name.
pub const CLAUSES: &[(&str, Clause)] = &[
    ("announces_exactly_what_is_desired", announces_exactly_what_is_desired),
    ("is_silent_before_the_first_renewal", is_silent_before_the_first_renewal),
    ("goes_silent_at_the_deadline_by_itself", goes_silent_at_the_deadline_by_itself),
    ("renewal_extends_and_never_shortens", renewal_extends_and_never_shortens),
    ("each_lease_fences_its_own_entries", each_lease_fences_its_own_entries),
    ("resumes_under_a_new_lease", resumes_under_a_new_lease),
    ("withdraws_what_leaves_the_set", withdraws_what_leaves_the_set),
    ("an_older_generation_is_ignored", an_older_generation_is_ignored),
    ("an_equal_set_changes_nothing", an_equal_set_changes_nothing),
    ("an_entry_without_a_lease_is_shared_or_refused", an_entry_without_a_lease_is_shared_or_refused),
    ("withdraw_takes_everything_back", withdraw_takes_everything_back),
    ("preserve_is_kept_or_not_claimed", preserve_is_kept_or_not_claimed),
];

const LEASE: LeaseId = LeaseId::FIRST;
const LONG: Duration = Duration::from_secs(3600);
/// Longer than any burst of repeated announcements.
const SETTLED: Duration = Duration::from_secs(30);

fn address(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn set(harness: &dyn Harness, generation: u64, entries: &[(u8, Option<LeaseId>)]) {
    let entries =
        entries.iter().map(|(last, lease)| (address(*last), harness.announcement(address(*last), *lease)));
    harness.announcer().set_desired(Arc::new(AnnounceSet::new(generation, entries)));
}

fn settle(harness: &mut dyn Harness) {
    harness.advance(harness.latency());
}

fn assert_seen(harness: &mut dyn Harness, last: u8, expected: bool, why: &str) {
    let seen = harness.observe(address(last));
    assert_eq!(seen, expected, "{} is {}announced: {why}", address(last), if seen { "" } else { "not " });
}

/// What is desired is announced, nothing else, and the status says so.
pub fn announces_exactly_what_is_desired(harness: &mut dyn Harness) {
    set(harness, 1, &[(1, Some(LEASE)), (2, Some(LEASE))]);
    harness.announcer().renew(LEASE, harness.now() + LONG);
    settle(harness);
    assert_seen(harness, 1, true, "it is desired and its lease holds");
    assert_seen(harness, 2, true, "it is desired and its lease holds");
    assert_seen(harness, 3, false, "nobody asked for it");
    let status = harness.announcer().status().borrow().clone();
    assert_eq!(status.generation, 1, "the status tells which set it reflects");
    assert_eq!(status.entries.keys().copied().collect::<Vec<_>>(), [address(1), address(2)]);
    for (address, state) in &status.entries {
        assert!(state.is_announced(), "the status of {address} is {state:?} while it is announced");
    }
}

/// A lease of which nothing is known does not hold.
pub fn is_silent_before_the_first_renewal(harness: &mut dyn Harness) {
    set(harness, 1, &[(1, Some(LEASE))]);
    settle(harness);
    assert_seen(harness, 1, false, "its lease was never renewed");
    let status = harness.announcer().status().borrow().clone();
    assert_eq!(status.generation, 1);
    let state = status.entries.get(&address(1)).expect("the status names every desired address");
    assert!(matches!(state, AnnounceState::Silent(_)), "the status of a silent address is {state:?}");
    harness.announcer().renew(LEASE, harness.now() + LONG);
    settle(harness);
    assert_seen(harness, 1, true, "its lease holds now");
}

/// At the deadline it is silent though nobody calls it.
pub fn goes_silent_at_the_deadline_by_itself(harness: &mut dyn Harness) {
    let lease = Duration::from_secs(5);
    set(harness, 1, &[(1, Some(LEASE))]);
    let until = harness.now() + lease;
    harness.announcer().renew(LEASE, until);
    settle(harness);
    assert_seen(harness, 1, true, "its lease holds");
    harness.advance(until.saturating_since(harness.now()) - Duration::from_millis(1) - harness.latency());
    assert_seen(harness, 1, true, "its lease still holds");
    harness.advance(until.saturating_since(harness.now()) + harness.latency());
    assert_seen(harness, 1, false, "its lease ran out");
    settle(harness);
    let status = harness.announcer().status().borrow().clone();
    let state = status.entries.get(&address(1)).expect("the status names every desired address");
    assert!(!state.is_announced(), "the status of a lapsed address is {state:?}");
}

/// A later deadline counts, an earlier one does not.
pub fn renewal_extends_and_never_shortens(harness: &mut dyn Harness) {
    set(harness, 1, &[(1, Some(LEASE))]);
    let start = harness.now();
    harness.announcer().renew(LEASE, start + Duration::from_secs(5));
    harness.announcer().renew(LEASE, start + Duration::from_secs(9));
    harness.announcer().renew(LEASE, start + Duration::from_secs(2));
    harness.advance(Duration::from_secs(8));
    assert_seen(harness, 1, true, "the latest deadline is a second away");
    harness.advance(Duration::from_secs(1) + harness.latency());
    assert_seen(harness, 1, false, "the latest deadline has passed");
}

/// One lease's end is nothing to the entries of another.
pub fn each_lease_fences_its_own_entries(harness: &mut dyn Harness) {
    let other = LEASE.next();
    set(harness, 1, &[(1, Some(LEASE)), (2, Some(other))]);
    harness.announcer().renew(LEASE, harness.now() + Duration::from_secs(2));
    harness.announcer().renew(other, harness.now() + LONG);
    settle(harness);
    assert_seen(harness, 1, true, "its lease holds");
    harness.advance(Duration::from_secs(2) + harness.latency());
    assert_seen(harness, 1, false, "its lease ran out");
    assert_seen(harness, 2, true, "its own lease holds");
}

/// After a lapse, a new set under a new lease is announced again.
pub fn resumes_under_a_new_lease(harness: &mut dyn Harness) {
    set(harness, 1, &[(1, Some(LEASE))]);
    harness.announcer().renew(LEASE, harness.now() + Duration::from_secs(1));
    harness.advance(Duration::from_secs(1) + harness.latency());
    assert_seen(harness, 1, false, "its lease ran out");
    set(harness, 2, &[(1, Some(LEASE.next()))]);
    harness.announcer().renew(LEASE.next(), harness.now() + LONG);
    settle(harness);
    assert_seen(harness, 1, true, "its new lease holds");
}

/// An address that is no longer desired is withdrawn, and leaves the status.
pub fn withdraws_what_leaves_the_set(harness: &mut dyn Harness) {
    set(harness, 1, &[(1, Some(LEASE)), (2, Some(LEASE))]);
    harness.announcer().renew(LEASE, harness.now() + LONG);
    settle(harness);
    set(harness, 2, &[(2, Some(LEASE))]);
    settle(harness);
    assert_seen(harness, 1, false, "it left the set");
    assert_seen(harness, 2, true, "it stayed in the set");
    let status = harness.announcer().status().borrow().clone();
    assert_eq!(status.generation, 2);
    assert_eq!(status.entries.keys().copied().collect::<Vec<_>>(), [address(2)]);
}

/// Sets that overtake each other on the way do no harm.
pub fn an_older_generation_is_ignored(harness: &mut dyn Harness) {
    set(harness, 7, &[(1, Some(LEASE))]);
    harness.announcer().renew(LEASE, harness.now() + LONG);
    settle(harness);
    set(harness, 6, &[]);
    settle(harness);
    assert_seen(harness, 1, true, "the set without it is older");
    assert_eq!(harness.announcer().status().borrow().generation, 7);
}

/// The same set under a newer generation says nothing to the network.
pub fn an_equal_set_changes_nothing(harness: &mut dyn Harness) {
    set(harness, 1, &[(1, Some(LEASE)), (2, Some(LEASE))]);
    harness.announcer().renew(LEASE, harness.now() + LONG);
    harness.advance(SETTLED);
    let before = harness.changes();
    assert!(before > 0, "the observer counts what it was told");
    set(harness, 2, &[(1, Some(LEASE)), (2, Some(LEASE))]);
    harness.announcer().renew(LEASE, harness.now() + LONG);
    harness.advance(SETTLED);
    assert_eq!(harness.changes(), before, "an equal set and a renewal are no news to the network");
    assert_eq!(harness.announcer().status().borrow().generation, 2, "but the status reflects them");
    assert_seen(harness, 1, true, "it is desired");
}

/// Without a lease: announced by one who can share, refused by one who cannot.
pub fn an_entry_without_a_lease_is_shared_or_refused(harness: &mut dyn Harness) {
    let shared = harness.announcer().capabilities().shared;
    set(harness, 1, &[(1, None)]);
    settle(harness);
    assert_seen(harness, 1, shared, "capabilities().shared decides on an entry without a lease");
    harness.advance(LONG);
    assert_seen(harness, 1, shared, "no lease, no deadline");
    let status = harness.announcer().status().borrow().clone();
    let state = status.entries.get(&address(1)).expect("the status names every desired address");
    assert_eq!(state.is_announced(), shared, "the status says what is so: {state:?}");
}

/// An orderly stop leaves nothing behind, and says so.
pub fn withdraw_takes_everything_back(harness: &mut dyn Harness) {
    set(harness, 1, &[(1, Some(LEASE)), (2, Some(LEASE))]);
    harness.announcer().renew(LEASE, harness.now() + LONG);
    settle(harness);
    assert_seen(harness, 1, true, "its lease holds");
    let last = harness.stop(Stop::Withdraw);
    assert_seen(harness, 1, false, "the driver stopped");
    assert_seen(harness, 2, false, "the driver stopped");
    assert!(last.entries.is_empty(), "the last status is empty, not {last:?}");
}

/// `Stop::Preserve` keeps what was announced, if and only if the backend claims it can.
pub fn preserve_is_kept_or_not_claimed(harness: &mut dyn Harness) {
    let preserve = harness.announcer().capabilities().preserve;
    set(harness, 1, &[(1, Some(LEASE))]);
    harness.announcer().renew(LEASE, harness.now() + LONG);
    settle(harness);
    harness.stop(Stop::Preserve);
    assert_seen(harness, 1, preserve, "capabilities().preserve decides what outlives the driver");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announce::{AnnouncerCapabilities, Interfaces};
    use crate::condition::Condition;
    use crate::elect::Term;
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use tokio::sync::watch;

    /// What a fake gets wrong.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Defect {
        None,
        AnnouncesNothing,
        AnnouncesWithoutRenewal,
        ForgetsDeadline,
        LastRenewalWins,
        OneLeaseForAll,
        NeverResumes,
        KeepsWhatLeft,
        TakesOlderSets,
        RepeatsEqualSets,
        ClaimsSharing,
        KeepsOnStop,
        ClaimsPreserve,
        StatusLies,
    }

    /// The whole network in a struct: an address is announced if the fake would answer for it now.
    #[derive(Debug)]
    struct Fake {
        defect: Defect,
        state: Mutex<State>,
        status: watch::Sender<Arc<AnnounceStatus>>,
    }

    #[derive(Debug, Default)]
    struct State {
        now: Instant,
        desired: Arc<AnnounceSet>,
        leases: BTreeMap<LeaseId, Instant>,
        changes: u64,
        stopped: Option<Stop>,
        lapsed: bool,
    }

    impl Fake {
        fn announced(&self, state: &State, address: IpAddr) -> bool {
            match state.stopped {
                Some(Stop::Withdraw) if self.defect != Defect::KeepsOnStop => return false,
                Some(Stop::Preserve) => return false,
                _ => {}
            }
            if self.defect == Defect::AnnouncesNothing
                || (self.defect == Defect::NeverResumes && state.lapsed)
            {
                return false;
            }
            state.desired.entries.get(&address).is_some_and(|entry| match entry.lease {
                None => self.capabilities().shared && self.defect != Defect::ClaimsSharing,
                Some(_) if self.defect == Defect::AnnouncesWithoutRenewal => true,
                Some(lease) => {
                    let lease = if self.defect == Defect::OneLeaseForAll { LEASE } else { lease };
                    let until = state.leases.get(&lease);
                    until.is_some_and(|until| state.now < *until || self.defect == Defect::ForgetsDeadline)
                }
            })
        }

        fn publish(&self, state: &mut State) {
            let mut status = AnnounceStatus { generation: state.desired.generation, ..Default::default() };
            for address in state.desired.entries.keys() {
                let announced = self.announced(state, *address) || self.defect == Defect::StatusLies;
                state.lapsed |= !announced && state.now > Instant::ZERO && !state.leases.is_empty();
                let value = if announced {
                    AnnounceState::Announced { to: vec!["net".into()] }
                } else {
                    AnnounceState::Silent(Condition::no("Announced", "LeaseExpired", "the lease ran out"))
                };
                status.entries.insert(*address, value);
            }
            if state.stopped == Some(Stop::Withdraw) {
                status.entries.clear();
            }
            self.status.send_replace(Arc::new(status));
        }
    }

    impl Announcer for Fake {
        fn set_desired(&self, desired: Arc<AnnounceSet>) {
            let state = &mut *self.state.lock().unwrap();
            if desired.generation < state.desired.generation && self.defect != Defect::TakesOlderSets {
                return;
            }
            if desired.entries != state.desired.entries || self.defect == Defect::RepeatsEqualSets {
                state.changes += 1;
            }
            let mut desired = (*desired).clone();
            if self.defect == Defect::KeepsWhatLeft {
                desired.entries.extend(state.desired.entries.clone());
            }
            state.desired = Arc::new(desired);
            self.publish(state);
        }

        fn renew(&self, lease: LeaseId, until: Instant) {
            let state = &mut *self.state.lock().unwrap();
            let known = state.leases.entry(lease).or_default();
            *known = if self.defect == Defect::LastRenewalWins { until } else { until.max(*known) };
            self.publish(state);
        }

        fn status(&self) -> watch::Receiver<Arc<AnnounceStatus>> {
            self.status.subscribe()
        }

        fn capabilities(&self) -> AnnouncerCapabilities {
            AnnouncerCapabilities::new(true, self.defect == Defect::ClaimsPreserve)
        }
    }

    struct FakeHarness(Arc<Fake>);

    impl Harness for FakeHarness {
        fn announcer(&self) -> Arc<dyn Announcer> {
            self.0.clone()
        }

        fn now(&self) -> Instant {
            self.0.state.lock().unwrap().now
        }

        fn advance(&mut self, span: Duration) {
            let state = &mut *self.0.state.lock().unwrap();
            state.now += span;
            self.0.publish(state);
        }

        fn latency(&self) -> Duration {
            Duration::ZERO
        }

        fn announcement(&self, _address: IpAddr, lease: Option<LeaseId>) -> Announcement {
            match lease {
                Some(lease) => Announcement::on_segment(lease, Term(2), Interfaces::All),
                None => Announcement::default(),
            }
        }

        fn observe(&mut self, address: IpAddr) -> bool {
            let state = self.0.state.lock().unwrap();
            self.0.announced(&state, address)
        }

        fn changes(&self) -> u64 {
            self.0.state.lock().unwrap().changes
        }

        fn stop(&mut self, how: Stop) -> Arc<AnnounceStatus> {
            let state = &mut *self.0.state.lock().unwrap();
            state.stopped = Some(how);
            self.0.publish(state);
            self.0.status.borrow().clone()
        }
    }

    fn build(defect: Defect) -> Box<dyn Harness> {
        let (status, _) = watch::channel(Arc::new(AnnounceStatus::default()));
        let state = Mutex::new(State { now: Instant::from_millis(1), ..State::default() });
        Box::new(FakeHarness(Arc::new(Fake { defect, state, status })))
    }

    #[test]
    fn a_right_one_passes() {
        run_all(&mut || build(Defect::None));
    }

    #[test]
    fn each_clause_fails_against_its_broken_fake() {
        for (clause, defect) in [
            ("announces_exactly_what_is_desired", Defect::AnnouncesNothing),
            ("is_silent_before_the_first_renewal", Defect::AnnouncesWithoutRenewal),
            ("is_silent_before_the_first_renewal", Defect::StatusLies),
            ("goes_silent_at_the_deadline_by_itself", Defect::ForgetsDeadline),
            ("goes_silent_at_the_deadline_by_itself", Defect::StatusLies),
            ("renewal_extends_and_never_shortens", Defect::LastRenewalWins),
            ("each_lease_fences_its_own_entries", Defect::OneLeaseForAll),
            ("resumes_under_a_new_lease", Defect::NeverResumes),
            ("withdraws_what_leaves_the_set", Defect::KeepsWhatLeft),
            ("an_older_generation_is_ignored", Defect::TakesOlderSets),
            ("an_equal_set_changes_nothing", Defect::RepeatsEqualSets),
            ("an_entry_without_a_lease_is_shared_or_refused", Defect::ClaimsSharing),
            ("withdraw_takes_everything_back", Defect::KeepsOnStop),
            ("preserve_is_kept_or_not_claimed", Defect::ClaimsPreserve),
        ] {
            let (_, run) = CLAUSES.iter().find(|(name, _)| *name == clause).expect("a clause of this name");
            let failed = std::panic::catch_unwind(|| run(&mut *build(defect))).is_err();
            assert!(failed, "{clause} does not notice {defect:?}");
        }
    }
}
