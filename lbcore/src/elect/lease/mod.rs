//! A lease on one record of a store: the machine that holds it, waits for it, or takes it from a dead holder.
//!
//! The store is any that swaps a record only if it is still at the revision that the writer saw
//! (compare-and-swap), and whose reads are linearizable. Its clock, its leases and its time-outs play no part:
//! only the clocks of the machines do, and of those only how fast they run.
//!
//! # Safety
//! Let T be the lease's [`duration`](Timing::duration), ρ the largest error of a clock's rate
//! ([`drift_ppm`](Timing::drift_ppm)) and δ the [`margin`](Timing::margin).
//! - A holder acts only before `s + T·(1−ρ)/(1+ρ) − δ`, where `s` was read just before the renewal was *sent* that
//!   later succeeded. Whoever acts on the lease compares that deadline with the clock for each act; the machine's
//!   events may come late, after a pause.
//! - Another takes the record only after T on its own clock has gone by since it *saw the record change* for the last
//!   time, and with a swap that fails if the record has changed since. A record that is missing is treated as
//!   one that just changed: whoever deleted it may have deleted it from under a holder.
//! - A record that its holder released is free at once; the holder stops before it says so.
//!
//! So two holders never overlap, however messages are delayed, lost, repeated or reordered and however long a
//! process is stopped, as long as clocks run within ρ of true time and the store keeps what it acknowledged.
//!
//! # Liveness
//! Once reads and writes succeed within the [`timeout`](Timing::timeout), a record whose holder is silent is taken
//! within two T, and in T plus one [`renew`](Timing::renew) if the one who takes it could read all along. Whoever could not
//! read for half a T starts to count anew: after an outage of the store its holders come first.

mod machine;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use machine::{Event, Goal, Input, Lease, Loss, Output, Ticket, WriteFailure};

use crate::elect::Term;
use crate::id::NodeName;

const PPM: u128 = 1_000_000;

/// How long a lease lasts and how it is kept up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timing {
    /// T: how long after the last renewal another may take the record. All machines that share records should
    /// have the same; where they differ, the holder's counts, as its record states it.
    pub duration: Duration,
    /// How often the holder renews, and the others read.
    pub renew: Duration,
    /// How long an answer of the store is waited for.
    pub timeout: Duration,
    /// δ: how much earlier than it must the holder falls silent, for what it has handed to the kernel already.
    pub margin: Duration,
    /// ρ: how much faster or slower than true time a clock may run, in millionths.
    pub drift_ppm: u32,
}

impl Timing {
    /// Leases of this duration, renewed six times within it, with a margin of a fiftieth of it and clocks that are right
    /// to 500 ppm, which is several times what a crystal is off.
    pub fn of(duration: Duration) -> Self {
        Self { duration, renew: duration / 6, timeout: duration / 6, margin: duration / 50, drift_ppm: 500 }
    }

    /// How long after it sent a renewal a holder may act on it: `T·(1−ρ)/(1+ρ) − δ`.
    pub fn hold(&self) -> Duration {
        let rate = u128::from(self.drift_ppm);
        let nanos = self.duration.as_nanos().saturating_mul(PPM.saturating_sub(rate)) / (PPM + rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).saturating_sub(self.margin)
    }

    /// Whether a lease can be kept with it.
    ///
    /// # Errors
    /// Says which of the figures does not fit the others.
    pub fn check(&self) -> Result<(), TimingError> {
        if self.duration.is_zero() || self.renew.is_zero() || self.timeout.is_zero() {
            return Err(TimingError::Zero);
        }
        if u128::from(self.drift_ppm) >= PPM {
            return Err(TimingError::Drift(self.drift_ppm));
        }
        let hold = self.hold();
        if hold.is_zero() {
            return Err(TimingError::Margin { duration: self.duration, margin: self.margin });
        }
        if self.renew.saturating_add(self.timeout).saturating_mul(2) > hold {
            return Err(TimingError::Renewal { renew: self.renew, timeout: self.timeout, hold });
        }
        Ok(())
    }
}

/// Why a [`Timing`] cannot keep a lease.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimingError {
    /// A span is zero.
    #[error("the lease duration, the renewal interval and the time-out must be longer than zero")]
    Zero,
    /// A clock that may stand still keeps no lease.
    #[error("a clock drift of {0} ppm allows a clock to stand still; it must be less than 1000000")]
    Drift(u32),
    /// Nothing is left of the lease.
    #[error("the margin of {margin:?} and the clock drift leave nothing of a lease of {duration:?}")]
    Margin {
        /// The lease.
        duration: Duration,
        /// The margin.
        margin: Duration,
    },
    /// One failed renewal would lose the lease.
    #[error(
        "renewing every {renew:?} with a time-out of {timeout:?} leaves no second try within the {hold:?} for which \
         a renewal holds; twice their sum must fit"
    )]
    Renewal {
        /// The interval.
        renew: Duration,
        /// The time-out.
        timeout: Duration,
        /// What a renewal is good for.
        hold: Duration,
    },
}

/// A version of a record, as the store names it. Versions are equal or not; they have no order.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Revision(Arc<str>);

impl Revision {
    /// The store's own name for a version.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The store's own name for it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<u64> for Revision {
    fn from(number: u64) -> Self {
        Self::new(number.to_string())
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

/// Who holds a lease: one run of a process on a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Holder {
    /// The node.
    pub node: NodeName,
    /// Differs from run to run: a process does not take itself for the one that it replaced.
    pub incarnation: u64,
}

impl Holder {
    /// The run `incarnation` (random, or anything that differs from start to start) of the process on `node`.
    pub fn new(node: NodeName, incarnation: u64) -> Self {
        Self { node, incarnation }
    }
}

/// What is stored: the state of a lease, with a note of its holder to whoever reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record<N> {
    /// Whose it is.
    pub state: State,
    /// Raised with each change of the state.
    pub term: Term,
    /// Differs between any two writes of one holder.
    pub beat: u64,
    /// T, as the holder keeps it.
    pub duration: Duration,
    /// The holder's note.
    pub note: N,
}

impl<N> Record<N> {
    /// A record with these contents, for those who decode one.
    pub fn new(state: State, term: Term, beat: u64, duration: Duration, note: N) -> Self {
        Self { state, term, beat, duration, note }
    }
}

/// Whose a lease is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The record was written where there was none. If one was deleted it may have been from under a holder, so that
    /// T must go by before the record is taken, as with a holder that is silent.
    New,
    /// This one's, while it renews.
    Held(Holder),
    /// Nobody's: released, or taken from a dead holder. Anybody may take it at once.
    Free,
}
