//! A table of tokens in each kind of database that can be a source.

use std::{fmt::Write as _, sync::MutexGuard};

use rusqlite::types::Value as Sql;
use serde_json::{Value as Json, json};

use crate::harness::{
    PATIENCE,
    databases::{Connection, MariaDb},
    galera::Galera,
    servers::Postgres,
};

/// How NULL is exported.
const NULL: &str = "<null>";

pub enum Database {
    /// A file of the test's own.
    Sqlite(tempfile::TempDir),
    Postgres(Postgres),
    MariaDb(MariaDb),
    /// The cluster that all tests share.
    Galera(MutexGuard<'static, Option<Galera>>),
}

/// The application's own connection.
pub enum Client {
    Sqlite(rusqlite::Connection),
    Session { connection: Connection, returning: bool },
}

impl Database {
    pub fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    pub fn postgres() -> Self {
        Self::Postgres(Postgres::start())
    }

    /// One that takes prepared transactions.
    pub fn prepared_postgres() -> Self {
        let mut database = Self::postgres();
        database.connect().run("ALTER SYSTEM SET max_prepared_transactions = 5");
        database.restart();
        database
    }

    pub fn mariadb() -> Self {
        Self::MariaDb(MariaDb::start())
    }

    pub fn galera() -> Self {
        Self::Galera(Galera::shared())
    }

    /// A cluster whose nodes can be cut off from each other.
    pub fn galera_apart() -> Self {
        Self::Galera(Galera::apart())
    }

    pub fn url(&self) -> String {
        match self {
            Self::Sqlite(directory) => format!("sqlite://{}", directory.path().join("app.db").display()),
            Self::Postgres(server) => server.url(),
            Self::MariaDb(server) => server.url(),
            Self::Galera(cluster) => cluster.as_ref().unwrap().url(0),
        }
    }

    /// The declaration of `tokens(id, token)`.
    pub fn source(&self) -> String {
        self.source_of("tokens", "id", "")
    }

    /// The declaration of the column `token` of another table, with more of its settings.
    pub fn source_of(&self, table: &str, id: &str, more: &str) -> String {
        format!(
            "[[source]]\nname = \"{table}.token\"\nurl = \"{}\"\ntable = \"{table}\"\nid = \"{id}\"\n\
             column = \"token\"\nkey = \"auth-token\"\n{more}\n",
            self.url()
        )
    }

    /// A connection of the application; with Galera, on another node than the worker's.
    pub fn connect(&self) -> Client {
        self.connect_to(1)
    }

    /// The same; with Galera, on this node.
    pub fn connect_to(&self, node: usize) -> Client {
        let session = |connection, returning| Client::Session { connection, returning };
        match self {
            Self::Sqlite(directory) => {
                let connection = rusqlite::Connection::open(directory.path().join("app.db")).unwrap();
                connection.busy_timeout(PATIENCE).unwrap();
                connection.pragma_update(None, "journal_mode", "WAL").unwrap();
                Client::Sqlite(connection)
            }
            Self::Postgres(server) => session(server.connect(), true),
            Self::MariaDb(server) => session(server.connect(), false),
            Self::Galera(cluster) => {
                let mut connection = cluster.as_ref().unwrap().connect(node);
                // It sees what it wrote on another node.
                connection.run("SET SESSION wsrep_sync_wait = 15");
                session(connection, false)
            }
        }
    }

    /// A text column's type.
    pub fn text(&self) -> &'static str {
        match self {
            Self::Sqlite(_) | Self::Postgres(_) => "TEXT",
            Self::MariaDb(_) | Self::Galera(_) => "VARCHAR(400) CHARACTER SET latin1",
        }
    }

    /// Makes `tokens` with these values from id 1 upwards.
    pub fn make_table(&self, tokens: &[String]) {
        let mut client = self.connect();
        client.run(&format!("CREATE TABLE tokens (id BIGINT PRIMARY KEY, token {})", self.text()));
        let rows: Vec<(i64, &str)> = (1..).zip(tokens.iter().map(String::as_str)).collect();
        client.insert("tokens", &rows);
    }

    /// The statement that fills `tokens` with one value.
    pub fn fill(&self, rows: u64, value: &str) -> String {
        let numbers = match self {
            Self::Sqlite(_) => {
                return format!(
                    "WITH RECURSIVE n (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < {rows}) \
                     INSERT INTO tokens SELECT id, '{value}' FROM n"
                );
            }
            Self::Postgres(_) => format!("generate_series(1, {rows}) AS n (seq)"),
            Self::MariaDb(_) | Self::Galera(_) => format!("seq_1_to_{rows}"),
        };
        format!("INSERT INTO tokens (id, token) SELECT seq, '{value}' FROM {numbers}")
    }

    /// A node of the cluster stands still.
    pub fn pause(&self, node: usize) {
        let Self::Galera(cluster) = self else { unreachable!() };
        cluster.as_ref().unwrap().pause(node);
    }

