//! Measures lbcore beside its peers.

fn main() {}
