//! A column of a user's table in PostgreSQL.
//!
//! # Layout
//!
//! `shape` is what the catalogue says of the table, `sql` the statements, `bind` the values; `session` sets a
//! connection up. `rows` reads and swaps, `census` counts, `others` waits for who may still write and `beside` looks for
//! rows that no count would show; `preflight` refuses, with `key`, `rights`, `width` and `checks` beside it; `load` says
//! how busy the server is.

mod beside;
mod bind;
mod census;
mod checks;
mod key;
mod load;
mod others;
mod preflight;
mod rights;
mod rows;
mod session;
mod shape;
mod sql;
mod width;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use sqlx::PgConnection;

use self::shape::Shape;
use super::{
    fault::Fault,
    options,
    pool::{Database, Pool, Work},
};
use crate::{
    behind::Behind,
    source::{
        Ahead, Chunk, Load, Most, Preflight, Row, RowId, Selection, Snapshot, Source, SourceError, SourceSpec,
        Swap, Swapped, Total, Visit,
    },
};

/// The longest that a call takes which knows its rows: longer than the server's own limit.
const LIMIT: Duration = Duration::from_secs(40);

/// How long to wait for a connection that other chunks use: more may be in flight than there are connections, and each
/// may wait for locks as long as a call takes.
const TURN: Duration = Duration::from_secs(60);

/// The longest that a call takes which may have to look at the whole table.
const LIMIT_SCAN: Duration = Duration::from_secs(1800);

/// A column of a user's table in a PostgreSQL database, version 13 or later.
///
/// A batch is one statement in a transaction of its own, at READ COMMITTED. Where the answer to its commit is lost,
/// the server is asked what became of it.
pub struct PostgresSource {
    declared: Arc<Declared>,
    pool: Pool,
    behind: Arc<Behind<i64>>,
}

struct Declared {
    spec: SourceSpec,
    /// Forgotten after every fault, as somebody may have altered the table.
    shape: Mutex<Option<Arc<Shape>>>,
}

impl Declared {
    fn known(&self) -> MutexGuard<'_, Option<Arc<Shape>>> {
        self.shape.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn shape(&self, connection: &mut PgConnection) -> Result<Arc<Shape>, Fault> {
        let known = self.known().clone();
        if let Some(shape) = known {
            return Ok(shape);
        }
        let shape = Arc::new(shape::look_up(connection, &self.spec).await?);
        *self.known() = Some(Arc::clone(&shape));
        Ok(shape)
    }
}

impl PostgresSource {
    /// The source that `spec` declares, at `postgres://user:password@host:port/database`.
    ///
    /// # Errors
    /// [`SourceError::Mistaken`] for another address and for an empty id. Whether the table is there, only its use
    /// can tell.
    pub fn open(spec: SourceSpec) -> Result<Self, SourceError> {
        let mistaken = |reason: String| SourceError::Mistaken { name: spec.name.clone(), reason };
        let address = options::parse(&spec.url).map_err(|error| mistaken(error.to_string()))?;
        if spec.id.is_empty() {
            return Err(mistaken("it has no id; name the columns of its primary key".into()));
        }
        let pool = Pool::new(Database::new(address, session::prepare), TURN);
        let declared = Arc::new(Declared { spec, shape: Mutex::default() });
        Ok(Self { declared, pool, behind: Arc::default() })
    }

    /// Runs `work` on a connection, told what the table is like.
    async fn run<T, F>(&self, limit: Duration, work: F) -> Result<T, SourceError>
    where
        T: Send + 'static,
        F: for<'s> FnOnce(&'s mut PgConnection, Arc<Shape>) -> Work<'s, T> + Send + 'static,
    {
        let declared = Arc::clone(&self.declared);
        let done = self.pool.run(limit, move |connection| {
            Box::pin(async move {
                let shape = declared.shape(connection).await?;
                work(connection, shape).await
            })
        });
        self.answer(done.await)
    }

    fn answer<T>(&self, done: Result<T, Fault>) -> Result<T, SourceError> {
        done.map_err(|fault| {
            *self.declared.known() = None;
            fault.for_source(&self.declared.spec.name)
        })
    }
}

#[async_trait]
impl Source for PostgresSource {
    fn spec(&self) -> &SourceSpec {
        &self.declared.spec
    }

    async fn preflight(&self) -> Result<Preflight, SourceError> {
        self.preflight_for(Ahead::of(self.spec())).await
    }

    async fn preflight_for(&self, ahead: Ahead) -> Result<Preflight, SourceError> {
        let declared = Arc::clone(&self.declared);
        let pool = self.pool.clone();
        let done = self.pool.run(LIMIT_SCAN, move |connection| {
            Box::pin(async move {
                let encrypted = session::is_encrypted(connection).await?;
                let mut found = preflight::preflight(connection, &declared.spec, ahead).await?;
                found.warnings.extend(pool.server().address.tls.warning(encrypted));
                Ok(found)
            })
        });
        self.answer(done.await)
    }

    async fn total(&self) -> Result<Total, SourceError> {
        self.run(LIMIT, |connection, shape| Box::pin(async move { rows::total(connection, &shape).await })).await
    }

    async fn chunk(&self, after: Option<&RowId>, most: Most, select: &Selection) -> Result<Chunk, SourceError> {
        let (after, select) = (after.cloned(), select.clone());
        let declared = Arc::clone(&self.declared);
        let read = self.pool.run_and_keep_if(
            LIMIT,
            |(_, unread): &(Chunk, bool)| !*unread,
            move |connection| {
                Box::pin(async move {
                    let shape = declared.shape(connection).await?;
                    rows::chunk(connection, &shape, after.as_ref(), most, &select).await
                })
            },
        );
        self.answer(read.await).map(|(chunk, _)| chunk)
    }

    async fn read_again(&self, ids: &[RowId]) -> Result<Vec<Option<Row>>, SourceError> {
        let ids = ids.to_vec();
        self.run(LIMIT, move |connection, shape| {
            Box::pin(async move { rows::read_again(connection, &shape, &ids).await })
        })
        .await
    }

    async fn swap(&self, batch: &[Swap]) -> Result<Vec<Swapped>, SourceError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let known = self.declared.known().clone();
        let shape = match known {
            Some(shape) => shape,
            None => self.run(LIMIT, |_, shape| Box::pin(async move { Ok(shape) })).await?,
        };
        self.answer(rows::swap(&self.pool, shape, &self.declared.spec.accept_triggers, batch).await)
    }

    async fn load(&self) -> Result<Load, SourceError> {
        let throttle_query = self.declared.spec.throttle_query.clone();
        let behind = Arc::clone(&self.behind);
        let done = self.pool.run(LIMIT, move |connection| {
            Box::pin(async move { load::load(connection, throttle_query, behind).await })
        });
        self.answer(done.await)
    }

    async fn census(&self, visit: Visit<'_>) -> Result<Snapshot, SourceError> {
        let census = census::census(&self.pool, Arc::clone(&self.declared), visit).await;
        self.answer(census)
    }
}
