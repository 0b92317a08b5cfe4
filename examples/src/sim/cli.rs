//! The command line, and many seeds at once.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use clap::Parser;
use lbcore::time::{Duration, Instant};
use serde_json::json;

use super::{Failure, Fake, Outcome, Wrong, run, traced};

/// Repeats simulated clusters by their seeds: nodes, their segment, their clients and clocks in one process under
/// virtual time, with what goes wrong there. Judges whether what is promised held.
#[derive(Debug, Parser)]
#[command(
    name = "simulate",
    version,
    after_help = "Exit status: 0 every promise was kept, 1 one was broken, 2 bad arguments, or the output cannot be written."
)]
pub struct Args {
    /// The first seed
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// How many seeds; 18446744073709551615 is the last one that there is
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
    /// Counts a seed that was run.
    fn count(&mut self, ended: Result<Outcome, Failure>) {
        self.seeds += 1;
        let simulated = match &ended {
            Ok(outcome) => outcome.simulated,
            Err(failure) => failure.simulated,
        };
        self.simulated_ms += u64::try_from(simulated.as_millis()).unwrap_or(0);
        match ended {
            Ok(outcome) => self.add(&outcome),
            Err(failure) => self.failures.push(failure),
        }
    }

    fn add(&mut self, outcome: &Outcome) {
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

/// Runs these seeds on all cores, until so many have failed. Each seed that fails is told to `heard`, and each that is done,
/// with their number.
pub fn run_many<I>(
    seeds: impl IntoIterator<IntoIter = I>,
    wrong: impl Into<Wrong>,
    failures: u64,
    heard: impl Fn(u64, Option<&Failure>) + Sync,
) -> Tally
where
    I: Iterator<Item = u64> + Send,
{
    let wrong = wrong.into();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let seeds = Mutex::new(seeds.into_iter());
    let (done, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        let mut tally = Tally::default();
        while failed.load(Ordering::Relaxed) < failures {
            let next = seeds.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(seed) = next else { break };
            let ended = run(seed, wrong, false);
            if ended.is_err() {
                failed.fetch_add(1, Ordering::Relaxed);
            }
            heard(done.fetch_add(1, Ordering::Relaxed) + 1, ended.as_ref().err());
            tally.count(ended);
        }
        tally
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
        tally.count(run(args.seed, Fake::None, true));
        tally
    } else {
        // The last seed that there is may be among them.
        let last = args.seed.saturating_add(args.seeds - 1);
        if last - args.seed < args.seeds - 1 {
            let _ = writeln!(io::stderr().lock(), "notice: {last} is the last seed that there is");
        }
        run_many(args.seed..=last, Fake::None, args.failures, progress(last - args.seed))
    };
    let written = traced().and_then(|()| report(&tally, args.json, &mut io::stdout().lock()));
    match written {
        // Of a reader that has seen enough, as `head`, what was found is still true.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            // Who cannot read this either has the status.
            let _ = writeln!(io::stderr().lock(), "error: the output cannot be written: {error}");
            ExitCode::from(2)
        }
        _ if tally.failures.is_empty() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// From one word about the progress to the next.
const PROGRESS: Duration = Duration::from_secs(10);

/// Tells how far `more` seeds and one are, and of each that fails at once: who interrupts it has seen what was found.
fn progress(more: u64) -> impl Fn(u64, Option<&Failure>) + Sync {
    let told = Mutex::new(Instant::now());
    move |done, failure| {
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // Nobody may read this, and the tally is what counts.
        if let Some(failure) = failure {
            let _ = writeln!(io::stderr().lock(), "seed {} fails: {}", failure.seed, failure.what);
        } else if now.saturating_since(*told) >= PROGRESS {
            *told = now;
            let _ = writeln!(io::stderr().lock(), "{done} of {} seeds are done", u128::from(more) + 1);
        }
    }
}

/// What each figure counts, and whether its sum over seeds means something.
const FIGURES: [(&str, &str, bool); 10] = [
    ("requests", "requests of all clients", true),
    ("failed", "of them failed", true),
    ("failing_ms", "ms the longest that a client's requests failed", false),
    ("unanswered_ms", "ms the longest that nobody told a client where an address is", false),
    ("moves", "times an address changed its owner", true),
    ("frames", "frames about addresses", true),
    ("misled", "of them reached a client after another node had taken over", true),
    ("escaped", "of them were of the batch that a process was sending when it stood still", true),
    ("busiest_second_percent", "% of its pace in the busiest second of an interface", false),
    ("messages", "messages of the electors", true),
];

fn report(tally: &Tally, json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
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
        let line = json!({
            "seeds": tally.seeds,
            "simulated_ms": tally.simulated_ms,
            "figures": figures,
            "faults": tally.faults,
            "failures": failures,
        });
        writeln!(out, "{line}")?;
    } else {
        for failure in &tally.failures {
            writeln!(out, "{failure}\n")?;
        }
        writeln!(out, "{} seeds, {} s of virtual time:", tally.seeds, tally.simulated_ms / 1000)?;
        for (name, words, adds_up) in FIGURES {
            let Some((sum, most)) = tally.figures.get(name) else { continue };
            match adds_up && tally.seeds > 1 {
                true => writeln!(out, "{sum:>12} {words}, at most {most} in a seed")?,
                false => writeln!(out, "{most:>12} {words}")?,
            }
        }
        match tally.failures.len() {
            0 => writeln!(out, "every promise was kept")?,
            broken => writeln!(out, "{broken} of {} seeds broke a promise", tally.seeds)?,
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_counts_however_it_ends() {
        let mut tally = Tally::default();
        for wrong in [Wrong::Program(Fake::None), Wrong::Swamped] {
            tally.count(run(0, wrong, false));
        }
        assert_eq!((tally.seeds, tally.failures.len()), (2, 1));
        let simulated = |failure: &Failure| u64::try_from(failure.simulated.as_millis()).unwrap();
        let rest = tally.simulated_ms - tally.failures.iter().map(simulated).sum::<u64>();
        assert!(rest > 1000, "{rest} ms of the seed that keeps its promises");
    }

    #[test]
    fn the_last_seed_is_one() {
        let tally = run_many(u64::MAX - 1..=u64::MAX, Wrong::TooManyServices, 9, |_, _| ());
        let seeds: Vec<u64> = tally.failures.iter().map(|failure| failure.seed).collect();
        assert_eq!((tally.seeds, seeds), (2, vec![u64::MAX - 1, u64::MAX]));
    }

    #[test]
    fn a_person_reads_every_figure_and_the_verdict() {
        let mut tally = Tally::default();
        tally.count(run(0, Fake::None, false));
        let named: Vec<_> = FIGURES.iter().map(|(name, ..)| *name).collect();
        assert!(tally.figures.keys().all(|name| named.contains(name)), "{:?}", tally.figures);
        let text = |tally: &Tally| {
            let mut out = Vec::new();
            report(tally, false, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert!(text(&tally).ends_with("every promise was kept\n"));
        tally.count(run(1, Wrong::Swamped, false));
        assert!(text(&tally).ends_with("1 of 2 seeds broke a promise\n"));
    }
}
