//! Many clusters, each with a fate of its own. A failure prints the command that repeats it.

#[expect(dead_code, reason = "shared with the conformance suite and the examples")]
mod sim;

use std::collections::BTreeMap;

use lbcore::time::Duration;
use sim::stories;

#[test]
fn whatever_happens_there_is_one_owner() {
    let mut worst: BTreeMap<&str, (usize, Duration)> = BTreeMap::new();
    for seed in 0..200 {
        for outcome in stories::tell(seed, false) {
            let (count, gap) = worst.entry(outcome.fault).or_default();
            *count += 1;
            *gap = (*gap).max(outcome.gap);
        }
    }
    for (fault, (count, gap)) in worst {
        println!("{fault:>10}: {count:>3} times, longest gap {gap:?}");
        assert!(count > 20, "{fault} is told of too rarely");
    }
}
