//! What is asked of a store.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use lbcore::elect::lease::Revision;

/// A store of small records that swaps one only if it is still at the revision that the writer saw.
///
/// etcd, the Kubernetes API, Consul, a database with transactions: all can be one. Nothing else is asked: no leases of
/// the store's own, no time-outs, no clock; the safety of the election rests on the nodes' clocks alone.
///
/// # Contract
/// Binds implementors.
/// - Reads are linearizable: a read that begins after a swap was acknowledged sees it. (etcd: not `serializable`.
///   Kubernetes: without a `resourceVersion` in the request.)
/// - A swap is atomic, and durable once acknowledged. A revision never comes back, even if the record is deleted and
///   created again.
/// - Nothing is tried again on its own. After [`StoreError::Unavailable`] and after a call was dropped it is unknown
///   whether a swap was applied or will be.
///
/// # Cancel safety
/// Each call may be dropped at any time; the driver does so when an answer takes too long.
#[async_trait]
pub trait LeaseStore: fmt::Debug + Send + Sync {
    /// Reads the record `key`, unless it is still at the revision `unless`, in which case the value need not be
    /// transferred.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Permanent`].
    async fn get(&self, key: &str, unless: Option<&Revision>) -> Result<Fetched, StoreError>;

    /// Reads all records whose keys begin with `prefix`: at most one for each node, of a few hundred bytes.
    /// Each is linearizable; the whole need not be one snapshot.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Permanent`].
    async fn list(&self, prefix: &str) -> Result<BTreeMap<String, Versioned>, StoreError>;

    /// Writes `value` if the record is at the revision `expected`; `None`: if there is no such record. Answers the new
    /// revision.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the record is at another revision; nothing was changed then.
    /// [`StoreError::Unavailable`] or [`StoreError::Permanent`] otherwise.
    async fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<&Revision>,
        value: Bytes,
    ) -> Result<Revision, StoreError>;
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// Its version.
    pub revision: Revision,
    /// Its value.
    pub value: Bytes,
}

/// The answer to [`LeaseStore::get`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// There is no such record.
    Absent,
    /// It is still at the revision that the caller knows.
    Unchanged,
    /// It is this.
    Found(Versioned),
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The record is not at the expected revision. Nothing was changed.
    #[error("the record has changed since it was read")]
    Conflict,
    /// No answer, or one that says to come back later. A swap may have been applied, or may yet be.
    #[error("the store is unavailable")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// The store will not do it, however often it is asked: no permission, a bad name, a value that is too large.
    #[error("the store refuses the request")]
    Permanent(#[source] Box<dyn Error + Send + Sync>),
}

impl StoreError {
    /// [`StoreError::Unavailable`] with its cause.
    pub fn unavailable(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(cause.into())
    }

    /// [`StoreError::Permanent`] with its cause.
    pub fn permanent(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Permanent(cause.into())
    }
}
