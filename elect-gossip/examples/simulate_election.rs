//! Repeats a simulated cluster by its seed: `cargo run -p elect-gossip --example simulate_election -- SEED [SEEDS]`. With a
//! second number it runs so many seeds, from the first one on, and says only what it found. `large SEED` tells the story of
//! a cluster of fifty.

#[path = "../tests/sim/mod.rs"]
#[expect(dead_code, reason = "shared with the tests")]
mod sim;

use sim::{large, stories};

fn main() {
    if let [what, seed] = std::env::args().skip(1).collect::<Vec<_>>().as_slice()
        && what == "large"
        && let Ok(seed) = seed.parse()
    {
        return large::tell(seed, true);
    }
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let (Some(Ok(first)), count) = (numbers.next(), numbers.next()) else {
        eprintln!("usage: simulate_election SEED [SEEDS] | simulate_election large SEED");
        std::process::exit(2);
    };
    let Some(count) = count.transpose().ok().flatten() else {
        println!("{:?}", stories::tell(first, true));
        return;
    };
    for seed in first..first + count {
        stories::tell(seed, false);
    }
    println!("{count} seeds from {first} on: nothing found");
}
