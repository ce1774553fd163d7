use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use rusqlite::{
    Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior, params,
    types::{ToSqlOutput, ValueRef},
};

use super::{fault::Fault, format, session::Session};
use crate::{
    behind_prefix,
    metadata::{Existing, Metadata, MetadataError, Record, Stamp, within_limit},
};

/// The longest that any call takes: longer than the wait for a lock, and than a slow disk's fsync.
const LIMIT: Duration = Duration::from_secs(20);

/// The longest that all records together take, on their way back from a backup.
const FILL_LIMIT: Duration = Duration::from_secs(600);

/// The metadata store in a SQLite file.
///
/// Every write is one transaction that is on disk when it is acknowledged (`synchronous = FULL`). After any
/// error the connection is given up; the next use opens the file anew, reads its log again and syncs it.
///
/// A file that is *replaced* while the daemon runs (a restored backup) is used from the next call on; stamps go on
/// rising, so that no stamp from before fits it. A file that is *deleted* makes every call
/// [`MetadataError::Unavailable`] until it is put back or the daemon restarts; nothing is written to the ghost.
pub struct SqliteMetadata {
    session: Session,
    /// The highest stamp that this process gave out: a restored file may be behind it.
    newest: Arc<AtomicI64>,
}

impl SqliteMetadata {
    /// The store at this path. It is opened, and made where there is none, at its first use: a store that is
    /// down now may be back then.
    pub fn open(path: impl Into<PathBuf>) -> Self {
        Self { session: Session::new(path.into(), format::open), newest: Arc::default() }
    }

    /// The store at this path, which is never made where there is none.
    pub fn open_existing(path: impl Into<PathBuf>) -> Self {
        Self { session: Session::new(path.into(), format::open_existing), newest: Arc::default() }
    }

    /// Runs `change` in one write transaction, which is committed only if it answers `Some`.
    async fn write<T, F>(&self, key: &str, change: F) -> Result<T, MetadataError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>, &str, &AtomicI64) -> Result<Option<T>, Fault> + Send + 'static,
    {
        let owned = key.to_owned();
        let changed = self.transact(LIMIT, move |transaction, newest| {
            Ok(change(transaction, &owned, newest)?.ok_or(MetadataError::Changed { key: owned }))
        });
        changed.await?
    }

    /// Runs `change` in one write transaction, which is committed only where both of its answers are `Ok`.
    async fn transact<T, F>(&self, limit: Duration, change: F) -> Result<Result<T, MetadataError>, Fault>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>, &AtomicI64) -> Result<Result<T, MetadataError>, Fault> + Send + 'static,
    {
        let newest = Arc::clone(&self.newest);
        let changed = self.session.run(limit, move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let answer = change(&transaction, &newest)?;
            if answer.is_ok() {
                transaction.commit()?
            } else {
                transaction.rollback()?
            }
            Ok(answer)
        });
        changed.await
    }
}

/// A stamp above all that this file or this process ever gave out.
fn next_stamp(transaction: &Transaction<'_>, newest: &AtomicI64) -> Result<i64, Fault> {
    let stamp = transaction
        .prepare_cached("UPDATE counter SET stamp = max(stamp, ?1) + 1 WHERE one = 1 RETURNING stamp")?
        .query_row([newest.load(Ordering::SeqCst)], |row| row.get(0))?;
    newest.fetch_max(stamp, Ordering::SeqCst);
    Ok(stamp)
}

/// The stamp of the record as it is now.
fn stamp_of(transaction: &Transaction<'_>, key: &str) -> Result<Option<i64>, Fault> {
    let mut statement = transaction.prepare_cached("SELECT stamp FROM records WHERE key = ?1")?;
    Ok(statement.query_row([key], |row| row.get(0)).optional()?)
}

fn write_record(
    transaction: &Transaction<'_>,
    key: &str,
    value: &[u8],
    newest: &AtomicI64,
) -> Result<Stamp, Fault> {
    let stamp = next_stamp(transaction, newest)?;
    transaction
        .prepare_cached(
            "INSERT INTO records (key, value, stamp) VALUES (?1, ?2, ?3) \
             ON CONFLICT (key) DO UPDATE SET value = excluded.value, stamp = excluded.stamp",
        )?
        .execute(params![key, value, stamp])?;
    public(stamp)
}

fn public(stamp: i64) -> Result<Stamp, Fault> {
    u64::try_from(stamp).map(Stamp).map_err(|_| Fault::Damaged("a stamp is negative".into()))
}

/// The stamp as SQLite has it; one that no SQLite integer equals is nobody's.
fn private(stamp: Stamp) -> Option<i64> {
    i64::try_from(stamp.0).ok()
}

fn record(row: &Row<'_>) -> Result<Record, Fault> {
    Ok(Record { key: row.get(0)?, value: row.get(1)?, stamp: public(row.get(2)?)? })
}

