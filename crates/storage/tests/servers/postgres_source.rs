//! A user's table in PostgreSQL as a source: every row once, no update lost.

use std::sync::Arc;

use async_trait::async_trait;
use keymoot_storage::{
    conformance::{self, Application, Cells, Dialect, Holds, IdKind, Tenants},
    open_source,
    source::{Cell, IdPart, Most, Row, RowId, Selection, Source, SourceSpec, Swap, Swapped},
};
use keymoot_types::associated_data::ColumnValue;
use sqlx::{Connection as _, PgConnection};

use super::servers::Postgres;

/// A source on `public.TABLE`.
pub(crate) fn spec(url: &str, table: &str, id: &[&str], column: &str, associated_data: &str) -> SourceSpec {
    SourceSpec {
        table: table.into(),
        id: id.iter().map(|name| (*name).into()).collect(),
        column: column.into(),
        associated_data: associated_data.parse().unwrap(),
        ..conformance::spec(url)
    }
}

pub(crate) fn swap(row: &Row, new: &str) -> Swap {
    let new = row.cell.with_bytes(new.into());
    Swap { id: row.id.clone(), old: row.cell.clone(), new, columns: row.columns.clone() }
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

/// The program that owns `people`, over a connection of its own.
struct App(tokio::sync::Mutex<PgConnection>, Holds);

impl App {
    async fn new(server: &Postgres, holds: Holds) -> Self {
        Self(tokio::sync::Mutex::new(PgConnection::connect(&server.url()).await.unwrap()), holds)
    }
}

#[async_trait]
impl Application for App {
    async fn write(&self, row: &Row) {
        let [IdPart::Integer(id)] = row.id.0[..] else { unreachable!() };
        let cell = row.cell.bytes().map(<[u8]>::to_vec);
        let sql = match self.1.cells {
            Cells::Bytes => {
                "INSERT INTO people VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET tenant = $2, token = $3"
            }
            _ => {
                "INSERT INTO people VALUES ($1, $2, convert_from($3, 'UTF8')) ON CONFLICT (id) DO UPDATE SET tenant = $2, token = convert_from($3, 'UTF8')"
            }
        };
        let query = sqlx::query(sql).bind(id);
        let query = match &row.columns[0].1 {
            ColumnValue::Integer(number) => query.bind(*number),
            ColumnValue::Text(text) => query.bind(text.clone()),
            ColumnValue::Null if self.1.tenants == Tenants::Integer => query.bind(None::<i64>),
            ColumnValue::Null => query.bind(None::<String>),
            other => unreachable!("{other:?}"),
        };
        query.bind(cell).execute(&mut *self.0.lock().await).await.unwrap();
    }

    async fn delete(&self, id: &RowId) {
        let [IdPart::Integer(id)] = id.0[..] else { unreachable!() };
        sqlx::query("DELETE FROM people WHERE id = $1").bind(id).execute(&mut *self.0.lock().await).await.unwrap();
    }
}

#[tokio::test]
async fn the_source_in_postgresql_keeps_the_promises() {
    let server = Postgres::start();
    server.sql(
        "CREATE EXTENSION citext; CREATE DOMAIN secret AS varchar(60);
         CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    );
    let (text, bytes) = (
        Holds { cells: Cells::Utf8, tenants: Tenants::Text },
        Holds { cells: Cells::Bytes, tenants: Tenants::Integer },
    );
    for (columns, holds) in [
        ("tenant text, token text", text),
        ("tenant varchar(20), token varchar(100)", text),
        ("tenant citext, token citext", text),
        ("tenant text COLLATE blind, token text COLLATE blind", text),
        ("tenant text COLLATE \"C\", token secret", text),
        ("tenant bigint, token bytea", bytes),
    ] {
        server
            .sql(&format!("DROP TABLE IF EXISTS people; CREATE TABLE people (id bigint PRIMARY KEY, {columns})"));
        let source = open_source(conformance::spec(&server.url())).unwrap();
        conformance::source(&*source, &App::new(&server, holds).await, holds).await;
    }
}

fn dialect(case_blind: bool) -> Dialect {
    let id = |kind| match kind {
        IdKind::SmallInt => "smallint",
        IdKind::Int => "integer",
        IdKind::BigInt => "bigint",
        IdKind::Text => "text COLLATE \"C\"",
        IdKind::CaseBlind => "text COLLATE \"en-x-icu\"",
        IdKind::Uuid => "uuid",
        IdKind::Bytes => "bytea",
    };
    let blind = |kind| match kind {
        IdKind::SmallInt => "smallint",
        IdKind::Int => "positive_or_not",
        IdKind::BigInt => "bigint",
        IdKind::Text => "varchar(40)",
        IdKind::CaseBlind => "text COLLATE blind",
        IdKind::Uuid => "uuid",
        IdKind::Bytes => "bytea",
    };
    let (id, schema): (fn(IdKind) -> &'static str, _) =
        if case_blind { (blind, "odd \"schema; x") } else { (id, "public") };
    Dialect { quote: '"', schema, id, text: "text", bytes: ("'\\x", "'") }
}

#[tokio::test]
async fn fault_42_every_row_of_every_table_of_the_matrix_in_postgresql_is_visited_once() {
    let server = Postgres::start();
    server.sql(
        "CREATE DOMAIN positive_or_not AS integer;
         CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE SCHEMA \"odd \"\"schema; x\"",
    );
    for case_blind in [false, true] {
        let dialect = dialect(case_blind);
        for table in conformance::tables() {
            for sql in table.sql(&dialect) {
                server.sql(&sql);
            }
            let table = conformance::Table { qualified: table.qualified || case_blind, ..table };
            let source = open_source(table.spec(&server.url(), dialect.schema)).unwrap();
            conformance::every_row_once(&*source, &table).await;
        }
    }
}

#[tokio::test]
async fn fault_42_a_table_in_partitions_is_read_as_one() {
    let server = Postgres::start();
    server.sql(
        "CREATE TABLE parts (id int, region text, c text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
         CREATE TABLE parts_a PARTITION OF parts FOR VALUES IN ('a');
         CREATE TABLE parts_b PARTITION OF parts FOR VALUES IN ('b');
         INSERT INTO parts SELECT n, chr(97 + n % 2), 'km:v9:' || n FROM generate_series(1, 500) AS n",
    );
    let source = open_source(spec(&server.url(), "parts", &["id", "region"], "c", "")).unwrap();
    assert_eq!(source.preflight().await.unwrap().blockers, Vec::<String>::new());
    let rows = all(&*source, 7, &Selection::Every).await;
    assert_eq!(rows.len(), 500);
    let batch: Vec<Swap> = rows.iter().map(|row| swap(row, "km:v10:x")).collect();
    assert_eq!(source.swap(&batch).await, Ok(vec![Swapped::Done; 500]));
    assert_eq!(source.census(&mut |_| ()).await.unwrap().visited, 500);
    assert_eq!(source.total().await.unwrap().rows, 500);
}

#[tokio::test]
async fn a_later_pass_over_many_rows_of_postgresql_goes_in_bounded_steps() {
    let server = Postgres::start();
    server.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, c text);
         INSERT INTO t SELECT n, CASE WHEN n IN (77777, 77778, 199999) THEN 'km:v9:' ELSE 'km:v10:' END || n
         FROM generate_series(1, 200000) AS n",
    );
    let source = open_source(spec(&server.url(), "t", &["id"], "c", "")).unwrap();
    conformance::few_old_rows_among_many(&*source, 200_000, &[77_777, 77_778, 199_999]).await;
}

