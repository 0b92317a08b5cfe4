//! Many clusters, each with a fate of its own. A failure prints the command that repeats it.

#[expect(dead_code, reason = "shared with the conformance suite and the examples")]
mod sim;

use std::collections::BTreeMap;
use std::thread;

use lbcore::time::Duration;
use sim::{large, stories};

const SEEDS: u64 = 200;

/// Clusters of fifty.
const LARGE: u64 = 4;

#[test]
fn fifty_nodes_have_one_owner_each_whatever_happens() {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for first in 0..threads {
            scope.spawn(move || {
                (0..LARGE).skip(first).step_by(threads).for_each(|seed| large::tell(seed, false));
            });
        }
    });
}

#[test]
fn whatever_happens_there_is_one_owner() {
    let mut worst: BTreeMap<&str, (usize, Duration)> = BTreeMap::new();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let outcomes = thread::scope(|scope| {
        let tell = |first: usize| {
            (0..SEEDS).skip(first).step_by(threads).flat_map(|seed| stories::tell(seed, false))
        };
        let told: Vec<_> =
            (0..threads).map(|first| scope.spawn(move || tell(first).collect::<Vec<_>>())).collect();
        told.into_iter()
            .flat_map(|thread| thread.join().expect("no story breaks a promise"))
            .collect::<Vec<_>>()
    });
    for outcome in outcomes {
        let (count, gap) = worst.entry(outcome.fault).or_default();
        *count += 1;
        *gap = (*gap).max(outcome.gap);
    }
    for (fault, (count, gap)) in worst {
        println!("{fault:>10}: {count:>3} times, longest gap {gap:?}");
        assert!(count > 20, "{fault} is told of too rarely");
    }
}
