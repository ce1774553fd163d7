use std::time::Duration;

use async_trait::async_trait;
use sqlx::PgConnection;

use super::{
    fault::Fault,
    format, options,
    pool::{Database, Pool, Work},
    transaction::transact,
};
use crate::{
    OpenError,
    metadata::{Existing, Metadata, MetadataError, Record, Stamp, within_limit},
};

/// The longest that any call takes once it has a connection: longer than the server's own limit.
const LIMIT: Duration = Duration::from_secs(12);

/// How long to wait for a connection that others use.
const TURN: Duration = Duration::from_secs(2);

/// The longest that all records together take, on their way back from a backup.
const FILL_LIMIT: Duration = Duration::from_secs(600);

/// How much of them is sent at once.
const CHUNK_RECORDS: usize = 500;
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// The metadata store in a PostgreSQL database, version 13 or later.
///
/// A write is one transaction. Where the answer to its commit is lost, the server is asked what became of it. The
/// writer draws the stamp at random, so that no restored backup gives one out that was there before.
pub struct PostgresMetadata {
    pool: Pool,
}

impl PostgresMetadata {
    /// The store at this address. It is connected to, and its tables made where there are none, at its first use.
    ///
    /// # Errors
    /// [`OpenError`] for an address that can't be understood.
    pub fn open(url: &str) -> Result<Self, OpenError> {
        Ok(Self { pool: Pool::new(Database::new(options::parse(url)?, format::open), TURN) })
    }

    /// The same store, whose tables are never made.
    ///
    /// # Errors
    /// As [`PostgresMetadata::open`].
    pub fn open_existing(url: &str) -> Result<Self, OpenError> {
        Ok(Self { pool: Pool::new(Database::new(options::parse(url)?, format::open_existing), TURN) })
    }

    /// Runs a statement that must change exactly the record `key`; else somebody else changed it.
    async fn write<F>(&self, key: &str, statement: F) -> Result<(), MetadataError>
    where
        F: for<'s> FnOnce(&'s mut PgConnection, String) -> Work<'s, u64> + Send + 'static,
    {
        let key = key.to_owned();
        transact(&self.pool, LIMIT, move |connection| {
            Box::pin(async move {
                let rows = statement(connection, key.clone()).await?;
                Ok(if rows == 1 { Ok(()) } else { Err(MetadataError::Changed { key }) })
            })
        })
        .await?
    }
}

/// Any number is a stamp; PostgreSQL's have a sign.
fn stored(stamp: Stamp) -> i64 {
    stamp.0.cast_signed()
}

fn record((key, value, stamp): (String, Vec<u8>, i64)) -> Record {
    Record { key, value, stamp: Stamp(stamp.cast_unsigned()) }
}

#[async_trait]
impl Metadata for PostgresMetadata {
    async fn get(&self, key: &str) -> Result<Option<Record>, MetadataError> {
        let key = key.to_owned();
        let found = self.pool.run(LIMIT, |connection| {
            Box::pin(async move {
                let query = sqlx::query_as("SELECT key, value, stamp FROM keymoot_records WHERE key = $1");
                Ok(query.bind(key).fetch_optional(connection).await?)
            })
        });
        Ok(found.await?.map(record))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Record>, MetadataError> {
        let prefix = prefix.to_owned();
        let found = self.pool.run(LIMIT, |connection| {
            Box::pin(async move {
                let query = sqlx::query_as(
                    "SELECT key, value, stamp FROM keymoot_records \
                     WHERE key >= $1 AND starts_with(key, $1) ORDER BY key",
                );
                Ok(query.bind(prefix).fetch_all(connection).await?)
            })
        });
        Ok(found.await?.into_iter().map(record).collect())
    }

    async fn put(&self, key: &str, value: &[u8]) -> Result<Stamp, MetadataError> {
        within_limit(key, value)?;
        let (value, stamp) = (value.to_vec(), Stamp::draw()?);
        self.write(key, move |connection, key| {
            Box::pin(async move {
                let query = sqlx::query(
                    "INSERT INTO keymoot_records (key, value, stamp) VALUES ($1, $2, $3) \
                     ON CONFLICT (key) DO UPDATE SET value = excluded.value, stamp = excluded.stamp",
                );
                Ok(query.bind(key).bind(value).bind(stored(stamp)).execute(connection).await?.rows_affected())
            })
        })
        .await?;
        Ok(stamp)
    }

    async fn swap(&self, key: &str, expected: Option<Stamp>, value: &[u8]) -> Result<Stamp, MetadataError> {
        within_limit(key, value)?;
        let (value, stamp) = (value.to_vec(), Stamp::draw()?);
        self.write(key, move |connection, key| {
            Box::pin(async move {
                let query = match expected {
                    None => sqlx::query(
                        "INSERT INTO keymoot_records (key, value, stamp) VALUES ($1, $2, $3) \
                         ON CONFLICT (key) DO NOTHING",
                    ),
                    Some(_) => sqlx::query(
                        "UPDATE keymoot_records SET value = $2, stamp = $3 WHERE key = $1 AND stamp = $4",
                    ),
                };
                let query = query.bind(key).bind(value).bind(stored(stamp));
                let query = if let Some(expected) = expected { query.bind(stored(expected)) } else { query };
                Ok(query.execute(connection).await?.rows_affected())
            })
        })
        .await?;
        Ok(stamp)
    }

    async fn remove(&self, key: &str, expected: Stamp) -> Result<(), MetadataError> {
        self.write(key, move |connection, key| {
            Box::pin(async move {
                let query = sqlx::query("DELETE FROM keymoot_records WHERE key = $1 AND stamp = $2");
                Ok(query.bind(key).bind(stored(expected)).execute(connection).await?.rows_affected())
            })
        })
        .await
    }

    async fn fill(&self, records: Vec<(String, Vec<u8>)>, existing: Existing) -> Result<(), MetadataError> {
        for (key, value) in &records {
            within_limit(key, value)?;
        }
        transact(&self.pool, FILL_LIMIT, move |connection| {
            Box::pin(async move {
                // Readers see the old records until the commit, and writers wait.
                sqlx::raw_sql(
                    "SET LOCAL statement_timeout = '600s'; LOCK TABLE keymoot_records IN EXCLUSIVE MODE",
                )
                .execute(&mut *connection)
                .await?;
                let first: Option<(String,)> = sqlx::query_as("SELECT key FROM keymoot_records LIMIT 1")
                    .fetch_optional(&mut *connection)
                    .await?;
                if let (Existing::Refuse, Some((key,))) = (existing, first) {
                    return Ok(Err(MetadataError::Changed { key }));
                }
                sqlx::raw_sql("DELETE FROM keymoot_records").execute(&mut *connection).await?;
                insert(connection, records).await?;
                Ok(Ok(()))
            })
        })
        .await?
    }
}

async fn insert(connection: &mut PgConnection, records: Vec<(String, Vec<u8>)>) -> Result<(), Fault> {
    let mut records = records.into_iter().peekable();
    while records.peek().is_some() {
        let (mut keys, mut values, mut stamps, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
        while let Some((key, value)) = records.next_if(|_| bytes < CHUNK_BYTES && keys.len() < CHUNK_RECORDS) {
            bytes += key.len() + value.len();
            keys.push(key);
            values.push(value);
            stamps.push(stored(Stamp::draw().map_err(|error| Fault::Unreachable(error.to_string()))?));
        }
        sqlx::query(
            "INSERT INTO keymoot_records (key, value, stamp) \
             SELECT * FROM UNNEST($1::text[], $2::bytea[], $3::bigint[])",
        )
        .bind(keys)
        .bind(values)
        .bind(stamps)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}
