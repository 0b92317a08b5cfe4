//! Conditions: what is true of an object, why, and what to do about it.
//!
//! The shape is the one of Kubernetes' `metav1.Condition`, without times: the one who writes a status adds
//! those.

use std::borrow::Cow;
use std::fmt;

/// A statement about an object, with its reason.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Condition {
    /// What the statement is about, in CamelCase, for example `"AddressAllocated"`.
    pub kind: Cow<'static, str>,
    /// Whether it holds.
    pub status: Status,
    /// Why, as one word in CamelCase that programs may match on.
    pub reason: Cow<'static, str>,
    /// Why, for a person: names the objects concerned and, where something is wrong, the fix.
    pub message: String,
}

impl Condition {
    /// A condition that holds.
    pub fn yes(
        kind: impl Into<Cow<'static, str>>,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self { kind: kind.into(), status: Status::True, reason: reason.into(), message: message.into() }
    }

    /// A condition that does not hold.
    pub fn no(
        kind: impl Into<Cow<'static, str>>,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self { kind: kind.into(), status: Status::False, reason: reason.into(), message: message.into() }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={} ({}): {}", self.kind, self.status, self.reason, self.message)
    }
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It is not known.
    Unknown,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        })
    }
}
