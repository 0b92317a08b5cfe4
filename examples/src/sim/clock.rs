//! The clocks of simulated machines.

use lbcore::time::Instant;

/// A clock that began at another time than the others, and runs a little fast or slow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Skewed {
    /// What it showed when the simulation began, in nanoseconds.
    pub(crate) offset: u64,
    /// How much faster than true time it runs, in millionths.
    pub(crate) ppm: i64,
}

impl Skewed {
    /// What it shows at the true time `at`.
    pub(crate) fn shows(self, at: Instant) -> Instant {
        let nanos = at.as_nanos();
        let gained = i128::from(nanos) * i128::from(self.ppm) / 1_000_000;
        let gained = i64::try_from(gained).unwrap_or(0);
        Instant::from_nanos(self.offset.saturating_add(nanos).saturating_add_signed(gained))
    }

    /// The true time at which it first shows `local`, or a few nanoseconds later: timers never fire early.
    pub(crate) fn reaches(self, local: Instant) -> Instant {
        if local == Instant::FAR_FUTURE {
            return local;
        }
        let ran = i128::from(local.as_nanos().saturating_sub(self.offset));
        let nanos = u64::try_from(ran * 1_000_000 / (1_000_000 + i128::from(self.ppm))).unwrap_or(u64::MAX);
        Instant::from_nanos(nanos.saturating_add(2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_never_fires_early_and_hardly_late() {
        for ppm in [-500, -1, 0, 17, 500] {
            for nanos in [0, 1, 999_999_999, 12_345_678_901] {
                let clock = Skewed { offset: 77_000_000_007, ppm };
                let at = Instant::from_nanos(nanos);
                let local = clock.shows(at);
                let reached = clock.reaches(local);
                assert!(clock.shows(reached) >= local, "{ppm} {nanos}");
                assert!(reached.saturating_since(at).as_nanos() < 10, "{ppm} {nanos}: {reached:?}");
            }
        }
    }
}
