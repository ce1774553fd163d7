//! Connections with a server: a few, made when they are needed, given up after any error.
//!
//! A future of the driver that was dropped leaves an answer behind that nobody read, or an open transaction. So work
//! runs in a task of its own, which a caller that goes away does not end; and a connection whose work failed, or took
//! too long, is closed and never used again.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sqlx::{AssertSqlSafe, Connection as _, mysql::MySqlConnection};
use tokio::{sync::Semaphore, time::timeout};

use super::{fault::Fault, galera, options::Address, sql::Sql, table};
use crate::{away::Away, source::SourceSpec, tls::Tls};

/// The most connections at once.
const CONNECTIONS: usize = 8;

/// How long to wait for a connection that other chunks use: more may be in flight than there are connections, and each
/// may wait for locks as long as a call takes.
const TURN: Duration = Duration::from_secs(60);

/// How long to wait while others connect.
const CONNECT_TURN: Duration = Duration::from_secs(10);

/// How long a server may take to let a connection in. A server that is away is known as such by then.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a connection that was idle may take to show that it still works.
const PING: Duration = Duration::from_secs(2);

/// How long settings of a new connection take.
const PREPARE: Duration = Duration::from_secs(10);

/// The longest that a statement takes which knows its rows; the server itself stops it then.
pub(super) const STATEMENT: Duration = Duration::from_secs(30);

/// What a session must be, whatever the server's or the account's defaults are: no value is shortened in silence, no
/// answer is cut off by a limit, long ids are sorted by all of them, waits end, and no transaction outlives its commit or
/// the node that began it.
const SETTINGS: &str = "
    SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;
    SET SESSION autocommit = 1, sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', sql_safe_updates = 0,
        sql_select_limit = 18446744073709551615, innodb_lock_wait_timeout = 5, lock_wait_timeout = 5,
        net_write_timeout = 600, completion_type = 'NO_CHAIN', sql_big_selects = 1, max_sort_length = 8388608";

const ROLLED_BACK: &str =
    "the server rolled the transaction back, as a cluster does for another node's write; nothing was written";

/// Something that is done with a connection.
pub(super) type Work<'s, T> = Pin<Box<dyn Future<Output = Result<T, Fault>> + Send + 's>>;

/// A connection that is ready for use, and what is known of its server.
pub(super) struct Session {
    pub(super) connection: MySqlConnection,
    pub(super) server: Server,
    sql: Option<Arc<Sql>>,
    /// An answer was not read to its end: it would have to be before the next.
    pub(super) unread: bool,
}

/// Which server it is.
#[derive(Debug, Clone)]
pub(super) struct Server {
    /// MariaDB; else it is MySQL, or one of its relatives.
    pub(super) mariadb: bool,
    /// As it calls itself.
    pub(super) version: String,
    /// The longest statement with its values.
    pub(super) packet_bytes: u64,
    /// It is a node of a Galera cluster.
    pub(super) galera: bool,
}

impl Server {
    /// As in `MariaDB 10.11.6-MariaDB-log`.
    pub(super) fn name(&self) -> String {
        format!("{} {}", if self.mariadb { "MariaDB" } else { "MySQL" }, self.version)
    }
}

impl Session {
    async fn connect(Address { options, tls, .. }: &Address) -> Result<Self, Fault> {
        let connected = timeout(CONNECT, MySqlConnection::connect_with(options)).await;
        let connected = connected.map_err(|_| Fault::Unreachable("the server lets nobody in in time".into()))?;
        let mut connection = match connected {
            Ok(connection) => connection,
            Err(error) => return Err(tls.refusal(&error).await.map_or_else(|| error.into(), Fault::Unreachable)),
        };
        let prepared = timeout(PREPARE, async {
            sqlx::raw_sql(SETTINGS).execute(&mut connection).await?;
            let (version, packet_bytes): (String, u64) =
                sqlx::query_as("SELECT CAST(VERSION() AS CHAR), CAST(@@max_allowed_packet AS UNSIGNED)")
                    .fetch_one(&mut connection)
                    .await?;
            let galera = galera::join(&mut connection).await?;
            Ok::<_, Fault>(Server { mariadb: version.contains("MariaDB"), version, packet_bytes, galera })
        });
        let server =
            prepared.await.map_err(|_| Fault::Unreachable("a new connection does not answer".into()))??;
        let mut session = Self { connection, server, sql: None, unread: false };
        session.limit_statements(STATEMENT).await?;
        Ok(session)
    }

    /// Whether others on the way can't read along.
    pub(super) async fn is_encrypted(&mut self) -> Result<bool, Fault> {
        let cipher = galera::shown(&mut self.connection, "SHOW SESSION STATUS LIKE 'Ssl_cipher'").await?;
        Ok(cipher.values().any(|cipher| !cipher.is_empty()))
    }

