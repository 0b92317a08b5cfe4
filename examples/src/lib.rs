//! Controllers and tools assembled from the lbcore crates.

#[cfg(target_os = "linux")]
pub mod netns;
