//! The whole thing in one process under virtual time: the real machines of the electors, the planner and the announcer,
//! on simulated machines, networks, clocks and clients. Everything follows from the seed.
//!
//! The simulator is the driver of the machines and keeps the drivers' rules: what has happened goes in before timers,
//! what an elector says goes out before what it wants sent, a frame past its deadline is not sent, a received frame
//! bears the time at which it arrived. Between an elector's word and its announcer's obedience lie turns of tasks. A
//! process that stands still finds its sockets full when it goes on, and does what has waited in any order.
//!
//! # What befalls a cluster
//! A process is killed (its host refuses streams), a machine loses its power, a process stands still (some within a batch
//! of frames, after the last look at the clock), a cable is out, the network is cut (for gossip, for ARP and NDP, or
//! both; or between two nodes), a node drains, its checks fail, it restarts in order, all restart one after the other,
//! the store is out of reach. Then it ends, one after the other or overlapping. Meanwhile messages and frames are delayed,
//! reordered, lost and sent twice, clocks run up to 500 ppm fast or slow, and timers fire late.
//!
//! # What is judged
//! From outside: by the frames on the wire, labelled with the term of the set that the announcer was given, and by what
//! clients see, whose neighbour caches behave as Linux's do.
//!
//! 1. **One speaks for an address.** After a frame of one node no other that must agree with it speaks under an older or
//!    the same term, and whoever goes on under its term finds that no other has announced the address since. By leases
//!    all nodes must agree, always. By gossip those must that hear each other, directly or through others, and reach
//!    each other on the segment. Windows in which it is not judged:
//!    - a process that went on within a batch: that one batch, at most 64 frames;
//!    - by gossip, after a cut has healed or a cable is in again: `Scenario::healing`, two rounds of heartbeats (five, if
//!      messages are lost) and the way to the announcers, four more (`Scenario::greeting`) where a node was started meanwhile,
//!      which the others never met; the same for one that stood still when it healed or was healing, or when another started;
//!    - what was spoken on the other side of a cut, or while the other stood still, by one that does not run any more:
//!      nobody can know.
//! 2. **Somebody answers again.** A question (that is not lost) is asked for each address on behalf of each client. From
//!    the last disturbance on it may go unanswered for `Scenario::takeover`, twice the noticing and dealing, or for
//!    `Scenario::alone` where a node hears nobody or has just started: a fresh link counts only after 1.5 s, and a
//!    fresh process listens first. Afterwards a hand-over may take `Scenario::handover`, and when all is quiet nothing
//!    goes unanswered. It is asked for only where an eligible node is there which the client reaches, and every node
//!    that this one hears: a cut that nodes cannot notice is none that they could heal.
//!    **The client's requests** succeed a hand-over, the pace of announcements and a few requests later; a frame that was
//!    lost excuses until the next one is due (1.25 s). Not judged, until the cache finds out by itself: whom an allowed
//!    stale frame has misled; whom all announcements missed; who was told by a node on its side of a cut that died
//!    there; all, from when a cut begins that gossip or the segment alone feels until it is over and each was told anew.
//! 3. **Nothing moves without need.** Nothing moves when all has been quiet for `Scenario::calm`. Before that, what a node
//!    gives away that is well and untouched goes to one that speaks for at least two fewer, or is preferred.
//! 4. **No storm.** Unasked frames keep to the pace; a node sends no more than six datagrams a round and forty a second to
//!    each other one, or twenty requests a second for each node and two more to the store; no event is lost; nothing
//!    piles up.
//! 5. **Terms rise** with each owner (see 1; by gossip two owners, one after the other, may have the same if the second
//!    could hear of the first through a third node only: seeds 649 and 3130), and whoever speaks for an address says so in its status.

mod cli;
mod clock;
mod neighbours;
mod node;
mod referee;
mod scenario;
mod world;

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Write as _};

use lbcore::time::{Duration, Instant};

pub use cli::{Args, Tally, main, run_many};
pub use scenario::Fake;

use self::neighbours::Neighbours;
use self::scenario::{Action, Mode, Scenario};
use self::world::World;

/// What is wrong on purpose, so that it can be seen that the referee finds it: a program, or what is around programs
/// that are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// A part of a program.
    Program(Fake),
    /// The first node's clock runs twenty times too fast.
    FastClock,
    /// The clients keep what they have learnt of an address, whatever frames reach them.
    PermanentNeighbours,
    /// Every frame is labelled with the first term, so that only who spoke last tells.
    OneTerm,
    /// The first node stands still for longer than the referee takes a fault to last.
    LongPause,
    /// The referee takes all for quiet from the start on: what nodes do about a fault they do for no reason.
    UntoldFaults,
    /// The electors are given times that contradict each other.
    NoTiming,
    /// More is under way than anything that is right would ever send.
    Swamped,
    /// There are more services than addresses.
    TooManyServices,
}

impl Wrong {
    fn fake(self) -> Fake {
        match self {
            Self::Program(fake) => fake,
            _ => Fake::None,
        }
    }

