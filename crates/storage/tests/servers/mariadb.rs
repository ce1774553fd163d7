//! What tests of sources on MariaDB share: one server for all of them, and a database for each.

use std::sync::{
    Arc, Mutex, Weak,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use keymoot_storage::{
    conformance::{self, Application},
    open_source,
    source::{Cell, IdPart, Row, RowId, Source, SourceSpec, Swap, Swapped},
};
use keymoot_types::associated_data::ColumnValue;

use crate::databases::{Connection, MariaDb};

/// A database of its own on the server that the tests of this process share.
pub struct App {
    pub server: Arc<MariaDb>,
    pub database: String,
}

impl App {
    pub fn new() -> Self {
        static SHARED: Mutex<Weak<MariaDb>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap();
        // Stopped when the last test that uses it ends.
        let server = shared.upgrade().unwrap_or_else(|| Arc::new(MariaDb::start()));
        *shared = Arc::downgrade(&server);
        Self::on(server)
    }

    /// A server of its own, with more options.
    pub fn with(options: &[&str]) -> Self {
        Self::on(Arc::new(MariaDb::start_with(options)))
    }

    fn on(server: Arc<MariaDb>) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let database = format!("app{}", NEXT.fetch_add(1, Ordering::SeqCst));
        server.sql(&format!("CREATE DATABASE {database}"));
        Self { server, database }
    }

    pub fn url(&self) -> String {
        self.at(self.server.url())
    }

    /// The same database, by another address of the server.
    pub fn at(&self, url: String) -> String {
        format!("{}/{}", url.rsplit_once('/').unwrap().0, self.database)
    }

    pub fn sql(&self, statements: &str) -> String {
        self.server.sql(&format!("USE {}; {statements}", self.database))
    }

    pub fn connect(&self) -> Connection {
        let mut connection = self.server.connect();
        connection.run(&format!("USE {}", self.database));
        connection
    }

    /// Makes `people` as the conformance suite wants it, with these types.
    pub fn people(&self, token: &str, tenant: &str) -> Arc<dyn Source> {
        self.sql(&format!(
            "CREATE TABLE people (id BIGINT PRIMARY KEY, tenant {tenant}, token {token}) ENGINE=InnoDB"
        ));
        open_source(self.spec()).unwrap()
    }

    pub fn spec(&self) -> SourceSpec {
        conformance::spec(&self.url())
    }

    /// So many people, from id 1 on, with values of v9.
    pub fn fill(&self, rows: usize) {
        self.sql(&format!("INSERT INTO people SELECT seq, 'acme', CONCAT('km:v9:', seq) FROM seq_1_to_{rows}"));
    }
}

/// From v9 to v10.
pub fn swap(row: &Row) -> Swap {
    let new = [b"km:v10:", row.cell.bytes().unwrap().strip_prefix(b"km:v9:").unwrap()].concat();
    Swap { id: row.id.clone(), old: row.cell.clone(), new: row.cell.with_bytes(new), columns: row.columns.clone() }
}

pub fn done(outcomes: &[Swapped]) -> usize {
    outcomes.iter().filter(|outcome| **outcome == Swapped::Done).count()
}

fn literal(bytes: &[u8]) -> String {
    format!("x'{}'", hex::encode(bytes))
}

fn number(id: &RowId) -> i64 {
    match id.0[..] {
        [IdPart::Integer(number)] => number,
        _ => unreachable!("{id:?}"),
    }
}

/// How an application stores a row of `people`.
pub fn replace(row: &Row) -> String {
    let tenant = match &row.columns[0].1 {
        ColumnValue::Text(text) => literal(text.as_bytes()),
        ColumnValue::Integer(number) => number.to_string(),
        _ => "NULL".into(),
    };
    let token = match &row.cell {
        Cell::Text(bytes) | Cell::Bytes(bytes) => literal(bytes),
        _ => "NULL".into(),
    };
    format!("REPLACE INTO people VALUES ({}, {tenant}, {token})", number(&row.id))
}

pub fn delete(id: &RowId) -> String {
    format!("DELETE FROM people WHERE id = {}", number(id))
}

#[async_trait]
impl Application for App {
    async fn write(&self, row: &Row) {
        self.sql(&replace(row));
    }

    async fn delete(&self, id: &RowId) {
        self.sql(&delete(id));
    }
}