#[tokio::test]
async fn a_chunk_ends_by_its_bytes_and_the_next_one_goes_on() {
    let server = Postgres::start();
    server.sql(
        "CREATE TABLE wide (id int PRIMARY KEY, c bytea);
         INSERT INTO wide SELECT n, decode(repeat('ab', 5000000), 'hex') FROM generate_series(1, 20) AS n",
    );
    let source = open_source(spec(&server.url(), "wide", &["id"], "c", "")).unwrap();
    let first = source.read(None, 1000, &Selection::Every).await.unwrap();
    assert_eq!(first.len(), 7);
    assert_eq!(all(&*source, 1000, &Selection::Every).await.len(), 20);
}

/// A table of two columns with so many old values.
pub(crate) fn tokens(server: &Postgres, rows: u32) -> Arc<dyn Source> {
    server.sql(&format!(
        "CREATE TABLE tokens (id bigint PRIMARY KEY, c text);
         INSERT INTO tokens SELECT n, 'km:v9:' || n FROM generate_series(1, {rows}) AS n"
    ));
    open_source(spec(&server.url(), "tokens", &["id"], "c", "")).unwrap()
}

#[tokio::test]
async fn the_sql_to_count_by_hand_counts_every_row_in_one_class() {
    let server = Postgres::start();
    server.sql(
        "CREATE TABLE t (id serial PRIMARY KEY, c text, b bytea);
         INSERT INTO t (c) VALUES ('km:v9:a'), ('km:v9:b'), ('km:v10:a'), ('km:v4294967295:a'), (NULL), (''),
             ('km:vintage: secret'), ('km:v09:a'), ('km:v'), ('plain'), ('KM:v9:a'), (' km:v9:a');
         UPDATE t SET b = convert_to(c, 'UTF8');
         INSERT INTO t (b) VALUES ('\\x4b4d0100000009ff'), ('\\x4b4d01')",
    );
    let count = async |column: &str| {
        let source = open_source(spec(&server.url(), "t", &["id"], column, "")).unwrap();
        let census = source.census(&mut |_: &Cell| ()).await.unwrap();
        server.sql(&census.sql)
    };
    let classes = "null|3\nempty|1\nkm:v9:|2\nforeign|3\nkm:v10:|1\nunreadable|3\nkm:v4294967295:|1";
    assert_eq!(count("c").await, classes);
    assert_eq!(
        count("b").await,
        "null|1\nempty|1\nkm:v9:|2\nforeign|3\nkm:v10:|1\nunreadable|4\nKM 0x00000009|1\nkm:v4294967295:|1"
    );
}