fn list(connection: &Connection, prefix: &str) -> Result<Vec<Record>, Fault> {
    let behind = behind_prefix(prefix.as_bytes());
    // Bytes as text: the end of the range need not be UTF-8.
    let end = ToSqlOutput::Borrowed(behind.as_deref().map_or(ValueRef::Null, ValueRef::Text));
    let mut statement = connection.prepare_cached(
        "SELECT key, value, stamp FROM records WHERE key >= ?1 AND (?2 IS NULL OR key < ?2) ORDER BY key",
    )?;
    statement.query_and_then(params![prefix, end], record)?.collect()
}

#[async_trait]
impl Metadata for SqliteMetadata {
    async fn get(&self, key: &str) -> Result<Option<Record>, MetadataError> {
        let key = key.to_owned();
        let found = self.session.run(LIMIT, move |connection| {
            let mut statement =
                connection.prepare_cached("SELECT key, value, stamp FROM records WHERE key = ?1")?;
            statement.query_and_then([&key], record)?.next().transpose()
        });
        Ok(found.await?)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Record>, MetadataError> {
        let prefix = prefix.to_owned();
        Ok(self.session.run(LIMIT, move |connection| list(connection, &prefix)).await?)
    }

    async fn put(&self, key: &str, value: &[u8]) -> Result<Stamp, MetadataError> {
        within_limit(key, value)?;
        let value = value.to_vec();
        self.write(key, move |transaction, key, newest| write_record(transaction, key, &value, newest).map(Some))
            .await
    }

    async fn swap(&self, key: &str, expected: Option<Stamp>, value: &[u8]) -> Result<Stamp, MetadataError> {
        within_limit(key, value)?;
        let value = value.to_vec();
        self.write(key, move |transaction, key, newest| {
            let found = stamp_of(transaction, key)?;
            let as_expected = match expected {
                None => found.is_none(),
                Some(stamp) => found.is_some() && found == private(stamp),
            };
            if as_expected { write_record(transaction, key, &value, newest).map(Some) } else { Ok(None) }
        })
        .await
    }

    async fn remove(&self, key: &str, expected: Stamp) -> Result<(), MetadataError> {
        self.write(key, move |transaction, key, _| {
            let removed = transaction
                .prepare_cached("DELETE FROM records WHERE key = ?1 AND stamp = ?2")?
                .execute(params![key, private(expected)])?;
            Ok((removed == 1).then_some(()))
        })
        .await
    }

    async fn fill(&self, records: Vec<(String, Vec<u8>)>, existing: Existing) -> Result<(), MetadataError> {
        for (key, value) in &records {
            within_limit(key, value)?;
        }
        let filled = self.transact(FILL_LIMIT, move |transaction, newest| {
            let first: Option<String> =
                transaction.query_row("SELECT key FROM records LIMIT 1", [], |row| row.get(0)).optional()?;
            if let (Existing::Refuse, Some(key)) = (existing, first) {
                return Ok(Err(MetadataError::Changed { key }));
            }
            transaction.execute("DELETE FROM records", [])?;
            for (key, value) in &records {
                write_record(transaction, key, value, newest)?;
            }
            Ok(Ok(()))
        });
        filled.await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn fault_25_a_full_disk_is_unavailable_and_the_store_works_again_when_there_is_room() {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteMetadata::open(directory.path().join("meta.db"));
        let first = store.put("a", b"1").await.unwrap();
        let limit = |connection: &mut Connection| {
            let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
            connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?;
            Ok(())
        };
        store.session.run(LIMIT, limit).await.unwrap();
        let big = vec![7; 500_000];
        let full = store.swap("a", Some(first), &big).await.unwrap_err();
        assert_eq!(full, MetadataError::Unavailable("the disk is full".into()));
        // The connection was given up, and the limit with it.
        let kept = store.get("a").await.unwrap().unwrap();
        assert_eq!((kept.value, kept.stamp), (b"1".to_vec(), first));
        let second = store.swap("a", Some(first), &big).await.unwrap();
        assert!(second.0 > first.0);
    }

    #[tokio::test]
    async fn a_panic_inside_leaves_no_transaction_behind() {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteMetadata::open(directory.path().join("meta.db"));
        store.put("a", b"1").await.unwrap();
        let panics = |connection: &mut Connection| -> Result<(), Fault> {
            connection.execute_batch("BEGIN IMMEDIATE; DELETE FROM records")?;
            panic!("on purpose")
        };
        assert!(matches!(store.session.run(LIMIT, panics).await, Err(Fault::Unreachable(_))));
        assert!(store.get("a").await.unwrap().is_some());
    }

    #[tokio::test]
    async fn fault_30_a_dropped_call_ends_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteMetadata::open(directory.path().join("meta.db"));
        for n in 0..50_u32 {
            let key = format!("{n:03}");
            let call = store.put(&key, b"x");
            let _ = tokio::time::timeout(Duration::from_micros(u64::from(n) * 40), call).await;
        }
        // What is there is whole, and the next caller finds no open transaction.
        let stamp = store.put("last", b"y").await.unwrap();
        assert_eq!(store.get("last").await.unwrap().unwrap().stamp, stamp);
        for record in store.list("0").await.unwrap() {
            assert_eq!(record.value, b"x");
        }
    }
}
