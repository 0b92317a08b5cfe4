//! Controllers and tools assembled from the lbcore crates.
//!
//! The only place that reads user files, the environment and signals.

pub mod files;
#[cfg(target_os = "linux")]
pub mod lab;
#[cfg(target_os = "linux")]
pub mod limits;
#[cfg(target_os = "linux")]
pub mod netns;
#[cfg(target_os = "linux")]
pub mod node;
pub mod routing;
#[cfg(target_os = "linux")]
pub mod sim;

/// The project's README, whose example must compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
