use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::time::Instant;

/// Ways in which the machine could be wrong. Each must be noticed by the properties below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutant {
    /// The deadline counts from when the answer came, not from when the renewal was sent.
    HoldFromAnswer,
    /// The deadline is T after the renewal was sent, as if all clocks ran alike.
    IgnoreDrift,
    /// The challenger counts from when it first saw this holder, not from the last change of the record.
    WaitFromFirstSightOfHolder,
    /// The challenger counts from its last read.
    WaitFromLastRead,
    /// A record that is missing is taken at once.
    TakeWhatIsMissing,
    /// A lease that ran out is renewed.
    RenewAfterExpiry,
}

const T: Duration = Duration::from_millis(1000);

/// Clocks that are off by 10 %, so that an error in the arithmetic shows.
fn timing() -> Timing {
    Timing {
        duration: T,
        renew: Duration::from_millis(120),
        timeout: Duration::from_millis(150),
        margin: Duration::from_millis(5),
        drift_ppm: 100_000,
    }
}

fn millis(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

// ---- The simulation: true time, machines with clocks of their own, and a network that does as it likes.

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Clone, Debug)]
struct World {
    seed: u64,
    nodes: usize,
    /// How many messages of a hundred are lost, come twice, or come very late.
    lost: u64,
    twice: u64,
    late: u64,
    /// Whether processes stop, links break, leases are released, records are deleted.
    pauses: bool,
    cuts: bool,
    releases: bool,
    deletions: bool,
    mutant: Option<Mutant>,
}

