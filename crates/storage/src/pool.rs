//! Connections with a server: a few, made when they are needed, given up after any error.
//!
//! A future of `sqlx` that was dropped leaves an answer behind that nobody read, or an open transaction. So work runs in a
//! task of its own, which a caller that goes away does not end; and a connection whose work failed, or took too long, is
//! closed and never used again.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, time::timeout};

use crate::away::Away;

/// The most connections at once.
const CONNECTIONS: usize = 8;

/// Why a piece of work was not done.
pub(crate) trait Failure: Send + 'static {
    /// Trying again later may help.
    fn unreachable(reason: String) -> Self;
    /// In words.
    fn reason(&self) -> &str;
}

/// What connections are made to.
pub(crate) trait Server: Send + Sync + 'static {
    type Connection: Send + 'static;
    type Fault: Failure;

    /// How long [`Server::connect`] may take.
    const CONNECT: Duration;

    /// How long a connection that was idle may take to show that it still works.
    const PING: Duration;

    /// A new connection, ready for use.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, Self::Fault>> + Send;

    /// Whether one that was idle still works.
    fn ping(connection: &mut Self::Connection) -> impl Future<Output = bool> + Send;
}

/// Something that is done with a connection.
pub(crate) type Work<'s, T, F> = Pin<Box<dyn Future<Output = Result<T, F>> + Send + 's>>;

/// The connections with one server.
pub(crate) struct Pool<S: Server>(Arc<Inner<S>>);

struct Inner<S: Server> {
    server: S,
    turn: Duration,
    permits: Semaphore,
    idle: Mutex<Vec<S::Connection>>,
    connecting: tokio::sync::Mutex<()>,
    away: Away,
}

impl<S: Server> Clone for Pool<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Server> Pool<S> {
    /// Connects to nothing yet. Whoever finds all connections in use, or others connecting, waits no longer than `turn`.
    pub(crate) fn new(server: S, turn: Duration) -> Self {
        Self(Arc::new(Inner {
            server,
            turn,
            permits: Semaphore::new(CONNECTIONS),
            idle: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            away: Away::default(),
        }))
    }

    pub(crate) fn server(&self) -> &S {
        &self.0.server
    }

    /// Does `work` with a connection, within `limit`. A caller that goes away stops it nowhere in the middle.
    pub(crate) async fn run<T, W>(&self, limit: Duration, work: W) -> Result<T, S::Fault>
    where
        T: Send + 'static,
        W: for<'s> FnOnce(&'s mut S::Connection) -> Work<'s, T, S::Fault> + Send + 'static,
    {
        self.run_and_keep_if(limit, |_| true, work).await
    }

    /// The same, after which the connection is used again only if the answer says so.
    pub(crate) async fn run_and_keep_if<T, W>(
        &self,
        limit: Duration,
        keep: fn(&T) -> bool,
        work: W,
    ) -> Result<T, S::Fault>
    where
        T: Send + 'static,
        W: for<'s> FnOnce(&'s mut S::Connection) -> Work<'s, T, S::Fault> + Send + 'static,
    {
        let inner = Arc::clone(&self.0);
        let done = tokio::spawn(async move { inner.run(limit, keep, work).await });
        done.await.unwrap_or_else(|_| Err(unreachable("the work on it was broken off")))
    }
}

fn unreachable<F: Failure>(reason: impl Into<String>) -> F {
    F::unreachable(reason.into())
}

impl<S: Server> Inner<S> {
    async fn run<T, W>(&self, limit: Duration, keep: fn(&T) -> bool, work: W) -> Result<T, S::Fault>
    where
        W: for<'s> FnOnce(&'s mut S::Connection) -> Work<'s, T, S::Fault>,
    {
        let Ok(Ok(_permit)) = timeout(self.turn, self.permits.acquire()).await else {
            return Err(unreachable(format!("all {CONNECTIONS} connections are in use")));
        };
        let mut connection = self.connection().await?;
        match timeout(limit, work(&mut connection)).await {
            Ok(Ok(answer)) => {
                if keep(&answer) {
                    self.idle().push(connection);
                }
                Ok(answer)
            }
            Ok(Err(fault)) => Err(fault),
            Err(_) => Err(unreachable(format!("no answer within {} s", limit.as_secs()))),
        }
    }

    /// A connection that works, as far as one can know.
    async fn connection(&self) -> Result<S::Connection, S::Fault> {
        loop {
            // By itself, lest the lock be held while the connection is asked.
            let idle = self.idle().pop();
            let Some(mut idle) = idle else { break };
            match timeout(S::PING, S::ping(&mut idle)).await {
                Ok(true) => return Ok(idle),
                // It was closed, as all are when a server restarts: the next, or a new one.
                Ok(false) => {}
                // The others would say nothing either.
                Err(_) => {
                    self.idle().clear();
                    self.away.failed("the server does not answer");
                    return Err(unreachable("the server does not answer"));
                }
            }
        }
        let Ok(_one_at_a_time) = timeout(self.turn, self.connecting.lock()).await else {
            return Err(unreachable("others are waiting to connect"));
        };
        self.away.may_try(S::CONNECT).map_err(S::Fault::unreachable)?;
        let connected = self.server.connect().await;
        match &connected {
            Ok(_) => self.away.is_back(),
            Err(fault) => self.away.failed(fault.reason()),
        }
        connected
    }

    fn idle(&self) -> MutexGuard<'_, Vec<S::Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
