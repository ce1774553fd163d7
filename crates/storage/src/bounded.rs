//! A store that keeps nobody waiting for long.
//!
//! A server that goes silent in the midst of a statement is given up by its adapter only after many seconds. Callers
//! that hold a lock meanwhile are told sooner; the call itself goes on to its end, as none may be dropped. Until it
//! has ended, and the store has answered again, all others are refused at once: nobody reads a record while a write
//! whose outcome is open may still change it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    away,
    metadata::{Existing, Metadata, MetadataError, Record, Stamp},
};

/// How long a caller waits for an answer. A healthy store needs milliseconds, and one on a busy disk a second.
const PATIENCE: Duration = Duration::from_secs(3);

/// A record that there never is: any answer will do.
const NOTHING: &str = "nothing";

/// A metadata store whose callers wait for a bounded time. After [`MetadataError::Unavailable`] nothing is known, as
/// with every other store.
pub struct Bounded {
    inner: Arc<dyn Metadata>,
    /// Calls that were given up, until the store has answered behind them.
    overdue: Arc<AtomicUsize>,
}

impl Bounded {
    /// Around another store.
    pub fn new(inner: Arc<dyn Metadata>) -> Self {
        Self { inner, overdue: Arc::default() }
    }

    async fn call<T, F>(&self, call: impl FnOnce(Arc<dyn Metadata>) -> F) -> Result<T, MetadataError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, MetadataError>> + Send + 'static,
    {
        if self.overdue.load(Ordering::SeqCst) > 0 {
            return Err(MetadataError::Unavailable("it has not answered an earlier question yet".into()));
        }
        let mut asked = tokio::spawn(call(Arc::clone(&self.inner)));
        match timeout(PATIENCE, &mut asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(MetadataError::Unavailable("the question was broken off".into())),
            Err(_) => {
                self.give_up(asked);
                let seconds = PATIENCE.as_secs();
                Err(MetadataError::Unavailable(format!(
                    "no answer within {seconds} s; whether it did it is not known"
                )))
            }
        }
    }

    fn give_up<T: Send + 'static>(&self, asked: JoinHandle<T>) {
        self.overdue.fetch_add(1, Ordering::SeqCst);
        let (inner, overdue) = (Arc::clone(&self.inner), Arc::clone(&self.overdue));
        tokio::spawn(async move {
            drop(asked.await);
            for wait in away::waits() {
                if !matches!(inner.get(NOTHING).await, Err(MetadataError::Unavailable(_))) {
                    break;
                }
                sleep(wait).await;
            }
            overdue.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

#[async_trait]
impl Metadata for Bounded {
    async fn get(&self, key: &str) -> Result<Option<Record>, MetadataError> {
        let key = key.to_owned();
        self.call(|inner| async move { inner.get(&key).await }).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Record>, MetadataError> {
        let prefix = prefix.to_owned();
        self.call(|inner| async move { inner.list(&prefix).await }).await
    }

    async fn put(&self, key: &str, value: &[u8]) -> Result<Stamp, MetadataError> {
        let (key, value) = (key.to_owned(), value.to_vec());
        self.call(|inner| async move { inner.put(&key, &value).await }).await
    }

    async fn swap(&self, key: &str, expected: Option<Stamp>, value: &[u8]) -> Result<Stamp, MetadataError> {
        let (key, value) = (key.to_owned(), value.to_vec());
        self.call(move |inner| async move { inner.swap(&key, expected, &value).await }).await
    }

    async fn remove(&self, key: &str, expected: Stamp) -> Result<(), MetadataError> {
        let key = key.to_owned();
        self.call(move |inner| async move { inner.remove(&key, expected).await }).await
    }

    /// As long as it takes: what is filled is in nobody's use.
    async fn fill(&self, records: Vec<(String, Vec<u8>)>, existing: Existing) -> Result<(), MetadataError> {
        self.inner.fill(records, existing).await
    }
}

#[cfg(test)]
mod tests {
    use tokio::{sync::Semaphore, time::Instant};

    use super::*;
    use crate::memory::MemoryMetadata;

    /// A store that answers nothing while there are no permits.
    struct Silent {
        inner: MemoryMetadata,
        speaks: Semaphore,
    }

    #[async_trait]
    impl Metadata for Silent {
        async fn get(&self, key: &str) -> Result<Option<Record>, MetadataError> {
            let _permit = self.speaks.acquire().await.unwrap();
            self.inner.get(key).await
        }

        async fn list(&self, prefix: &str) -> Result<Vec<Record>, MetadataError> {
            self.inner.list(prefix).await
        }

        async fn put(&self, key: &str, value: &[u8]) -> Result<Stamp, MetadataError> {
            let _permit = self.speaks.acquire().await.unwrap();
            self.inner.put(key, value).await
        }

        async fn swap(&self, key: &str, at: Option<Stamp>, value: &[u8]) -> Result<Stamp, MetadataError> {
            self.inner.swap(key, at, value).await
        }

        async fn remove(&self, key: &str, at: Stamp) -> Result<(), MetadataError> {
            self.inner.remove(key, at).await
        }

        async fn fill(&self, records: Vec<(String, Vec<u8>)>, existing: Existing) -> Result<(), MetadataError> {
            self.inner.fill(records, existing).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_says_nothing_is_given_up_soon_and_its_late_write_is_never_read_half_way() {
        let silent = Arc::new(Silent { inner: MemoryMetadata::default(), speaks: Semaphore::new(0) });
        let store = Bounded::new(silent.clone());
        let began = Instant::now();
        assert!(matches!(store.put("a", b"1").await, Err(MetadataError::Unavailable(_))));
        assert_eq!(began.elapsed(), PATIENCE);
        // Nobody waits a second time, nor reads that there is no such record: the write is still under way.
        for _ in 0..1000 {
            assert!(matches!(store.get("a").await, Err(MetadataError::Unavailable(_))));
            assert!(matches!(store.list("a").await, Err(MetadataError::Unavailable(_))));
        }
        assert_eq!(began.elapsed(), PATIENCE);
        silent.speaks.add_permits(1);
        let read = loop {
            match store.get("a").await {
                Ok(read) => break read,
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        };
        assert_eq!(read.map(|record| record.value), Some(b"1".to_vec()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_asked_is_done_though_the_caller_goes_away() {
        let silent = Arc::new(Silent { inner: MemoryMetadata::default(), speaks: Semaphore::new(0) });
        let store = Bounded::new(silent.clone());
        drop(timeout(Duration::from_secs(1), store.put("a", b"1")).await);
        silent.speaks.add_permits(1);
        assert_eq!(store.get("a").await.unwrap().unwrap().value, b"1");
    }
}
