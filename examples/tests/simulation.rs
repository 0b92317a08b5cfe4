//! Ten thousand clusters under virtual time, each with a fate of its own; and a referee that is seen to find what is
//! wrong. A failure prints the command that repeats it.

#![cfg(target_os = "linux")]

use lbcore_examples::sim::{Fake, run, run_many};

const SEEDS: u64 = 10_000;

/// What is known to be wrong and not mended yet, all of it with gossip and several faults on top of each other: two owners
/// under one term for some milliseconds (919, 4115, 7158), a role that moves without need (5086, 6016), an answer that
/// comes 66 ms late (6629). Whoever mends one takes it from this list; a seed that fails no more fails the test too.
const KNOWN: [u64; 6] = [919, 4115, 5086, 6016, 6629, 7158];

#[test]
fn whatever_happens_the_promises_are_kept() {
    let tally = run_many(0..SEEDS, Fake::None, 20);
    let mut failed: Vec<u64> = tally.failures.iter().map(|failure| failure.seed).collect();
    failed.sort_unstable();
    for failure in tally.failures.iter().filter(|failure| !KNOWN.contains(&failure.seed)) {
        println!("{failure}");
    }
    assert_eq!(failed, KNOWN, "the seeds in which a promise is broken");
    assert_eq!(tally.seeds, SEEDS);
    // What is counted on has come about often enough to be counted on.
    for what in ["moves", "escaped", "failed", "misled"] {
        let (sum, _) = tally.figures[what];
        println!("{what}: {sum}");
        assert!(sum > SEEDS / 20, "{what} only {sum} times");
    }
    for fault in [
        "is killed",
        "loses its power",
        "stands still",
        "stands still within a batch",
        "goes on",
        "the cable of is out",
        "the network is cut",
        "do not hear each other",
        "the network is whole again",
        "drains",
        "the checks of fail",
        "is to stop and start again",
        "the store is out of reach",
    ] {
        let count: u64 =
            tally.faults.iter().filter(|(known, _)| known.contains(fault)).map(|(_, count)| count).sum();
        println!("{fault}: {count}");
        assert!(count > SEEDS / 100, "{fault:?} only {count} times of {:?}", tally.faults);
    }
}

#[test]
fn a_seed_is_one_story() {
    for seed in [3, 4, 5, 6] {
        let [one, two] = [(); 2].map(|()| format!("{:?}", run(seed, Fake::None, false)));
        assert_eq!(one, two);
    }
}

#[test]
fn the_referee_finds_what_is_wrong() {
    for (fake, finding) in [
        (Fake::AnswersAfterLease, "two speak for"),
        (Fake::TakesOverEarly, "two speak for"),
        (Fake::ForgetsTerms, "two speak for"),
        (Fake::NeverAnnounces, "nobody answers for"),
        (Fake::Restless, "moves from"),
        (Fake::Storms, "a storm"),
        (Fake::Denies, "its status denies it"),
    ] {
        let tally = run_many(0..200, fake, u64::MAX);
        let found = tally.failures.iter().filter(|failure| failure.what.contains(finding)).count();
        println!("{fake:?}: {found} of {} failures say {finding:?}", tally.failures.len());
        assert!(found > 0, "{fake:?} is not found out: {:?}", tally.failures.first());
    }
}