    /// Changes what the world is made of.
    fn spoil(self, scenario: &mut Scenario) {
        match self {
            Self::FastClock => scenario.drift[0].1 = 19_000_000,
            Self::PermanentNeighbours => scenario.caches.delay = Neighbours::PERMANENT,
            Self::LongPause => {
                let at = Instant::from_millis(100) + scenario.calm();
                let span = scenario.calm() + scenario.healing() + Duration::from_millis(100);
                scenario.actions = vec![(at, Action::Pause(0, span, false))];
                scenario.end = at + span * 2;
                // Where messages are lost, so may leases be.
                scenario.net.loss = 0;
            }
            Self::NoTiming => match &mut scenario.mode {
                Mode::Gossip(timing) => timing.missed = 0,
                Mode::Lease(duration) => *duration = Duration::ZERO,
            },
            // The end of a cut that there never was changes nothing.
            Self::Swamped => {
                let nothing = (scenario.end, Action::Heal(u32::MAX));
                scenario.actions.extend(std::iter::repeat_n(nothing, 100_001));
            }
            Self::TooManyServices => scenario.v4 = 100,
            // Of these the referee knows.
            Self::Program(_) | Self::OneTerm | Self::UntoldFaults => {}
        }
    }
}

impl From<Fake> for Wrong {
    fn from(fake: Fake) -> Self {
        Self::Program(fake)
    }
}

/// What became of a seed in which no promise was broken.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What befell the cluster, in words.
    pub story: Vec<String>,
    /// How much time passed in it.
    pub simulated: Duration,
    /// How many things happened.
    pub events: u64,
    /// What was counted.
    pub figures: Vec<(&'static str, u64)>,
}

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What is wrong.
    pub what: String,
    /// How much time had passed in it.
    pub simulated: Duration,
    /// What befell the cluster until then, in words.
    pub story: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.what)?;
        for line in &self.story {
            writeln!(f, "    {line}")?;
        }
        write!(f, "repeat it: cargo run --release --example simulate -- --seed {} --trace", self.seed)
    }
}

impl std::error::Error for Failure {}

/// Tells the story of `seed`, and judges it, with something [`Wrong`] if so said (or [`Fake::None`]). With `trace` every
/// frame and event is printed.
///
/// # Errors
/// The first promise that was broken.
pub fn run(seed: u64, wrong: impl Into<Wrong>, trace: bool) -> Result<Outcome, Failure> {
    let wrong = wrong.into();
    let mut scenario = Scenario::of_seed(seed, wrong.fake());
    wrong.spoil(&mut scenario);
    let headline = headline(&scenario);
    if trace {
        self::trace(format_args!("{headline}"));
    }
    let failure = |what: String, simulated: Duration, story: Vec<String>| Failure {
        seed,
        what,
        simulated,
        story: std::iter::once(headline.clone()).chain(story).collect(),
    };
    let mut world = World::new(scenario, trace).map_err(|what| failure(what, Duration::ZERO, Vec::new()))?;
    world.referee.wrong = wrong;
    world.run();
    let at = world.now;
    if let Some(what) = world.referee.failure {
        return Err(failure(format!("at {at:?}: {what}"), at.saturating_since(Instant::ZERO), world.story));
    }
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let figures = &world.referee.figures;
    Ok(Outcome {
        story: world.story,
        simulated: world.scenario.end.saturating_since(Instant::ZERO),
        events: world.events,
        figures: vec![
            ("moves", figures.moves),
            ("frames", figures.frames),
            ("escaped", figures.escaped),
            ("messages", figures.datagrams),
            ("requests", figures.requests),
            ("failed", figures.failed),
            ("misled", figures.misled),
            ("unanswered_ms", millis(figures.unanswered)),
            ("failing_ms", millis(figures.failing)),
            ("busiest_second_percent", figures.busiest_second),
        ],
    })
}

std::thread_local! {
    /// Why a line of this thread's trace could not be written.
    static UNWRITTEN: RefCell<Option<io::Error>> = const { RefCell::new(None) };
}

/// A line of a trace. After one that could not be written there are no more.
fn trace(line: fmt::Arguments<'_>) {
    UNWRITTEN.with_borrow_mut(|unwritten| {
        if unwritten.is_none() {
            *unwritten = writeln!(io::stdout().lock(), "{line}").err();
        }
    });
}

/// Whether this thread's traces could be written, since this was last asked.
fn traced() -> io::Result<()> {
    UNWRITTEN.take().map_or(Ok(()), Err)
}

/// What the cluster is like, in a line.
fn headline(scenario: &Scenario) -> String {
    let Scenario { mode, nodes, v4, v6, clients, net, pace, .. } = scenario;
    format!(
        "{nodes} nodes, {v4} IPv4 and {v6} IPv6 addresses, {clients} clients; {mode:?}; {net:?}; {pace:?}; \
         preferred {:?}, snooping {}, {:?}",
        scenario.preferred, scenario.snooping, scenario.caches
    )
}
