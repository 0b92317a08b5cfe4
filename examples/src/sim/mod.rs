//! The whole thing in one process under virtual time.

mod cli;
mod clock;
mod neighbours;
mod node;
mod referee;
mod scenario;
mod world;

use std::fmt;

use lbcore::time::Duration;

pub use cli::{Args, Tally, main, run_many};
pub use scenario::Fake;

use self::scenario::Scenario;
use self::world::World;

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

/// Tells the story of `seed`, and judges it. With `trace` every frame and event is printed.
///
/// # Errors
/// The first promise that was broken.
pub fn run(seed: u64, fake: Fake, trace: bool) -> Result<Outcome, Failure> {
    let scenario = Scenario::of_seed(seed, fake);
    let headline = headline(&scenario);
    if trace {
        println!("{headline}");
    }
    let failure = |what: String, story: Vec<String>| Failure {
        seed,
        what,
        story: std::iter::once(headline.clone()).chain(story).collect(),
    };
    let mut world = World::new(scenario, trace).map_err(|what| failure(what, Vec::new()))?;
    world.run();
    let at = world.now;
    if let Some(what) = world.referee.failure {
        return Err(failure(format!("at {at:?}: {what}"), world.story));
    }
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let figures = &world.referee.figures;
    Ok(Outcome {
        story: world.story,
        simulated: world.scenario.end.saturating_since(lbcore::time::Instant::ZERO),
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

/// What the cluster is like, in a line.
fn headline(scenario: &Scenario) -> String {
    let Scenario { mode, nodes, v4, v6, clients, net, pace, .. } = scenario;
    format!(
        "{nodes} nodes, {v4} IPv4 and {v6} IPv6 addresses, {clients} clients; {mode:?}; {net:?}; {pace:?}; \
         preferred {:?}, snooping {}, {:?}",
        scenario.preferred, scenario.snooping, scenario.caches
    )
}
