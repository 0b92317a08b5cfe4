//! Controllers and tools assembled from the lbcore crates.
