//! A user's SQLite file, with the program that it belongs to.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "shared by several tests, each of which uses a part"
)]

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use keymoot_storage::{
    conformance::Application,
    source::{Cell, IdPart, Row, RowId, Selection, Source, SourceSpec, Swap},
    sqlite::SqliteSource,
};
use keymoot_types::associated_data::ColumnValue;
use rusqlite::{Connection, params, types::Value};
use tempfile::TempDir;

pub(crate) struct File {
    pub(crate) directory: TempDir,
    pub(crate) path: PathBuf,
}

impl File {
    /// A file in WAL mode with this schema.
    pub(crate) fn new(sql: &str) -> Self {
        Self::raw(&format!("PRAGMA journal_mode = WAL; {sql}"))
    }

    /// A file with just what `sql` makes.
    pub(crate) fn raw(sql: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app's file.db");
        let file = Self { directory, path };
        file.connect().execute_batch(sql).unwrap();
        file
    }

    pub(crate) fn connect(&self) -> Connection {
        let connection = Connection::open(&self.path).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        connection
    }

    pub(crate) fn url(&self) -> String {
        format!("sqlite://{}", self.path.display())
    }

    pub(crate) fn spec(&self, table: &str, id: &[&str], column: &str, associated_data: &str) -> SourceSpec {
        SourceSpec {
            name: "app.column".parse().unwrap(),
            url: self.url(),
            table: table.into(),
            id: id.iter().map(|name| (*name).into()).collect(),
            column: column.into(),
            key: "k".parse().unwrap(),
            associated_data: associated_data.parse().unwrap(),
            accept_triggers: Vec::new(),
            adopt: false,
            throttle_query: None,
        }
    }

    pub(crate) fn source(&self, table: &str, id: &[&str], column: &str, associated_data: &str) -> SqliteSource {
        SqliteSource::open(self.spec(table, id, column, associated_data)).unwrap()
    }

    pub(crate) fn count(&self, sql: &str) -> i64 {
        self.connect().query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

/// All rows, in chunks.
pub(crate) async fn all(source: &dyn Source, rows_max: usize, select: &Selection) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    loop {
        let after = rows.last().map(|row| row.id.clone());
        let chunk = source.read(after.as_ref(), rows_max, select).await.unwrap();
        if chunk.is_empty() {
            return rows;
        }
        rows.extend(chunk);
    }
}

pub(crate) fn swap(row: &Row, new: &str) -> Swap {
    let new = row.cell.with_bytes(new.into());
    Swap { id: row.id.clone(), old: row.cell.clone(), new, columns: row.columns.clone() }
}

pub(crate) fn id(number: i64) -> RowId {
    RowId(vec![IdPart::Integer(number)])
}

/// The `people` of the conformance suite.
pub(crate) const PEOPLE: &str = "CREATE TABLE people (id INTEGER PRIMARY KEY, tenant, token)";

#[async_trait]
impl Application for File {
    async fn write(&self, row: &Row) {
        let [IdPart::Integer(id)] = row.id.0[..] else { unreachable!() };
        let tenant = match &row.columns[0].1 {
            ColumnValue::Null => Value::Null,
            ColumnValue::Integer(number) => Value::Integer(*number),
            ColumnValue::Text(text) => Value::Text(text.clone()),
            other => unreachable!("{other:?}"),
        };
        let (sql, bytes) = match &row.cell {
            Cell::Text(bytes) => ("REPLACE INTO people VALUES (?1, ?2, CAST(?3 AS TEXT))", Some(bytes)),
            cell => (
                "REPLACE INTO people VALUES (?1, ?2, ?3)",
                if let Cell::Bytes(bytes) = cell { Some(bytes) } else { None },
            ),
        };
        self.connect().execute(sql, params![id, tenant, bytes]).unwrap();
    }

    async fn delete(&self, id: &RowId) {
        let [IdPart::Integer(id)] = id.0[..] else { unreachable!() };
        self.connect().execute("DELETE FROM people WHERE id = ?1", [id]).unwrap();
    }
}
