//! What all tables measure with: time as numbers, and chance that is the same in each run.

use std::time::Duration;

/// In nanoseconds.
#[expect(clippy::cast_precision_loss, reason = "figures have three digits that count")]
pub(crate) fn nanos(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}

/// So many percent of `values`, at least one, are not higher.
pub(crate) fn quantile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() * percent / 100).min(values.len() - 1)]
}

/// Numbers that look random (xorshift64).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The same numbers for everybody.
    pub(crate) const fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// The next one, below `bound`.
    pub(crate) const fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
