//! Time as an argument.
//!
//! Machines, plans and allocators never read a clock: they take an [`Instant`]. Only drivers call
//! [`Instant::now`].

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
pub use std::time::Duration;

/// A point of the machine's own time, in nanoseconds since it booted.
///
/// On Linux it is read from `CLOCK_BOOTTIME`, which goes on while the machine sleeps: a lease that ran out
/// during a suspend has run out. (`std::time::Instant` stands still then.) Elsewhere it is counted from the
/// first call in the process. Values of two machines are not comparable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The beginning of time: nothing is earlier.
    pub const ZERO: Self = Self(0);
    /// The end of time: a deadline that never comes.
    pub const FAR_FUTURE: Self = Self(u64::MAX);

    /// Reads the clock. For drivers and examples only; everything else takes time as an argument.
    #[cfg(target_os = "linux")]
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Self(now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs())
    }

    /// Reads the clock. For drivers and examples only; everything else takes time as an argument.
    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn now() -> Self {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        Self::ZERO + START.get_or_init(std::time::Instant::now).elapsed()
    }

    /// The instant `nanos` nanoseconds after [`Instant::ZERO`].
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The instant `millis` milliseconds after [`Instant::ZERO`]: handy in tests.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since [`Instant::ZERO`].
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was; zero if it is later than `self`.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates at [`Instant::FAR_FUTURE`].
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, span: Duration) {
        *self = *self + span;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    /// Saturates at [`Instant::ZERO`].
    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::FAR_FUTURE {
            return f.write_str("never");
        }
        write!(f, "{}.{:09}s", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

/// Where a driver reads the time. Machines take an [`Instant`] instead.
///
/// The seam for tests that run a driver under a virtual clock; everybody else takes [`SystemClock`].
pub trait Clock: fmt::Debug + Send + Sync {
    /// The time now. Never earlier than what an earlier call returned.
    fn now(&self) -> Instant;
}

/// The machine's clock: [`Instant::now`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_forward() {
        let first = Instant::now();
        let second = Instant::now();
        assert!(second >= first);
        assert!(first > Instant::ZERO);
    }

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(Instant::FAR_FUTURE + Duration::from_secs(1), Instant::FAR_FUTURE);
        assert_eq!(Instant::ZERO + Duration::MAX, Instant::FAR_FUTURE);
        assert_eq!(Instant::ZERO - Duration::from_secs(1), Instant::ZERO);
        assert_eq!(Instant::from_millis(5).saturating_since(Instant::from_millis(9)), Duration::ZERO);
        assert_eq!(
            Instant::from_millis(9).saturating_since(Instant::from_millis(5)),
            Duration::from_millis(4)
        );
    }
}
