//! The command line, and many seeds at once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use clap::Parser;
use serde_json::json;

use super::{Failure, Fake, Outcome, run};

/// Repeats simulated clusters by their seeds: nodes, their segment, their clients and clocks in one process under
/// virtual time, with what goes wrong there. Judges whether what is promised held.
#[derive(Debug, Parser)]
#[command(
    name = "simulate",
    version,
    after_help = "Exit status: 0 every promise was kept, 1 one was broken, 2 bad arguments."
)]
pub struct Args {
    /// The first seed
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// How many seeds
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,

    /// Prints every frame and event with its virtual time; for a single seed
    #[arg(long, conflicts_with = "seeds")]
    trace: bool,

    /// Prints a line of JSON instead of text
    #[arg(long)]
    json: bool,

    /// How many seeds fail before it stops
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    failures: u64,
}

/// What many seeds came to.
#[derive(Debug, Default)]
pub struct Tally {
    /// How many were run.
    pub seeds: u64,
    /// Virtual time, in milliseconds.
    pub simulated_ms: u64,
    /// What was counted, and the most in one seed.
    pub figures: BTreeMap<&'static str, (u64, u64)>,
    /// How often each thing befell a cluster.
    pub faults: BTreeMap<String, u64>,
    /// The promises that were broken, by seed.
    pub failures: Vec<Failure>,
}

impl Tally {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.simulated_ms += u64::try_from(outcome.simulated.as_millis()).unwrap_or(0);
        for (name, value) in &outcome.figures {
            let (sum, most) = self.figures.entry(name).or_default();
            *sum += value;
            *most = (*most).max(*value);
        }
        for line in &outcome.story {
            // Without the time, the names and the figures.
            let words = line.split(' ').skip(1).take_while(|word| *word != "for" && !word.ends_with(':'));
            let nameless = words.filter(|word| !word.contains(|letter: char| letter.is_ascii_digit()));
            *self.faults.entry(nameless.collect::<Vec<_>>().join(" ")).or_default() += 1;
        }
    }

    fn merge(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.simulated_ms += other.simulated_ms;
        for (name, (sum, most)) in other.figures {
            let known = self.figures.entry(name).or_default();
            *known = (known.0 + sum, known.1.max(most));
        }
        for (fault, count) in other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        self.failures.extend(other.failures);
        self.failures.sort_by_key(|failure| failure.seed);
    }
}

/// Runs these seeds on all cores, until so many have failed.
pub fn run_many(seeds: Range<u64>, fake: Fake, failures: u64) -> Tally {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(seeds.start);
    let failed = AtomicU64::new(0);
    let work = || {
        let mut tally = Tally::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || failed.load(Ordering::Relaxed) >= failures {
                return tally;
            }
            match run(seed, fake, false) {
                Ok(outcome) => tally.add(&outcome),
                Err(failure) => {
                    failed.fetch_add(1, Ordering::Relaxed);
                    tally.seeds += 1;
                    tally.failures.push(failure);
                }
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut all = Tally::default();
        for worker in workers {
            match worker.join() {
                Ok(tally) => all.merge(tally),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    })
}

/// The program.
pub fn main(args: &Args) -> ExitCode {
    let tally = if args.trace {
        let mut tally = Tally::default();
        match run(args.seed, Fake::None, true) {
            Ok(outcome) => tally.add(&outcome),
            Err(failure) => tally.failures.push(failure),
        }
        tally
    } else {
        run_many(args.seed..args.seed.saturating_add(args.seeds), Fake::None, args.failures)
    };
    if args.json {
        let failures: Vec<_> = tally
            .failures
            .iter()
            .map(|it| json!({"seed": it.seed, "what": it.what, "story": it.story}))
            .collect();
        let figures: BTreeMap<_, _> = tally
            .figures
            .iter()
            .map(|(name, (sum, most))| (name, json!({"sum": sum, "most": most})))
            .collect();
        println!(
            "{}",
            json!({
                "seeds": tally.seeds,
                "simulated_ms": tally.simulated_ms,
                "figures": figures,
                "faults": tally.faults,
                "failures": failures,
            })
        );
    } else {
        for failure in &tally.failures {
            println!("{failure}\n");
        }
        println!("{} seeds, {} s of virtual time", tally.seeds, tally.simulated_ms / 1000);
        for (name, (sum, most)) in &tally.figures {
            println!("{name:>24}: {sum}, at most {most} in a seed");
        }
    }
    if tally.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