    /// From now on the server itself stops a statement that takes longer.
    pub(super) async fn limit_statements(&mut self, limit: Duration) -> Result<(), Fault> {
        let setting = if self.server.mariadb {
            format!("SET SESSION max_statement_time = {}", limit.as_secs())
        } else {
            format!("SET SESSION max_execution_time = {}", limit.as_millis())
        };
        sqlx::raw_sql(AssertSqlSafe(setting)).execute(&mut self.connection).await?;
        Ok(())
    }

    /// Refuses to go on where the server has rolled the open transaction back and did not say so.
    pub(super) async fn refuse_rolled_back(&mut self) -> Result<(), Fault> {
        if !self.server.mariadb {
            return Ok(());
        }
        let (open,): (i64,) = sqlx::query_as("SELECT CAST(@@in_transaction AS SIGNED)")
            .persistent(false)
            .fetch_one(&mut self.connection)
            .await?;
        if open == 1 { Ok(()) } else { Err(Fault::Unreachable(ROLLED_BACK.into())) }
    }

    /// The source's statements, made from its table as it is.
    pub(super) async fn sql(&mut self, spec: &SourceSpec) -> Result<Arc<Sql>, Fault> {
        if let Some(sql) = &self.sql {
            return Ok(Arc::clone(sql));
        }
        table::hold(&mut self.connection, spec).await?;
        let sql = Arc::new(Sql::look_up(&mut self.connection, spec, self.server.mariadb).await?);
        sqlx::raw_sql("COMMIT").execute(&mut self.connection).await?;
        Ok(Arc::clone(self.sql.insert(sql)))
    }
}

/// The connections with one server.
#[derive(Clone)]
pub(super) struct Pool(Arc<Inner>);

struct Inner {
    address: Address,
    permits: Semaphore,
    idle: Mutex<Vec<Session>>,
    connecting: tokio::sync::Mutex<()>,
    away: Away,
}

impl Pool {
    /// Connects to nothing yet.
    pub(super) fn new(address: Address) -> Self {
        Self(Arc::new(Inner {
            address,
            permits: Semaphore::new(CONNECTIONS),
            idle: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            away: Away::default(),
        }))
    }

    /// The addresses of its replicas that were named.
    pub(super) fn replicas(&self) -> &[String] {
        &self.0.address.replicas
    }

    /// How far its server is trusted.
    pub(super) fn tls(&self) -> &Tls {
        &self.0.address.tls
    }

    /// Does `work` with a connection, within `limit`. A caller that goes away stops it nowhere in the middle.
    pub(super) async fn run<T, F>(&self, limit: Duration, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: for<'s> FnOnce(&'s mut Session) -> Work<'s, T> + Send + 'static,
    {
        let inner = Arc::clone(&self.0);
        let done = tokio::spawn(async move { inner.run(limit, work).await });
        done.await.unwrap_or_else(|_| Err(Fault::Unreachable("the work on it was broken off".into())))
    }

    /// A connection of one's own, beside those of the pool.
    pub(super) async fn own(&self) -> Result<Session, Fault> {
        Session::connect(&self.0.address).await
    }

    /// The same with another server, at `host:port`, as the same user.
    pub(super) async fn own_at(&self, address: &str) -> Result<Session, Fault> {
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        let port = port.parse().map_err(|_| Fault::Mistaken("its address is not of the form host:port".into()))?;
        Session::connect(&self.0.address.at(host, port)).await
    }
}

impl Inner {
    async fn run<T, F>(&self, limit: Duration, work: F) -> Result<T, Fault>
    where
        F: for<'s> FnOnce(&'s mut Session) -> Work<'s, T>,
    {
        let Ok(Ok(_permit)) = timeout(TURN, self.permits.acquire()).await else {
            return Err(Fault::Unreachable(format!("all {CONNECTIONS} connections are in use")));
        };
        let mut session = self.session().await?;
        let done = timeout(limit, work(&mut session)).await;
        match done {
            Ok(Ok(answer)) => {
                if !session.unread {
                    self.idle().push(session);
                }
                Ok(answer)
            }
            Ok(Err(fault)) => Err(fault),
            Err(_) => Err(Fault::Unreachable(format!("no answer within {} s", limit.as_secs()))),
        }
    }

    /// A connection that works, as far as one can know.
    async fn session(&self) -> Result<Session, Fault> {
        loop {
            // By itself, lest the lock be held while the connection is asked.
            let idle = self.idle().pop();
            let Some(mut idle) = idle else { break };
            match timeout(PING, idle.connection.ping()).await {
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
        let Ok(_one_at_a_time) = timeout(CONNECT_TURN, self.connecting.lock()).await else {
            return Err(Fault::Unreachable("others are waiting to connect".into()));
        };
        self.away.may_try(CONNECT + PREPARE).map_err(Fault::Unreachable)?;
        let connected = Session::connect(&self.address).await;
        match &connected {
            Ok(_) => self.away.is_back(),
            Err(Fault::Unreachable(reason) | Fault::Mistaken(reason)) => self.away.failed(reason),
        }
        connected
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
