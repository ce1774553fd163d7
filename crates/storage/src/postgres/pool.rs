//! Connections with a server: a few, made when they are needed, given up after any error.
//!
//! `sqlx` is not safe to cancel on PostgreSQL: a `begin()` that was dropped gives back a connection in the midst of a
//! transaction. So work runs in a task of its own, which a caller that goes away does not end; and a connection
//! whose work failed, or took too long, is closed and never used again.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::{
    Connection as _,
    postgres::{PgConnectOptions, PgConnection},
};
use tokio::{sync::Semaphore, time::timeout};

use super::fault::Fault;
use crate::away::Away;

/// The most connections at once.
const CONNECTIONS: usize = 8;

/// How long to wait for a connection that others use, or connect.
const TURN: Duration = Duration::from_secs(2);

/// How long a server may take to let a connection in. A server that is away is known as such by then.
const CONNECT: Duration = Duration::from_millis(1500);

/// How long a connection that was idle may take to show that it still works.
const PING: Duration = Duration::from_secs(1);

/// How long settings and checks of a new connection take, with a lock to wait for.
const PREPARE: Duration = Duration::from_secs(10);

/// Waits that end on the server too, so that no transaction outlives the node that began it; and a commit is on
/// disk when it is acknowledged, whatever the role's default is.
const SETTINGS: &str = "
    SET statement_timeout = '10s'; SET lock_timeout = '5s'; SET idle_in_transaction_session_timeout = '20s';
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// Something that is done with a connection.
pub(super) type Work<'s, T> = Pin<Box<dyn Future<Output = Result<T, Fault>> + Send + 's>>;

/// Looks at a new connection, and says why it can't be used. It is told whether one was in use before.
pub(super) type Prepare = fn(&mut PgConnection, bool) -> Work<'_, ()>;

/// The connections with one database.
pub(super) struct Pool(Arc<Inner>);

struct Inner {
    options: PgConnectOptions,
    prepare: Prepare,
    permits: Semaphore,
    idle: Mutex<Vec<PgConnection>>,
    connecting: tokio::sync::Mutex<()>,
    away: Away,
    used: AtomicBool,
}

impl Pool {
    /// Connects to nothing yet.
    pub(super) fn new(options: PgConnectOptions, prepare: Prepare) -> Self {
        Self(Arc::new(Inner {
            options,
            prepare,
            permits: Semaphore::new(CONNECTIONS),
            idle: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            away: Away::default(),
            used: AtomicBool::new(false),
        }))
    }

    /// Does `work` with a connection, within `limit`. A caller that goes away stops it nowhere in the middle.
    pub(super) async fn run<T, F>(&self, limit: Duration, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: for<'s> FnOnce(&'s mut PgConnection) -> Work<'s, T> + Send + 'static,
    {
        let inner = Arc::clone(&self.0);
        let done = tokio::spawn(async move { inner.run(limit, work).await });
        done.await.unwrap_or_else(|_| Err(Fault::Unreachable("the work on it was broken off".into())))
    }
}

impl Inner {
    async fn run<T, F>(&self, limit: Duration, work: F) -> Result<T, Fault>
    where
        F: for<'s> FnOnce(&'s mut PgConnection) -> Work<'s, T>,
    {
        let Ok(Ok(_permit)) = timeout(TURN, self.permits.acquire()).await else {
            return Err(Fault::Unreachable(format!("all {CONNECTIONS} connections are in use")));
        };
        let mut connection = self.connection().await?;
        let done = timeout(limit, work(&mut connection)).await;
        match done {
            Ok(Ok(answer)) => {
                self.idle().push(connection);
                Ok(answer)
            }
            Ok(Err(fault)) => Err(fault),
            Err(_) => Err(Fault::Unreachable(format!("no answer within {} s", limit.as_secs()))),
        }
    }

    /// A connection that works, as far as one can know.
    async fn connection(&self) -> Result<PgConnection, Fault> {
        loop {
            // By itself, lest the lock be held while the connection is asked.
            let idle = self.idle().pop();
            let Some(mut idle) = idle else { break };
            match timeout(PING, idle.ping()).await {
                Ok(Ok(())) => return Ok(idle),
                // It was closed, as all are when a server restarts: the next, or a new one.
                Ok(Err(_)) => {}
                // The others would say nothing either.
                Err(_) => {
                    self.idle().clear();
                    self.away.failed("the server does not answer");
                    return Err(Fault::Unreachable("the server does not answer".into()));
                }
            }
        }
        let Ok(_one_at_a_time) = timeout(TURN, self.connecting.lock()).await else {
            return Err(Fault::Unreachable("others are waiting to connect".into()));
        };
        self.away.may_try(CONNECT + PREPARE).map_err(Fault::Unreachable)?;
        let connected = self.connect().await;
        match &connected {
            Ok(_) => self.away.is_back(),
            Err(Fault::Unreachable(reason) | Fault::Damaged(reason)) => self.away.failed(reason),
        }
        connected
    }

    async fn connect(&self) -> Result<PgConnection, Fault> {
        let connected = timeout(CONNECT, PgConnection::connect_with(&self.options)).await;
        let mut connection =
            connected.map_err(|_| Fault::Unreachable("the server lets nobody in in time".into()))??;
        let prepared = timeout(PREPARE, async {
            sqlx::raw_sql(SETTINGS).execute(&mut connection).await?;
            (self.prepare)(&mut connection, self.used.load(Ordering::SeqCst)).await
        });
        prepared.await.map_err(|_| Fault::Unreachable("a new connection does not answer".into()))??;
        self.used.store(true, Ordering::SeqCst);
        Ok(connection)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<PgConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
