//! A store in memory, and a bad connection to it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lbcore::elect::lease::Revision;

use crate::store::{Fetched, LeaseStore, StoreError, Versioned};

/// A [`LeaseStore`] in the memory of one process: for tests, and for nodes that are threads of one program.
///
/// Its clones are the same store. [`connect`](Self::connect) makes a connection that can be slowed and broken.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<Records>>);

#[derive(Debug, Default)]
struct Records {
    records: BTreeMap<String, Versioned>,
    revision: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// A connection of its own, which works until told otherwise.
    pub fn connect(&self) -> Connection {
        Connection { store: self.clone(), line: Arc::default() }
    }

    /// All records.
    pub fn records(&self) -> BTreeMap<String, Versioned> {
        lock(&self.0).records.clone()
    }

    /// Deletes a record, as an operator might. Answers whether there was one.
    pub fn delete(&self, key: &str) -> bool {
        lock(&self.0).records.remove(key).is_some()
    }

    /// Puts all records back to what [`records`](Self::records) gave, as a restore from a backup does.
    pub fn restore(&self, records: BTreeMap<String, Versioned>) {
        lock(&self.0).records = records;
    }

    fn read(&self, key: &str, unless: Option<&Revision>) -> Fetched {
        match lock(&self.0).records.get(key) {
            None => Fetched::Absent,
            Some(found) if Some(&found.revision) == unless => Fetched::Unchanged,
            Some(found) => Fetched::Found(found.clone()),
        }
    }

    fn read_all(&self, prefix: &str) -> BTreeMap<String, Versioned> {
        let records = lock(&self.0);
        let from = records.records.range(prefix.to_owned()..);
        from.take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    fn swap(&self, key: &str, expected: Option<&Revision>, value: Bytes) -> Result<Revision, StoreError> {
        let mut records = lock(&self.0);
        if records.records.get(key).map(|record| &record.revision) != expected {
            return Err(StoreError::Conflict);
        }
        records.revision += 1;
        let revision = Revision::from(records.revision);
        records.records.insert(key.to_owned(), Versioned { revision: revision.clone(), value });
        Ok(revision)
    }
}

#[async_trait]
impl LeaseStore for MemoryStore {
    async fn get(&self, key: &str, unless: Option<&Revision>) -> Result<Fetched, StoreError> {
        Ok(self.read(key, unless))
    }

    async fn list(&self, prefix: &str) -> Result<BTreeMap<String, Versioned>, StoreError> {
        Ok(self.read_all(prefix))
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<&Revision>,
        value: Bytes,
    ) -> Result<Revision, StoreError> {
        self.swap(key, expected, value)
    }
}

/// A connection to a [`MemoryStore`] that can be slowed, cut and made to lie. Its clones are the same connection.
///
/// Delays are by tokio's clock, so that a test can pause it.
#[derive(Clone, Debug)]
pub struct Connection {
    store: MemoryStore,
    line: Arc<Mutex<Line>>,
}

#[derive(Debug, Default)]
struct Line {
    there: Duration,
    back: Duration,
    fate: Fate,
    next: VecDeque<Fate>,
    calls: u64,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// It is carried out and answered.
    #[default]
    Deliver,
    /// The request is lost: nothing is done, and no answer ever comes.
    LoseRequest,
    /// It is carried out, but the answer is lost.
    LoseAnswer,
    /// Nothing is done; the answer is [`StoreError::Unavailable`].
    Refuse,
    /// It is carried out, but the answer is [`StoreError::Unavailable`].
    RefuseAfter,
    /// Nothing is done; the answer is [`StoreError::Permanent`].
    Forbid,
    /// Nothing is done; a swap is answered with [`StoreError::Conflict`], a read with what is there.
    Conflict,
    /// A swap is acknowledged, but not kept: the store breaks its contract.
    Forget,
}

impl Connection {
    /// How long a request takes to the store, and its answer back, from now on.
    pub fn set_delay(&self, there: Duration, back: Duration) {
        let mut line = lock(&self.line);
        (line.there, line.back) = (there, back);
    }

    /// What becomes of each call from now on.
    pub fn set_fate(&self, fate: Fate) {
        lock(&self.line).fate = fate;
    }

    /// What becomes of the next calls, one after the other, before [`set_fate`](Self::set_fate) applies again.
    pub fn push_fates(&self, fates: impl IntoIterator<Item = Fate>) {
        lock(&self.line).next.extend(fates);
    }

    /// Cuts the connection: all requests are lost.
    pub fn cut(&self) {
        self.set_fate(Fate::LoseRequest);
    }

    /// Makes it work again.
    pub fn heal(&self) {
        self.set_fate(Fate::Deliver);
    }

    /// How many calls were made.
    pub fn calls(&self) -> u64 {
        lock(&self.line).calls
    }

