//! Clusters in one process under virtual time: repeats what a seed stands for, and judges whether the promises held.
//!
//! ```text
//! cargo run --release --example simulate -- --seed 7 --trace
//! cargo run --release --example simulate -- --seed 10000 --seeds 100000 --json
//! ```

use std::process::ExitCode;

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("the simulation shares code with the node agent, which needs Linux");
    ExitCode::from(2)
}

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    use clap::Parser;
    lbcore_examples::sim::main(&lbcore_examples::sim::Args::parse())
}
