//! A new connection with PostgreSQL, and the pool of them.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use sqlx::{Connection as _, postgres::PgConnection};
use tokio::time::timeout;

use super::{fault::Fault, options::Address};
use crate::pool::{self, Failure as _, Server};

/// How long a server may take to let a connection in. A server that is away is known as such by then.
const LET_IN: Duration = Duration::from_millis(1500);

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
pub(super) type Work<'s, T> = pool::Work<'s, T, Fault>;

/// Looks at a new connection, and says why it can't be used. It is told whether one was in use before.
pub(super) type Prepare = fn(&mut PgConnection, bool) -> Work<'_, ()>;

/// The connections with one database.
pub(super) type Pool = pool::Pool<Database>;

/// Where it is, and how its connections are made ready.
pub(super) struct Database {
    pub(super) address: Address,
    prepare: Prepare,
    used: AtomicBool,
}

impl Database {
    pub(super) fn new(address: Address, prepare: Prepare) -> Self {
        Self { address, prepare, used: AtomicBool::new(false) }
    }
}

impl Server for Database {
    type Connection = PgConnection;
    type Fault = Fault;

    const CONNECT: Duration = LET_IN.saturating_add(FIRST_ANSWER).saturating_add(PREPARE);
    const PING: Duration = Duration::from_secs(1);

    async fn connect(&self) -> Result<PgConnection, Fault> {
        let Address { options, tls } = &self.address;
        let connected = timeout(LET_IN, PgConnection::connect_with(options)).await;
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

    async fn ping(connection: &mut PgConnection) -> bool {
        connection.ping().await.is_ok()
    }
}
