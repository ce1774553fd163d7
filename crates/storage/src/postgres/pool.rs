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

use sqlx::{Connection as _, postgres::PgConnection};
use tokio::{sync::Semaphore, time::timeout};

use super::{fault::Fault, options::Address};
use crate::{away::Away, tls::Tls};

/// The most connections at once.
const CONNECTIONS: usize = 8;

/// How long a server may take to let a connection in. A server that is away is known as such by then.
const CONNECT: Duration = Duration::from_millis(1500);

/// How long a connection that was idle may take to show that it still works.
const PING: Duration = Duration::from_secs(1);

/// How long a new connection may take to its first answer. A network that swallowed the question swallows it for ever,
/// and nobody else connects meanwhile.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// How long the checks of a new connection take, with a lock to wait for.
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
    address: Address,
    prepare: Prepare,
    turn: Duration,
    permits: Semaphore,
    idle: Mutex<Vec<PgConnection>>,
    connecting: tokio::sync::Mutex<()>,
    away: Away,
    used: AtomicBool,
}

impl Pool {
    /// Connects to nothing yet. Whoever finds all connections in use, or others connecting, waits no longer than `turn`.
    pub(super) fn new(address: Address, prepare: Prepare, turn: Duration) -> Self {
        Self(Arc::new(Inner {
            address,
            prepare,
            turn,
            permits: Semaphore::new(CONNECTIONS),
            idle: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            away: Away::default(),
            used: AtomicBool::new(false),
        }))
    }

    /// How far its server is trusted.
    pub(super) fn tls(&self) -> &Tls {
        &self.0.address.tls
    }

    /// Does `work` with a connection, within `limit`. A caller that goes away stops it nowhere in the middle.
    pub(super) async fn run<T, F>(&self, limit: Duration, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: for<'s> FnOnce(&'s mut PgConnection) -> Work<'s, T> + Send + 'static,
    {
        self.run_and_keep_if(limit, |_| true, work).await
    }

    /// The same, after which the connection is used again only if the answer says so.
    pub(super) async fn run_and_keep_if<T, F>(
        &self,
        limit: Duration,
        keep: fn(&T) -> bool,
        work: F,
    ) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: for<'s> FnOnce(&'s mut PgConnection) -> Work<'s, T> + Send + 'static,
    {
        let inner = Arc::clone(&self.0);
        let done = tokio::spawn(async move { inner.run(limit, keep, work).await });
        done.await.unwrap_or_else(|_| Err(Fault::Unreachable("the work on it was broken off".into())))
    }
}

impl Inner {
    async fn run<T, F>(&self, limit: Duration, keep: fn(&T) -> bool, work: F) -> Result<T, Fault>
    where
        F: for<'s> FnOnce(&'s mut PgConnection) -> Work<'s, T>,
    {
        let Ok(Ok(_permit)) = timeout(self.turn, self.permits.acquire()).await else {
            return Err(Fault::Unreachable(format!("all {CONNECTIONS} connections are in use")));
        };
        let mut connection = self.connection().await?;
        let done = timeout(limit, work(&mut connection)).await;
        match done {
            Ok(Ok(answer)) => {
                if keep(&answer) {
                    self.idle().push(connection);
                }
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
        let Ok(_one_at_a_time) = timeout(self.turn, self.connecting.lock()).await else {
            return Err(Fault::Unreachable("others are waiting to connect".into()));
        };
        self.away.may_try(CONNECT + FIRST_ANSWER + PREPARE).map_err(Fault::Unreachable)?;
        let connected = self.connect().await;
        match &connected {
            Ok(_) => self.away.is_back(),
            Err(fault) => self.away.failed(fault.reason()),
        }
        connected
    }

    async fn connect(&self) -> Result<PgConnection, Fault> {
        let Address { options, tls } = &self.address;
        let connected = timeout(CONNECT, PgConnection::connect_with(options)).await;
        let connected = connected.map_err(|_| Fault::Unreachable("the server lets nobody in in time".into()))?;
        let mut connection = match connected {
            Ok(connection) => connection,
            Err(error) => {
                let refusal = tls.refusal(&error).await;
                // Whatever it is: a database that is closed to all for an hour is opened again.
                let reason = refusal.unwrap_or_else(|| Fault::from(error).reason().to_owned());
                return Err(Fault::Unreachable(reason));
            }
        };
        let set = timeout(FIRST_ANSWER, sqlx::raw_sql(SETTINGS).execute(&mut connection)).await;
        set.map_err(|_| Fault::Unreachable("a new connection does not answer".into()))??;
        let prepared = timeout(PREPARE, (self.prepare)(&mut connection, self.used.load(Ordering::SeqCst))).await;
        prepared.map_err(|_| Fault::Unreachable("a new connection could not be checked in time".into()))??;
        self.used.store(true, Ordering::SeqCst);
        Ok(connection)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<PgConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