    async fn call<T>(
        &self,
        apply: impl Fn() -> Result<T, StoreError> + Send,
        pretend: Option<Result<T, StoreError>>,
    ) -> Result<T, StoreError>
    where
        T: Send,
    {
        let (fate, there, back) = {
            let mut line = lock(&self.line);
            line.calls += 1;
            let fate = line.next.pop_front().unwrap_or(line.fate);
            (fate, line.there, line.back)
        };
        if fate == Fate::LoseRequest {
            return std::future::pending().await;
        }
        pause(there).await;
        let answer = match fate {
            Fate::Refuse => Err(StoreError::unavailable("refused")),
            Fate::Forbid => Err(StoreError::permanent("forbidden")),
            Fate::RefuseAfter => apply().and(Err(StoreError::unavailable("failed after it was carried out"))),
            Fate::Conflict | Fate::Forget if pretend.is_some() => match fate {
                Fate::Conflict => Err(StoreError::Conflict),
                _ => pretend.unwrap_or(Err(StoreError::Conflict)),
            },
            _ => apply(),
        };
        if fate == Fate::LoseAnswer {
            return std::future::pending().await;
        }
        pause(back).await;
        answer
    }
}

async fn pause(span: Duration) {
    if !span.is_zero() {
        tokio::time::sleep(span).await;
    }
}

#[async_trait]
impl LeaseStore for Connection {
    async fn get(&self, key: &str, unless: Option<&Revision>) -> Result<Fetched, StoreError> {
        self.call(|| Ok(self.store.read(key, unless)), None).await
    }

    async fn list(&self, prefix: &str) -> Result<BTreeMap<String, Versioned>, StoreError> {
        self.call(|| Ok(self.store.read_all(prefix)), None).await
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<&Revision>,
        value: Bytes,
    ) -> Result<Revision, StoreError> {
        let pretended = Revision::new("forgotten");
        self.call(|| self.store.swap(key, expected, value.clone()), Some(Ok(pretended))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[tokio::test]
    async fn a_swap_needs_the_revision() {
        let store = MemoryStore::new();
        let first = store.compare_and_swap("a/1", None, bytes("x")).await.unwrap();
        assert!(matches!(store.compare_and_swap("a/1", None, bytes("y")).await, Err(StoreError::Conflict)));
        let second = store.compare_and_swap("a/1", Some(&first), bytes("y")).await.unwrap();
        assert!(store.compare_and_swap("a/1", Some(&first), bytes("z")).await.is_err());
        assert_eq!(store.get("a/1", Some(&second)).await.unwrap(), Fetched::Unchanged);
        let found = Versioned { revision: second.clone(), value: bytes("y") };
        assert_eq!(store.get("a/1", Some(&first)).await.unwrap(), Fetched::Found(found));
        assert_eq!(store.get("a/2", None).await.unwrap(), Fetched::Absent);
        // A revision never comes back.
        assert!(store.delete("a/1"));
        let third = store.compare_and_swap("a/1", None, bytes("y")).await.unwrap();
        assert!(third != second && third != first);
    }

    #[tokio::test]
    async fn a_list_is_by_prefix() {
        let store = MemoryStore::new();
        for key in ["a/1", "a/2", "b/1", "a"] {
            store.compare_and_swap(key, None, bytes("x")).await.unwrap();
        }
        assert_eq!(store.list("a/").await.unwrap().into_keys().collect::<Vec<_>>(), ["a/1", "a/2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn each_fate_is_as_it_says() {
        let store = MemoryStore::new();
        let line = store.connect();
        let write = async || {
            let current = store.records().get("k").map(|found| found.revision.clone());
            let swap = line.compare_and_swap("k", current.as_ref(), bytes("v"));
            tokio::time::timeout(Duration::from_secs(1), swap).await.ok()
        };
        let applied = |store: &MemoryStore| lock(&store.0).revision;
        let fates = [
            (Fate::Deliver, 1),
            (Fate::LoseRequest, 0),
            (Fate::LoseAnswer, 1),
            (Fate::Refuse, 0),
            (Fate::RefuseAfter, 1),
            (Fate::Forbid, 0),
            (Fate::Conflict, 0),
            (Fate::Forget, 0),
        ];
        for (fate, changes) in fates {
            let before = applied(&store);
            line.push_fates([fate]);
            let answer = write().await;
            let right = match fate {
                Fate::Deliver | Fate::Forget => matches!(answer, Some(Ok(_))),
                Fate::LoseRequest | Fate::LoseAnswer => answer.is_none(),
                Fate::Refuse | Fate::RefuseAfter => matches!(answer, Some(Err(StoreError::Unavailable(_)))),
                Fate::Forbid => matches!(answer, Some(Err(StoreError::Permanent(_)))),
                Fate::Conflict => matches!(answer, Some(Err(StoreError::Conflict))),
            };
            assert!(right, "{fate:?}: {answer:?}");
            assert_eq!(applied(&store) - before, changes, "{fate:?}");
        }
        assert!(matches!(write().await, Some(Ok(_))));
        assert_eq!(line.calls(), 9);
        line.set_delay(Duration::from_millis(400), Duration::from_millis(700));
        assert!(write().await.is_none());
        line.set_delay(Duration::from_millis(400), Duration::from_millis(500));
        assert!(write().await.is_some());
    }
}
