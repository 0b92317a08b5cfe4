//! Controllers and tools assembled from the lbcore crates.
//!
//! The only place that reads user files, the environment and signals.

pub mod node;