impl World {
    fn of_seed(seed: u64, mutant: Option<Mutant>) -> Self {
        let mut random = Random(seed);
        Self {
            seed,
            nodes: 2 + random.below(3) as usize,
            lost: random.below(20),
            twice: random.below(20),
            late: random.below(20),
            pauses: random.chance(70),
            cuts: random.chance(70),
            releases: random.chance(50),
            deletions: random.chance(50),
            mutant,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Breach {
    TwoHolders { first: usize, second: usize, at: u64 },
    RenewedAfterItRanOut { node: usize, at: u64 },
    TermsDoNotRise { node: usize, at: u64 },
    NobodyHolds,
    Storm,
}

#[derive(Clone, Debug)]
enum Step {
    Wake(usize),
    Tell(usize, Input<u8>),
    Ask(usize, Output<u8>),
    Disturb,
}

struct Node {
    lease: Lease<u8>,
    /// The clock: how much faster than true time it runs, in millionths, and what it showed at the start.
    rate: i64,
    offset: u64,
    wake_at: u64,
    stopped_until: u64,
    cut_until: u64,
    /// The lease as whoever acts on it knows it: until when, on this node's clock.
    claim: Option<(Term, Instant)>,
}

impl Node {
    fn local(&self, now: u64) -> Instant {
        let ran = u128::from(now) * (1_000_000 + i128::from(self.rate)) as u128 / 1_000_000;
        Instant::from_nanos(self.offset + ran as u64)
    }

    /// The last nanosecond of true time at which the clock does not show more than this.
    fn true_time(&self, local: Instant) -> u64 {
        let ran = u128::from(local.as_nanos() - self.offset);
        (ran * 1_000_000 / (1_000_000 + i128::from(self.rate)) as u128) as u64
    }
}

struct Simulation {
    world: World,
    random: Random,
    now: u64,
    steps: BTreeMap<(u64, u64), Step>,
    count: u64,
    nodes: Vec<Node>,
    stored: Option<(u64, Record<u8>)>,
    revision: u64,
    highest_term: Term,
    calm: bool,
}

const MILLI: u64 = 1_000_000;
const CHAOS: u64 = 20_000 * MILLI;

impl Simulation {
    fn new(world: World) -> Self {
        let mut random = Random(world.seed ^ 0x5eed);
        let nodes = (0..world.nodes).map(|number| {
            let holder = Holder::new(NodeName::new(format!("n{number}")), number as u64);
            let mut lease = Lease::new(holder, timing(), Goal::Hold, 0).unwrap();
            lease.mutant = world.mutant;
            // Mostly the extremes.
            let rate = *[-100_000, 100_000, 0, 37_000].get(random.below(4) as usize).unwrap();
            let offset = random.below(1_000_000_000_000);
            Node { lease, rate, offset, wake_at: 0, stopped_until: 0, cut_until: 0, claim: None }
        });
        let nodes: Vec<_> = nodes.collect();
        let mut simulation = Self {
            world,
            random,
            now: 0,
            steps: BTreeMap::new(),
            count: 0,
            nodes,
            stored: None,
            revision: 0,
            highest_term: Term(0),
            calm: false,
        };
        for node in 0..simulation.nodes.len() {
            simulation.at(0, Step::Wake(node));
        }
        simulation.at(300 * MILLI, Step::Disturb);
        simulation
    }

    fn at(&mut self, when: u64, step: Step) {
        self.count += 1;
        self.steps.insert((when.max(self.now), self.count), step);
    }

    /// Chaos, then calm; at the end somebody must hold the lease.
    fn run(mut self) -> Result<(), Breach> {
        // Two T by true time, on the slowest clock, and a few renewals.
        let end = CHAOS + 2 * 1112 * MILLI + 500 * MILLI;
        while let Some(((when, _), step)) = self.steps.pop_first() {
            if when > end {
                break;
            }
            self.now = when;
            self.calm = when >= CHAOS;
            self.step(step)?;
            if self.count > 40_000 {
                return Err(Breach::Storm);
            }
        }
        let now = self.now;
        let holds = |node: &Node| node.claim.is_some_and(|(_, until)| node.true_time(until) >= now);
        if self.nodes.iter().any(holds) { Ok(()) } else { Err(Breach::NobodyHolds) }
    }

    fn step(&mut self, step: Step) -> Result<(), Breach> {
        match step {
            // Another time has been set since.
            Step::Wake(index) if self.nodes[index].wake_at != self.now => {}
            Step::Wake(index) | Step::Tell(index, _) if self.nodes[index].stopped_until > self.now => {
                let until = self.nodes[index].stopped_until;
                if matches!(step, Step::Wake(_)) {
                    self.nodes[index].wake_at = until;
                }
                self.at(until, step);
            }
            Step::Wake(index) => {
                let now = self.nodes[index].local(self.now);
                self.nodes[index].lease.handle_timeout(now);
                self.drain(index)?;
            }
            Step::Tell(index, input) => {
                let now = self.nodes[index].local(self.now);
                self.nodes[index].lease.handle(now, input);
                self.drain(index)?;
            }
            Step::Ask(index, output) => {
                let answer = self.answer(output);
                self.send(index, &Step::Tell(index, answer));
            }
            Step::Disturb if !self.calm => {
                self.disturb()?;
                let next = self.now + (20 + self.random.below(1500)) * MILLI;
                self.at(next, Step::Disturb);
            }
            Step::Disturb => {}
        }
        Ok(())
    }

    fn disturb(&mut self) -> Result<(), Breach> {
        let index = self.random.below(self.nodes.len() as u64) as usize;
        let until = (self.now + self.random.below(3000) * MILLI).min(CHAOS);
        match self.random.below(4) {
            0 if self.world.pauses => self.nodes[index].stopped_until = until,
            1 if self.world.cuts => self.nodes[index].cut_until = until,
            2 if self.world.releases && self.nodes[index].stopped_until <= self.now => {
                let now = self.nodes[index].local(self.now);
                self.nodes[index].lease.handle(now, Input::Goal(Goal::Observe));
                self.drain(index)?;
                let back = self.now + self.random.below(800) * MILLI;
                self.at(back, Step::Tell(index, Input::Goal(Goal::Hold)));
            }
            3 if self.world.deletions => self.stored = None,
            _ => {}
        }
        Ok(())
    }

    fn answer(&mut self, output: Output<u8>) -> Input<u8> {
        match output {
            Output::Read { ticket } => {
                let found = self.stored.clone().map(|(revision, record)| (revision.into(), record));
                Input::Seen { ticket, found }
            }
            Output::Write { ticket, expected, record } => {
                let stored = self.stored.as_ref().map(|(revision, _)| Revision::from(*revision));
                let outcome = if stored == expected {
                    self.revision += 1;
                    self.stored = Some((self.revision, record));
                    Ok(self.revision.into())
                } else {
                    Err(WriteFailure::Conflict)
                };
                Input::Written { ticket, outcome }
            }
        }
    }

    fn send(&mut self, index: usize, message: &Step) {
        if !self.calm && (self.random.chance(self.world.lost) || self.nodes[index].cut_until > self.now) {
            return;
        }
        let copies = if !self.calm && self.random.chance(self.world.twice) { 2 } else { 1 };
        for _ in 0..copies {
            let late = !self.calm && self.random.chance(self.world.late);
            let delay = self.random.below(if late { 2500 } else { 12 }) * MILLI + self.random.below(MILLI);
            self.at(self.now + delay, message.clone());
        }
    }

    fn drain(&mut self, index: usize) -> Result<(), Breach> {
        while let Some(output) = self.nodes[index].lease.poll_output() {
            self.send(index, &Step::Ask(index, output));
        }
        while let Some(event) = self.nodes[index].lease.poll_event() {
            self.event(index, &event)?;
        }
        let node = &self.nodes[index];
        if let Some(due) = node.lease.poll_timeout() {
            let due = (node.true_time(due.max(Instant::from_nanos(node.offset))) + 1).max(self.now);
            self.nodes[index].wake_at = due;
            self.at(due, Step::Wake(index));
        }
        Ok(())
    }

    fn event(&mut self, index: usize, event: &Event) -> Result<(), Breach> {
        let at = self.now;
        let local = self.nodes[index].local(at);
        match *event {
            Event::Acquired { term, until } => {
                self.nodes[index].claim = Some((term, until));
                // A record that was deleted starts again at one.
                if term <= self.highest_term && !self.world.deletions {
                    return Err(Breach::TermsDoNotRise { node: index, at });
                }
                self.highest_term = term;
            }
            Event::Renewed { until } => match &mut self.nodes[index].claim {
                Some((_, old)) if *old > local => *old = until,
                _ => return Err(Breach::RenewedAfterItRanOut { node: index, at }),
            },
            Event::Lost(_) => {
                self.nodes[index].claim = None;
                return Ok(());
            }
            Event::Fenced => return Ok(()),
        }
        // Whoever acts on a lease acts until its deadline, whether its machine runs or not.
        for (other, node) in self.nodes.iter().enumerate().filter(|(other, _)| *other != index) {
            if node.claim.is_some_and(|(_, until)| node.true_time(until) > at) {
                return Err(Breach::TwoHolders { first: other, second: index, at });
            }
        }
        Ok(())
    }
}

fn run(world: World) -> Result<(), Breach> {
    Simulation::new(world).run()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_two_holders_ever_and_one_again_when_the_network_is_good(seed in any::<u64>()) {
        let world = World::of_seed(seed, None);
        prop_assert_eq!(run(world.clone()), Ok(()), "{:?}", world);
    }
}

#[test]
fn the_properties_notice_each_mutant() {
    let found = |mutant| (0..2000).find_map(|seed| run(World::of_seed(seed, Some(mutant))).err());
    let mutants = [
        Mutant::HoldFromAnswer,
        Mutant::IgnoreDrift,
        Mutant::WaitFromFirstSightOfHolder,
        Mutant::TakeWhatIsMissing,
    ];
    for mutant in mutants {
        assert!(matches!(found(mutant), Some(Breach::TwoHolders { .. })), "{mutant:?}: {:?}", found(mutant));
    }
    assert_eq!(found(Mutant::WaitFromLastRead), Some(Breach::NobodyHolds));
    let renewed = found(Mutant::RenewAfterExpiry);
    assert!(matches!(renewed, Some(Breach::RenewedAfterItRanOut { .. })), "{renewed:?}");
}

// ---- Single steps.

/// One machine and a store by hand.
struct Bench {
    lease: Lease<u8>,
    stored: Option<(u64, Record<u8>)>,
}

impl Bench {
    fn new(goal: Goal) -> Self {
        Self { lease: Lease::new(Holder::new("me".into(), 1), timing(), goal, 0).unwrap(), stored: None }
    }

    fn with(mut self, state: State, term: u64) -> Self {
        self.stored = Some((100, Record::new(state, Term(term), 1, T, 9)));
        self
    }

    fn other() -> State {
        State::Held(Holder::new("other".into(), 2))
    }

    fn outputs(&mut self) -> Vec<Output<u8>> {
        std::iter::from_fn(|| self.lease.poll_output()).collect()
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.lease.poll_event()).collect()
    }

    /// Runs the machine at `now` and answers all that it asks at once.
    fn serve(&mut self, now: Instant) -> Vec<Event> {
        self.lease.handle_timeout(now);
        loop {
            let outputs = self.outputs();
            if outputs.is_empty() {
                return self.events();
            }
            for output in outputs {
                let answer = self.answer(&output);
                self.lease.handle(now, answer);
            }
        }
    }

    /// Like `serve`, whenever the machine wants, until `end`.
    fn serve_until(&mut self, end: Instant) -> Vec<(Instant, Event)> {
        let mut events = Vec::new();
        while let Some(due) = self.lease.poll_timeout().filter(|due| *due <= end) {
            events.extend(self.serve(due).into_iter().map(|event| (due, event)));
        }
        events
    }

    fn answer(&mut self, output: &Output<u8>) -> Input<u8> {
        match output {
            Output::Read { ticket } => {
                let found = self.stored.clone().map(|(revision, record)| (revision.into(), record));
                Input::Seen { ticket: *ticket, found }
            }
            Output::Write { ticket, expected, record } => {
                let stored = self.stored.as_ref().map(|(revision, _)| Revision::from(*revision));
                let outcome = if stored == *expected {
                    let revision = self.stored.as_ref().map_or(100, |(revision, _)| revision + 1);
                    self.stored = Some((revision, record.clone()));
                    Ok(revision.into())
                } else {
                    Err(WriteFailure::Conflict)
                };
                Input::Written { ticket: *ticket, outcome }
            }
        }
    }

    fn only_write(&mut self) -> (Ticket, Record<u8>) {
        match &self.outputs()[..] {
            [Output::Write { ticket, record, .. }] => (*ticket, record.clone()),
            outputs => panic!("{outputs:?}"),
        }
    }

    fn only_read(&mut self) -> Ticket {
        match &self.outputs()[..] {
            [Output::Read { ticket }] => *ticket,
            outputs => panic!("{outputs:?}"),
        }
    }
}

fn hold() -> Duration {
    timing().hold()
}

#[test]
fn a_deadline_is_the_formula() {
    let timing = Timing { margin: Duration::from_millis(50), drift_ppm: 500, ..Timing::of(T) };
    // 1 s · 0.9995 / 1.0005 − 50 ms
    assert_eq!(timing.hold(), Duration::from_nanos(999_000_499 - 50_000_000));
    assert_eq!(Timing { drift_ppm: 0, margin: Duration::ZERO, ..timing }.hold(), T);
    assert_eq!(Timing { drift_ppm: u32::MAX, ..timing }.hold(), Duration::ZERO);
    assert_eq!(Timing { duration: Duration::MAX, ..timing }.check(), Ok(()));
}

#[test]
fn timings_that_cannot_work_are_refused() {
    let good = Timing::of(T);
    assert_eq!(good.check(), Ok(()));
    let zero = Duration::ZERO;
    for timing in
        [Timing { duration: zero, ..good }, Timing { renew: zero, ..good }, Timing { timeout: zero, ..good }]
    {
        assert_eq!(timing.check(), Err(TimingError::Zero));
    }
    assert_eq!(Timing { drift_ppm: 1_000_000, ..good }.check(), Err(TimingError::Drift(1_000_000)));
    assert!(matches!(Timing { margin: T, ..good }.check(), Err(TimingError::Margin { .. })));
    assert!(matches!(Timing { renew: T / 2, ..good }.check(), Err(TimingError::Renewal { .. })));
    assert!(matches!(Timing { timeout: Duration::MAX, ..good }.check(), Err(TimingError::Renewal { .. })));
    assert!(Lease::new(Holder::new("n".into(), 1), Timing { renew: T, ..good }, Goal::Hold, 0).is_err());
}

#[test]
fn a_free_record_is_taken_at_once_and_renewed() {
    let mut bench = Bench::new(Goal::Hold).with(State::Free, 4);
    let start = millis(50);
    assert_eq!(bench.serve(start), [Event::Acquired { term: Term(5), until: start + hold() }]);
    let renewed = bench.serve_until(start + Duration::from_millis(250));
    let expected = [120, 240].map(|after| {
        let at = start + Duration::from_millis(after);
        (at, Event::Renewed { until: at + hold() })
    });
    assert_eq!(renewed, expected);
    assert_eq!(bench.stored.as_ref().unwrap().1.term, Term(5));
}

#[test]
fn a_silent_holder_is_waited_out_from_its_last_change() {
    let mut bench = Bench::new(Goal::Hold).with(Bench::other(), 4);
    assert_eq!(bench.serve(millis(0)), []);
    assert_eq!(bench.serve_until(millis(700)), []);
    // It renews, and is seen to at the next read.
    bench.stored.as_mut().unwrap().0 = 200;
    let events = bench.serve_until(millis(3000));
    assert_eq!(events[0], (millis(1720), Event::Acquired { term: Term(5), until: millis(1720) + hold() }));
}

#[test]
fn what_is_missing_is_waited_out_too() {
    let mut bench = Bench::new(Goal::Hold);
    assert_eq!(bench.serve(millis(0)), []);
    let events = bench.serve_until(millis(1000));
    assert_eq!(events, [(millis(1000), Event::Acquired { term: Term(2), until: millis(1000) + hold() })]);
}

#[test]
fn what_is_missing_is_written_anew_before_it_is_fenced() {
    let mut bench = Bench::new(Goal::Fence);
    assert_eq!(bench.serve(millis(0)), []);
    assert_eq!(bench.stored.as_ref().unwrap().1.state, State::New);
    assert_eq!(bench.serve_until(millis(1500)), [(millis(1000), Event::Fenced)]);
}

#[test]
fn the_holders_own_duration_counts() {
    let mut bench = Bench::new(Goal::Fence).with(Bench::other(), 4);
    bench.stored.as_mut().unwrap().1.duration = 3 * T;
    bench.serve(millis(0));
    let events = bench.serve_until(millis(5000));
    assert_eq!(events, [(millis(3000), Event::Fenced)]);
    let (_, record) = bench.stored.unwrap();
    assert_eq!((record.state, record.term, record.note), (State::Free, Term(5), 9));
}

#[test]
fn a_predecessor_of_the_same_name_is_waited_out() {
    let mut bench = Bench::new(Goal::Hold).with(State::Held(Holder::new("me".into(), 99)), 4);
    assert_eq!(bench.serve(millis(0)), []);
    let events = bench.serve_until(millis(1000));
    assert!(matches!(events[..], [(_, Event::Acquired { term: Term(5), .. })]), "{events:?}");
}

#[test]
fn a_lost_answer_counts_from_when_it_was_sent() {
    let mut bench = Bench::new(Goal::Hold).with(State::Free, 0);
    bench.lease.handle_timeout(millis(0));
    let ticket = bench.only_read();
    let seen = bench.answer(&Output::Read { ticket });
    bench.lease.handle(millis(10), seen);
    let (ticket, record) = bench.only_write();
    bench.stored = Some((101, record));
    // No answer: it reads, and finds its own write.
    let events = bench.serve_until(millis(400));
    let (at, event) = &events[0];
    assert_eq!(*event, Event::Acquired { term: Term(1), until: millis(10) + hold() });
    assert_eq!(*at, millis(10) + timing().renew);
    // The answer, at last, says nothing new.
    bench.lease.handle(millis(410), Input::Written { ticket, outcome: Ok(101.into()) });
    assert_eq!(bench.events(), []);
}

#[test]
fn a_renewal_that_succeeds_too_late_renews_nothing() {
    let mut bench = Bench::new(Goal::Hold).with(State::Free, 0);
    bench.serve(millis(0));
    bench.lease.handle_timeout(millis(120));
    let (ticket, record) = bench.only_write();
    bench.stored = Some((102, record));
    // The process stood still.
    let late = millis(120) + hold();
    bench.lease.handle(late, Input::Written { ticket, outcome: Ok(102.into()) });
    assert_eq!(bench.events(), [Event::Lost(Loss::Expired)]);
    // Nobody took it meanwhile: it is acquired anew, in another term.
    assert_eq!(bench.serve(late), [Event::Acquired { term: Term(2), until: late + hold() }]);
}

#[test]
fn a_conflict_ends_the_lease_when_another_is_seen() {
    let mut bench = Bench::new(Goal::Hold).with(State::Free, 0);
    bench.serve(millis(0));
    bench.stored = Some((500, Record::new(Bench::other(), Term(7), 1, T, 0)));
    assert_eq!(bench.serve(millis(120)), [Event::Lost(Loss::Superseded)]);
    bench.stored = None;
    assert_eq!(bench.lease.held(), None);
}

#[test]
fn a_read_that_began_before_a_write_was_answered_is_old() {
    let mut bench = Bench::new(Goal::Hold).with(State::Free, 0);
    bench.lease.handle_timeout(millis(0));
    let first = bench.only_read();
    let second = bench.lease.begin_read(millis(0));
    let [first, second] = [first, second].map(|ticket| bench.answer(&Output::Read { ticket }));
    bench.lease.handle(millis(1), first);
    assert!(matches!(bench.serve(millis(1))[..], [Event::Acquired { .. }]));
    bench.lease.handle(millis(2), second);
    assert_eq!(bench.events(), []);
    assert_eq!(bench.outputs(), []);
    assert!(bench.lease.held().is_some());
}

#[test]
fn a_store_that_forgets_is_noticed() {
    let mut bench = Bench::new(Goal::Hold).with(State::Free, 0);
    bench.serve(millis(0));
    let before = bench.stored.clone();
    bench.serve(millis(120));
    bench.stored = before;
    let ticket = bench.lease.begin_read(millis(130));
    let seen = bench.answer(&Output::Read { ticket });
    bench.lease.handle(millis(130), seen);
    assert_eq!(bench.events(), [Event::Lost(Loss::Forgotten)]);
}

#[test]
fn a_release_stops_first_and_frees_the_record() {
    let mut bench = Bench::new(Goal::Hold).with(State::Free, 0);
    bench.serve(millis(0));
    bench.lease.handle(millis(20), Input::Goal(Goal::Observe));
    assert_eq!(bench.events(), [Event::Lost(Loss::Released)]);
    assert_eq!(bench.serve(millis(20)), []);
    assert_eq!(bench.stored.as_ref().unwrap().1.state, State::Free);
}

#[test]
fn a_new_note_is_written_at_once() {
    let mut bench = Bench::new(Goal::Hold).with(State::Free, 0);
    bench.serve(millis(0));
    bench.lease.handle(millis(20), Input::Note(42));
    bench.serve(millis(20));
    assert_eq!(bench.stored.as_ref().unwrap().1.note, 42);
}

#[test]
fn whoever_could_not_read_waits_anew() {
    let mut bench = Bench::new(Goal::Fence).with(Bench::other(), 4);
    bench.serve(millis(0));
    // No answer for 900 ms, so nothing is done at 1000 ms.
    let mut now = 0;
    while now < 900 {
        now += 10;
        bench.lease.handle_timeout(millis(now));
        bench.outputs();
    }
    assert_eq!(bench.serve_until(millis(1890)), []);
    assert!(matches!(bench.serve_until(millis(2200))[..], [(_, Event::Fenced)]));
}

#[test]
fn reads_are_retried_at_a_pace() {
    let mut bench = Bench::new(Goal::Hold);
    let mut reads = 0;
    let mut now = millis(0);
    bench.lease.handle_timeout(now);
    while now < millis(1000) {
        for output in bench.outputs() {
            let Output::Read { ticket } = output else { panic!("{output:?}") };
            reads += 1;
            bench.lease.handle(now, Input::ReadFailed { ticket });
        }
        now = bench.lease.poll_timeout().unwrap();
        bench.lease.handle_timeout(now);
    }
    // Every quarter of the renewal interval.
    assert_eq!(reads, 34);
}

#[test]
fn nothing_is_due_that_would_do_nothing() {
    for (goal, state) in
        [(Goal::Fence, State::Free), (Goal::Observe, Bench::other()), (Goal::Hold, Bench::other())]
    {
        let mut bench = Bench::new(goal).with(state, 4);
        bench.serve(millis(10));
        for _ in 0..50 {
            let due = bench.lease.poll_timeout().unwrap();
            bench.serve(due);
            assert!(bench.lease.poll_timeout().unwrap() > due, "{goal:?}");
        }
    }
}
