//! How fast a node may speak unasked.

use lbcore::time::{Duration, Instant};

/// The limit on what we start ourselves on one interface: announcements, directed requests, probes, and the joining of
/// multicast groups, of which the kernel tells the switches. Answers are not held back.
///
/// Switches with Dynamic ARP Inspection shut a port that exceeds their limit, 15 packets a second by default; for
/// those there is [`Pace::GUARDED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How many frames may go out at once. At least 1.
    pub burst: u32,
    /// How many a second after that. At least 1.
    pub per_second: u32,
}

impl Pace {
    /// 64 at once, then 500 a second.
    pub const NORMAL: Self = Self { burst: 64, per_second: 500 };
    /// 5 at once, then 10 a second: below what inspecting switches tolerate.
    pub const GUARDED: Self = Self { burst: 5, per_second: 10 };

    fn interval(self) -> Duration {
        Duration::from_secs(1) / self.per_second.max(1)
    }

    /// How far the schedule may run ahead of the clock.
    fn tolerance(self) -> Duration {
        self.interval() * self.burst.max(1).saturating_sub(1)
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::NORMAL
    }
}

/// A token bucket, kept as the time at which the next frame would be due if they were evenly spaced (GCRA).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    pace: Pace,
    due: Instant,
}

impl Bucket {
    pub(crate) fn new(pace: Pace) -> Self {
        Self { pace, due: Instant::ZERO }
    }

    /// When the next frame may go.
    pub(crate) fn available_at(&self) -> Instant {
        self.due - self.pace.tolerance()
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let available = self.available_at() <= now;
        if available {
            self.due = self.due.max(now) + self.pace.interval();
        }
        available
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut bucket = Bucket::new(Pace::NORMAL);
        let start = Instant::from_millis(10_000);
        let burst = (0..1000).take_while(|_| bucket.take(start)).count();
        assert_eq!(burst, 64);
        assert_eq!(bucket.available_at(), start + Duration::from_millis(2));
        let mut sent = 0;
        for ms in 0..1000 {
            while bucket.take(start + Duration::from_millis(ms)) {
                sent += 1;
            }
        }
        assert!((498..=500).contains(&sent), "{sent} in a second");
        let rested = start + Duration::from_secs(60);
        let burst = (0..1000).take_while(|_| bucket.take(rested)).count();
        assert_eq!(burst, 64, "a rest earns one burst, not more");
    }

    #[test]
    fn guarded_stays_below_fifteen_in_any_second() {
        let mut bucket = Bucket::new(Pace::GUARDED);
        let start = Instant::from_millis(1_000);
        let sent: Vec<u64> = (0..5000u64)
            .flat_map(|ms| {
                std::iter::from_fn(|| bucket.take(start + Duration::from_millis(ms)).then_some(ms))
                    .collect::<Vec<_>>()
            })
            .collect();
        for first in &sent {
            let within = sent.iter().filter(|at| (*first..first + 1000).contains(at)).count();
            assert!(within <= 15, "{within} in the second from {first} ms");
        }
    }

    #[test]
    fn zero_means_one() {
        let mut bucket = Bucket::new(Pace { burst: 0, per_second: 0 });
        assert!(bucket.take(Instant::from_millis(5)));
        assert!(!bucket.take(Instant::from_millis(5)));
        assert!(bucket.take(Instant::from_millis(1005)));
    }
}