#[tokio::test]
async fn windows_follow_each_other_in_the_order_of_ids_whose_text_is_in_another() {
    let server = Postgres::start();
    server.sql(
        "CREATE TYPE size AS ENUM ('small', 'medium', 'large');
         CREATE TABLE tokens (size size, n int8, c text, PRIMARY KEY (size, n));
         INSERT INTO tokens SELECT size, n, CASE WHEN n % 5 > 0 THEN 'km:v9:x' ELSE 'km:v10:x' END
         FROM unnest(enum_range(NULL::size)) AS size, generate_series(1, 20) AS n",
    );
    let source = open_source(spec(&server.url(), "tokens", &["size", "n"], "c", "")).unwrap();
    let old = Selection::Prefixes(vec![b"km:v9:".to_vec()]);
    let old_of = |size: &'static str| (1..=20).filter(|n| n % 5 > 0).map(move |n| (size.to_owned(), n));
    let expected: Vec<(String, i64)> = ["small", "medium", "large"].into_iter().flat_map(old_of).collect();
    for (rows, looked_at) in [(7, 25), (100, 9), (1, 60), (48, 60), (3, 1)] {
        let (mut found, mut after) = (Vec::new(), None);
        while let chunk = source.chunk(after.as_ref(), Most { rows, looked_at }, &old).await.unwrap()
            && chunk.last.is_some()
        {
            assert!(chunk.rows.len() <= rows, "{} rows of {rows}", chunk.rows.len());
            found.extend(chunk.rows.into_iter().map(|row| match &row.id.0[..] {
                [IdPart::Text(size), IdPart::Integer(n)] => (size.clone(), *n),
                id => unreachable!("{id:?}"),
            }));
            after = chunk.last;
        }
        assert_eq!(found, expected, "{rows} of {looked_at}");
    }
}
