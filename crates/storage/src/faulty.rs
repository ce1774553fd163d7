//! A store that fails at call n, so that its callers can be tested for every n.
//!
//! A fault strikes *before* the inner store was asked (nothing happened) or *after* (it happened, and the answer
//! was lost): callers must come right in both cases, as they can't tell them apart.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;

use crate::{
    metadata::{Existing, Metadata, MetadataError, Record, Stamp},
    source::{
        Ahead, Chunk, Load, Most, Preflight, Row, RowId, Selection, Snapshot, Source, SourceError, SourceSpec,
        Swap, Swapped, Total, Visit,
    },
};

/// Whether the inner store still does what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// It never hears of the call.
    Before,
    /// It does the work, and the answer is lost.
    After,
}

/// Which calls a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Calls {
    Only(u64),
    From(u64),
}

struct Plan<E> {
    calls: Calls,
    when: When,
    error: E,
}

/// A store around another one. Calls are counted from 1, over all verbs.
pub struct Faulty<S: ?Sized, E> {
    calls: AtomicU64,
    plan: Mutex<Option<Plan<E>>>,
    inner: Arc<S>,
}

/// A metadata store that fails when it is told to.
pub type FaultyMetadata = Faulty<dyn Metadata, MetadataError>;

/// A source that fails when it is told to.
pub type FaultySource = Faulty<dyn Source, SourceError>;

impl<S: ?Sized, E: Clone> Faulty<S, E> {
    /// Passes everything on, until a fault is planned.
    pub fn new(inner: Arc<S>) -> Self {
        Self { calls: AtomicU64::new(0), plan: Mutex::new(None), inner }
    }

    /// Fails call number `call` alone. Replaces an earlier plan.
    pub fn fail_at(&self, call: u64, when: When, error: E) {
        self.set(Some(Plan { calls: Calls::Only(call), when, error }));
    }

    /// Fails call number `call` and all later ones, as an outage does, until [`Faulty::heal`].
    pub fn fail_from(&self, call: u64, when: When, error: E) {
        self.set(Some(Plan { calls: Calls::From(call), when, error }));
    }

    /// No more faults.
    pub fn heal(&self) {
        self.set(None);
    }

    /// How many calls there were. A test that tries every n ends when n exceeds this number.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    fn set(&self, plan: Option<Plan<E>>) {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = plan;
    }

    /// Counts a call. An `Err` strikes at once; `Ok(Some(_))` when the inner store is done.
    fn count(&self) -> Result<Option<E>, E> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let struck = plan.as_ref().filter(|plan| match plan.calls {
            Calls::Only(only) => call == only,
            Calls::From(first) => call >= first,
        });
        match struck {
            None => Ok(None),
            Some(Plan { when: When::Before, error, .. }) => Err(error.clone()),
            Some(Plan { when: When::After, error, .. }) => Ok(Some(error.clone())),
        }
    }
}

/// The inner answer, unless a fault swallows it.
fn answer<T, E>(lost: Option<E>, answer: Result<T, E>) -> Result<T, E> {
    match lost {
        None => answer,
        Some(error) => Err(error),
    }
}

#[async_trait]
impl Metadata for FaultyMetadata {
    async fn get(&self, key: &str) -> Result<Option<Record>, MetadataError> {
        answer(self.count()?, self.inner.get(key).await)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Record>, MetadataError> {
        answer(self.count()?, self.inner.list(prefix).await)
    }

    async fn put(&self, key: &str, value: &[u8]) -> Result<Stamp, MetadataError> {
        answer(self.count()?, self.inner.put(key, value).await)
    }

    async fn swap(&self, key: &str, expected: Option<Stamp>, value: &[u8]) -> Result<Stamp, MetadataError> {
        answer(self.count()?, self.inner.swap(key, expected, value).await)
    }

    async fn remove(&self, key: &str, expected: Stamp) -> Result<(), MetadataError> {
        answer(self.count()?, self.inner.remove(key, expected).await)
    }

    async fn fill(&self, records: Vec<(String, Vec<u8>)>, existing: Existing) -> Result<(), MetadataError> {
        answer(self.count()?, self.inner.fill(records, existing).await)
    }
}

#[async_trait]
impl Source for FaultySource {
    fn spec(&self) -> &SourceSpec {
        self.inner.spec()
    }

    async fn preflight(&self) -> Result<Preflight, SourceError> {
        answer(self.count()?, self.inner.preflight().await)
    }

    async fn preflight_for(&self, ahead: Ahead) -> Result<Preflight, SourceError> {
        answer(self.count()?, self.inner.preflight_for(ahead).await)
    }

    async fn total(&self) -> Result<Total, SourceError> {
        answer(self.count()?, self.inner.total().await)
    }

    async fn chunk(&self, after: Option<&RowId>, most: Most, select: &Selection) -> Result<Chunk, SourceError> {
        answer(self.count()?, self.inner.chunk(after, most, select).await)
    }

    async fn read_again(&self, ids: &[RowId]) -> Result<Vec<Option<Row>>, SourceError> {
        answer(self.count()?, self.inner.read_again(ids).await)
    }

    async fn swap(&self, batch: &[Swap]) -> Result<Vec<Swapped>, SourceError> {
        answer(self.count()?, self.inner.swap(batch).await)
    }

    async fn load(&self) -> Result<Load, SourceError> {
        answer(self.count()?, self.inner.load().await)
    }

    async fn census(&self, visit: Visit<'_>) -> Result<Snapshot, SourceError> {
        answer(self.count()?, self.inner.census(visit).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryMetadata;

    fn down() -> MetadataError {
        MetadataError::Unavailable("told to".into())
    }

    #[tokio::test]
    async fn a_fault_before_leaves_nothing_and_a_fault_after_leaves_the_effect() {
        let store = FaultyMetadata::new(Arc::new(MemoryMetadata::default()));
        store.fail_at(1, When::Before, down());
        assert_eq!(store.put("a", b"1").await, Err(down()));
        assert_eq!(store.get("a").await, Ok(None));
        store.fail_at(3, When::After, down());
        assert_eq!(store.put("a", b"1").await, Err(down()));
        assert!(store.get("a").await.unwrap().is_some());
        assert_eq!(store.calls(), 4);
    }

    #[tokio::test]
    async fn an_outage_lasts_until_it_is_healed() {
        let store = FaultyMetadata::new(Arc::new(MemoryMetadata::default()));
        store.fail_from(2, When::Before, down());
        assert_eq!(store.get("a").await, Ok(None));
        for _ in 0..3 {
            assert_eq!(store.get("a").await, Err(down()));
        }
        store.heal();
        assert_eq!(store.get("a").await, Ok(None));
    }
}
