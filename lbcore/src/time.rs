//! Time as an argument.
//!
//! Machines, plans and allocators never read a clock: they take an [`Instant`]. Only drivers call
//! [`Instant::now`].

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::str::FromStr;
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

/// A point of civil time, as Kubernetes writes it in `creationTimestamp` (RFC 3339, UTC). Data that is compared,
/// never a clock that is read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z.
    seconds: i64,
    nanos: u32,
}

impl Timestamp {
    /// `seconds` after the beginning of 1970.
    pub const fn from_unix(seconds: i64) -> Self {
        Self { seconds, nanos: 0 }
    }

    /// Seconds since the beginning of 1970.
    pub const fn as_unix(self) -> i64 {
        self.seconds
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        read_rfc3339(text).ok_or_else(|| TimestampError { text: text.to_owned() })
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.seconds.div_euclid(86_400), self.seconds.rem_euclid(86_400));
        let (year, month, day) = civil_of_days(days);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
            second / 3600,
            second / 60 % 60,
            second % 60
        )?;
        if self.nanos > 0 {
            write!(f, ".{:09}", self.nanos)?;
        }
        f.write_str("Z")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A text is no [`Timestamp`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no time: write one like 2026-01-31T09:30:00Z")]
pub struct TimestampError {
    text: String,
}

fn read_rfc3339(text: &str) -> Option<Timestamp> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let number = |text: &str, digits: usize, max: i64| {
        let fits = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<i64>().ok().filter(|number| fits && *number <= max)
    };
    let mut date = date.split('-');
    let year = number(date.next()?, 4, 9999)?;
    let month = number(date.next()?, 2, 12).filter(|month| *month > 0)?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of_month = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let day = number(date.next()?, 2, days_of_month).filter(|day| *day > 0)?;
    if date.next().is_some() {
        return None;
    }
    let zone_at = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = time.split_at(zone_at);
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let offset = number(hours, 2, 23)? * 3600 + number(minutes, 2, 59)? * 60;
            if zone.starts_with('-') { -offset } else { offset }
        }
    };
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let nanos = format!("{fraction:0<9}");
    let nanos = u32::try_from(number(&nanos, 9, 999_999_999)?).ok()?;
    let mut clock = clock.split(':');
    // A leap second counts as the one after it.
    let (hour, minute, second) =
        (number(clock.next()?, 2, 23)?, number(clock.next()?, 2, 59)?, number(clock.next()?, 2, 60)?);
    if clock.next().is_some() {
        return None;
    }
    let seconds = days_of_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    Some(Timestamp { seconds, nanos })
}

/// Days from 1970-01-01 to a date of the Gregorian calendar. Years are counted from March, so that the leap day
/// is the last one.
fn days_of_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_of_civil`].
fn civil_of_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// Reads a duration as Go writes it, and so Kubernetes: decimal numbers, each with its unit, as `1h30m`, `1.5s` or
/// `300ms`. The units are `h`, `m`, `s`, `ms`, `us` (or `µs`) and `ns`; `0` needs none. What is less than a nanosecond
/// is cut off.
///
/// # Errors
/// What is none, is negative, or is longer than about 584 years.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    read_duration(text).ok_or_else(|| DurationError { text: text.to_owned() })
}

/// A text is no duration: see [`parse_duration`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no duration: write one like 90s, 1m30s or 300ms")]
pub struct DurationError {
    text: String,
}

fn read_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (number, tail) = rest.split_at(digits);
        let unit = tail.bytes().take_while(|b| !b.is_ascii_digit() && *b != b'.').count();
        let (unit, tail) = tail.split_at_checked(unit)?;
        let nanos: u64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(nanos)?)?;
        let mut place = nanos;
        for digit in fraction.bytes() {
            place /= 10;
            total = total.checked_add(place * u64::from(digit - b'0'))?;
        }
        rest = tail;
    }
    Some(Duration::from_nanos(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_read_and_written() {
        for (text, unix, written) in [
            ("1970-01-01T00:00:00Z", 0, "1970-01-01T00:00:00Z"),
            ("2024-02-29T23:59:59Z", 1_709_251_199, "2024-02-29T23:59:59Z"),
            ("2026-01-01T00:00:00+01:30", 1_767_220_200, "2025-12-31T22:30:00Z"),
            ("2026-01-01T00:00:00.25-08:00", 1_767_254_400, "2026-01-01T08:00:00.250000000Z"),
            ("1900-03-01T00:00:00Z", -2_203_891_200, "1900-03-01T00:00:00Z"),
        ] {
            let timestamp: Timestamp = text.parse().unwrap();
            assert_eq!((timestamp.as_unix(), timestamp.to_string().as_str()), (unix, written), "{text}");
        }
        for text in [
            "",
            "yesterday",
            "2024-01-01",
            "2024-13-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2024-04-31T00:00:00Z",
            "2024-01-00T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:00:00",
            "2024-01-01T00:00Z",
            "2024-1-1T00:00:00Z",
            "2024-01-01T00:00:00.+1:00",
            "2024-01-01T00:00:00+é0:00",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

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

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, expected) in [
            ("90s", Some(90_000)),
            ("1m30s", Some(90_000)),
            ("1h", Some(3_600_000)),
            ("1.5s", Some(1_500)),
            ("300ms", Some(300)),
            ("1.0625m", Some(63_750)),
            ("0.0000000000001h", Some(0)),
            ("0.00100000000000000000000000000009s", Some(1)),
            ("2000us1µs999000ns", Some(3)),
            (".5s", Some(500)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("90", None),
            ("s", None),
            ("", None),
            ("-1s", None),
            ("1d", None),
            ("1.2.3s", None),
            ("1.é", None),
            ("18446744073709551615m", None),
            ("18446744073s1s", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(parse_duration(text).ok(), expected.map(Duration::from_millis), "{text}");
        }
    }
}
