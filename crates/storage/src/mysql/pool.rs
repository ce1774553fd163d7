//! A session with a server, ready for use, and the pool of them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, Connection as _, mysql::MySqlConnection};
use tokio::time::timeout;

use super::{fault::Fault, galera, options::Address, sql::Sql, table};
use crate::{pool, source::SourceSpec};

/// How long a server may take to let a connection in. A server that is away is known as such by then.
const LET_IN: Duration = Duration::from_secs(5);

/// How long settings of a new connection take.
const PREPARE: Duration = Duration::from_secs(10);

/// The longest that a statement takes which knows its rows; the server itself stops it then.
pub(super) const STATEMENT: Duration = Duration::from_secs(30);

/// For how long reads use statements that were made from a table as it was. It may be altered at any time, and a look at it
/// takes five short statements, which a small chunk would feel.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

const ALTERED: &str = "the table was altered; it is looked at again";

/// What a session must be, whatever the server's or the account's defaults are: no value is shortened in silence, no
/// answer is cut off by a limit, long ids are sorted by all of them, waits end, transactions may write and none outlives its
/// commit, and a session is kept that idles for long, as one of a census does while other nodes count.
const SETTINGS: &str = "
    SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;
    SET SESSION autocommit = 1, sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', sql_safe_updates = 0,
        sql_select_limit = 18446744073709551615, innodb_lock_wait_timeout = 5, lock_wait_timeout = 5,
        net_write_timeout = 600, completion_type = 'NO_CHAIN', sql_big_selects = 1, max_sort_length = 8388608,
        wait_timeout = 28800";

const ROLLED_BACK: &str =
    "the server rolled the transaction back, as a cluster does for another node's write; nothing was written";

/// Something that is done with a connection.
pub(super) type Work<'s, T> = pool::Work<'s, T, Fault>;

/// A connection that is ready for use, and what is known of its server.
pub(super) struct Session {
    pub(super) connection: MySqlConnection,
    pub(super) server: Server,
    /// The source's statements, and when its table was as they say.
    sql: Option<(Instant, Arc<Sql>)>,
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
        let connected = timeout(LET_IN, MySqlConnection::connect_with(options)).await;
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
        let mut session = Self { connection, server, sql: None };
        session.limit_statements(STATEMENT).await?;
        session.limit_idle_transactions(STATEMENT).await?;
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

    /// From now on the server itself ends a transaction in which nothing comes for so long, and the locks of a node that
    /// stands still with it; never, where this is zero. MySQL has no such limit.
    pub(super) async fn limit_idle_transactions(&mut self, limit: Duration) -> Result<(), Fault> {
        if self.server.mariadb {
            // The special limits would go before the general one.
            let setting = format!(
                "SET SESSION idle_transaction_timeout = {}, idle_write_transaction_timeout = 0, \
                 idle_readonly_transaction_timeout = 0",
                limit.as_secs()
            );
            sqlx::raw_sql(AssertSqlSafe(setting)).execute(&mut self.connection).await?;
        }
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

    /// The source's statements, made from its table as it is, or was a moment ago: to read with.
    pub(super) async fn sql(&mut self, spec: &SourceSpec) -> Result<Arc<Sql>, Fault> {
        if let Some((_, sql)) = self.sql.as_ref().filter(|(looked, _)| looked.elapsed() < LOOK_AGAIN) {
            return Ok(Arc::clone(sql));
        }
        let sql = self.begin(spec).await?;
        sqlx::raw_sql("COMMIT").execute(&mut self.connection).await?;
        Ok(sql)
    }

    /// Begins a transaction until whose end the table can't be altered, and makes the source's statements from it.
    pub(super) async fn begin(&mut self, spec: &SourceSpec) -> Result<Arc<Sql>, Fault> {
        let looked = Instant::now();
        table::hold(&mut self.connection, spec).await?;
        let sql = Arc::new(Sql::look_up(&mut self.connection, spec, self.server.mariadb).await?);
        self.sql = Some((looked, Arc::clone(&sql)));
        Ok(sql)
    }

    /// What was read with these statements. That they can't be run is no mistake where the table was altered since.
    pub(super) async fn unless_altered<T>(
        &mut self,
        spec: &SourceSpec,
        sql: &Sql,
        read: Result<T, Fault>,
    ) -> Result<T, Fault> {
        if let Err(Fault::Mistaken(_)) = &read
            && *self.begin(spec).await? != *sql
        {
            return Err(Fault::Unreachable(ALTERED.into()));
        }
        read
    }
}

/// The connections with one server.
pub(super) type Pool = pool::Pool<Address>;

impl pool::Server for Address {
    type Connection = Session;
    type Fault = Fault;

    const CONNECT: Duration = LET_IN.saturating_add(PREPARE);
    const PING: Duration = Duration::from_secs(2);

    async fn connect(&self) -> Result<Session, Fault> {
        Session::connect(self).await
    }

    async fn ping(session: &mut Session) -> bool {
        session.connection.ping().await.is_ok()
    }
}

impl Pool {
    /// A connection of one's own, beside those of the pool.
    pub(super) async fn own(&self) -> Result<Session, Fault> {
        Session::connect(self.server()).await
    }

    /// The same with another server, at `host:port`, as the same user.
    pub(super) async fn own_at(&self, address: &str) -> Result<Session, Fault> {
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        let port = port.parse().map_err(|_| Fault::Mistaken("its address is not of the form host:port".into()))?;
        Session::connect(&self.server().at(host, port)).await
    }
}