    pub fn go_on(&self, node: usize) {
        let Self::Galera(cluster) = self else { unreachable!() };
        cluster.as_ref().unwrap().go_on(node);
        cluster.as_ref().unwrap().until_whole();
    }

    /// Every row, `[[id, text or null], …]`, as a plain client of the database reads it, from every node.
    pub fn rows(&self) -> Json {
        match self {
            Self::Sqlite(_) => self.connect().sqlite_rows(),
            _ => self.rows_of(&format!("SELECT id, COALESCE(token, '{NULL}') FROM tokens ORDER BY id")),
        }
    }

    /// The same by a statement of one's own.
    pub fn rows_of(&self, sql: &str) -> Json {
        let printed = match self {
            Self::Sqlite(_) => unreachable!("a file is read otherwise"),
            Self::Postgres(server) => server.connect().run(sql),
            Self::MariaDb(server) => server.sql(sql),
            Self::Galera(cluster) => {
                let cluster = cluster.as_ref().unwrap();
                let sql = format!("SET SESSION wsrep_sync_wait = 1; {sql}");
                let nodes = [0, 1, 2].map(|node| cluster.sql(node, &sql));
                assert!(nodes[0] == nodes[1] && nodes[1] == nodes[2], "the nodes differ");
                nodes[0].clone()
            }
        };
        let row = |line: &str| {
            let (id, token) = line.split_once('\t').unwrap_or((line, ""));
            let token = if token == NULL { Json::Null } else { json!(token) };
            json!([id.parse::<i64>().unwrap(), token])
        };
        printed.lines().map(row).collect()
    }

    /// `kill -9` of the server, and its return. A file has none.
    pub fn restart(&mut self) {
        match self {
            Self::Sqlite(_) => {}
            Self::Postgres(server) => server.restart(),
            Self::MariaDb(server) => server.restart(),
            Self::Galera(cluster) => {
                let cluster = cluster.as_mut().unwrap();
                cluster.kill(0);
                cluster.rejoin();
            }
        }
    }
}

impl Client {
    /// A statement that must succeed or whose result is not minded.
    pub fn run(&mut self, sql: &str) -> String {
        match self {
            Self::Sqlite(connection) => {
                connection.execute_batch(sql).unwrap();
                String::new()
            }
            Self::Session { connection, .. } => connection.run(sql),
        }
    }

    /// The one number that a statement answers.
    pub fn number(&mut self, sql: &str) -> i64 {
        match self {
            Self::Sqlite(connection) => connection.query_row(sql, [], |row| row.get(0)).unwrap(),
            Self::Session { connection, .. } => connection.run(sql).parse().unwrap(),
        }
    }

    /// A count by class.
    pub fn ask(&mut self, sql: &str) -> Vec<(String, u64)> {
        let printed = match self {
            Self::Sqlite(connection) => {
                let mut statement = connection.prepare(sql).unwrap();
                return statement
                    .query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))
                    .unwrap()
                    .map(Result::unwrap)
                    .collect();
            }
            Self::Session { connection, .. } => connection.run(sql.trim_end_matches(';')),
        };
        let row =
            |line: &str| line.split_once('\t').map(|(class, rows)| (class.to_owned(), rows.parse().unwrap()));
        printed.lines().filter_map(row).collect()
    }

    /// Writes to one row; whether it was done.
    pub fn write(&mut self, sql: &str) -> bool {
        match self {
            Self::Sqlite(connection) => connection.execute(sql, []).unwrap() == 1,
            Self::Session { connection, returning: true } => {
                !connection.run(&format!("{sql} RETURNING id")).is_empty()
            }
            Self::Session { connection, returning: false } => {
                connection.run(&format!("{sql}; SELECT ROW_COUNT()")) == "1"
            }
        }
    }

    /// Many rows `(id, token)`.
    pub fn insert(&mut self, table: &str, rows: &[(i64, &str)]) {
        for chunk in rows.chunks(500) {
            let mut sql = format!("INSERT INTO {table} (id, token) VALUES ");
            for (n, (id, token)) in chunk.iter().enumerate() {
                let _ = write!(sql, "{}({id}, '{token}')", if n == 0 { "" } else { ", " });
            }
            self.run(&sql);
        }
    }

    fn sqlite_rows(&self) -> Json {
        let Self::Sqlite(connection) = self else { unreachable!() };
        let mut statement = connection.prepare("SELECT id, token FROM tokens ORDER BY id").unwrap();
        let row = |row: &rusqlite::Row<'_>| {
            let token = match row.get(1)? {
                Sql::Null => Json::Null,
                Sql::Text(text) => json!(text),
                other => panic!("{other:?}"),
            };
            Ok(json!([row.get::<_, i64>(0)?, token]))
        };
        statement.query_map([], row).unwrap().map(Result::unwrap).collect()
    }
}
