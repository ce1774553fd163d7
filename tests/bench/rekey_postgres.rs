//! Rekeying a PostgreSQL table, beside a bare client that does the same and encrypts nothing, and beside what people
//! do today: a script that reads rows, has `bao` rewrap them and updates them.

use std::time::Instant;

use reqwest::blocking::Client;
use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::runtime::Runtime;

use crate::{
    Scale,
    bao::Bao,
    columns::{self, BATCH, SCHEMAS, Tables, renewed},
    figures::{Goal, Spread, ratio, row},
    harness::{self, World, servers::Postgres},
    load::Load,
    service::plaintexts,
};

/// What `bao` takes in one batch at the most.
const BAO_BATCH: usize = 250;
/// One value a request takes long enough for so few.
const ROWS_ONE_BY_ONE: usize = 2_000;

const SWAP: &str = "UPDATE tokens AS t SET token = n.new FROM unnest($1::int8[], $2::text[], $3::text[]) \
                    AS n (id, old, new) WHERE t.id = n.id AND t.token COLLATE \"C\" IS NOT DISTINCT FROM n.old";

struct Server {
    postgres: Postgres,
    runtime: Runtime,
}

pub(crate) fn measure(scale: &Scale) {
    let server = Server { postgres: Postgres::start(), runtime: Runtime::new().unwrap() };
    for schema in SCHEMAS {
        let make =
            format!("CREATE SCHEMA {schema}; CREATE TABLE {schema}.tokens (id int8 PRIMARY KEY, token text)");
        server.postgres.sql(&make);
    }
    let mut world = columns::world(&server.url());
    let ours = columns::rounds(scale, &mut world, &server);
    if scale.bao {
        with_bao(scale, &world, &server, ours);
    }
}

impl Tables for Server {
    fn name(&self) -> &'static str {
        "PostgreSQL (fsync off)"
    }

    fn url(&self) -> String {
        self.postgres.url()
    }

    fn pid(&self) -> u32 {
        self.postgres.pid()
    }

    fn refill(&self, schema: &str, values: &[String]) {
        self.runtime.block_on(refill(&self.url(), schema, values));
    }

    fn bare(&self, parts: &[(i64, i64)]) {
        let workers = parts.iter().map(|(after, last)| {
            let (url, mut after, last) = (self.url(), *after, *last);
            self.runtime.spawn(async move {
                let mut db = in_schema(&url, SCHEMAS[1]).await;
                loop {
                    let (ids, old) = read(&mut db, after, last).await;
                    let Some(end) = ids.last() else { return };
                    after = *end;
                    let new: Vec<String> = old.iter().map(|old| renewed(old)).collect();
                    swap(&mut db, &ids, &old, &new).await;
                }
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            self.runtime.block_on(worker).unwrap();
        }
    }
}

fn with_bao(scale: &Scale, world: &World, server: &Server, ours: Spread) {
    let bao = Bao::start(&world.data_dir(), &Load::new(&world.data_dir().join("tls-cert.pem")));
    let http = harness::client(&world.data_dir().join("tls-cert.pem"));
    let texts = plaintexts(scale.rows);
    let values: Vec<String> = texts.chunks(BAO_BATCH).flat_map(|texts| bao.encrypt(&http, texts)).collect();
    let (mut single, mut batches) = (Vec::new(), Vec::new());
    for _ in 0..scale.rounds {
        let few = &values[..ROWS_ONE_BY_ONE.min(values.len())];
        server.refill(SCHEMAS[1], few);
        single.push(script(server, &bao, &http, few.len(), 1));
        server.refill(SCHEMAS[1], &values);
        batches.push(script(server, &bao, &http, values.len(), BAO_BATCH));
    }
    let (single, batches) = (Spread::of(single.into_iter()), Spread::of(batches.into_iter()));
    row("script with bao, one by one, rows/s", single);
    row("script with bao, batches of 250, rows/s", batches);
    ratio("rows, of the script's one by one", ours.median / single.median, Goal::AtLeast(80.0));
    ratio("rows, of the script's in batches", ours.median / batches.median, Goal::AtLeast(4.0));
}

/// Every row as it was before any rekey.
async fn refill(url: &str, schema: &str, values: &[String]) {
    let mut db = in_schema(url, schema).await;
    sqlx::raw_sql("TRUNCATE tokens").execute(&mut db).await.unwrap();
    let ids: Vec<i64> = (1..).take(values.len()).collect();
    for (ids, values) in ids.chunks(10_000).zip(values.chunks(10_000)) {
        let insert = sqlx::query("INSERT INTO tokens SELECT * FROM unnest($1::int8[], $2::text[])");
        insert.bind(ids).bind(values).execute(&mut db).await.unwrap();
    }
    // Neither may be in a transaction, as two statements of one message are.
    for statement in ["VACUUM ANALYZE tokens", "CHECKPOINT"] {
        sqlx::raw_sql(statement).execute(&mut db).await.unwrap();
    }
}

async fn in_schema(url: &str, schema: &str) -> PgConnection {
    let mut db = PgConnection::connect(url).await.unwrap();
    let path = format!("SET search_path = {schema}; SET enable_seqscan = off; SET enable_hashjoin = off");
    sqlx::raw_sql(sqlx::AssertSqlSafe(path)).execute(&mut db).await.unwrap();
    db
}

/// The next rows of a range of ids.
async fn read(db: &mut PgConnection, after: i64, last: i64) -> (Vec<i64>, Vec<String>) {
    let read = sqlx::query("SELECT id, token FROM tokens WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3");
    let found = read.bind(after).bind(last).bind(BATCH as i64).fetch_all(db).await.unwrap();
    found.iter().map(|row| (row.get::<i64, _>(0), row.get::<String, _>(1))).unzip()
}

async fn swap(db: &mut PgConnection, ids: &[i64], old: &[String], new: &[String]) {
    let written = sqlx::query(SWAP).bind(ids).bind(old).bind(new).execute(db).await.unwrap();
    assert_eq!(written.rows_affected(), ids.len() as u64);
}

/// Rows a second of a script that reads, has them rewrapped so many at once, and updates them.
fn script(server: &Server, bao: &Bao, http: &Client, rows: usize, size: usize) -> f64 {
    let runtime = &server.runtime;
    let mut db = runtime.block_on(in_schema(&server.url(), SCHEMAS[1]));
    let (mut after, mut written) = (0, 0);
    let begin = Instant::now();
    loop {
        let (ids, old) = runtime.block_on(read(&mut db, after, i64::MAX));
        let Some(end) = ids.last() else { break };
        after = *end;
        for (ids, old) in ids.chunks(size).zip(old.chunks(size)) {
            let new = bao.rewrap(http, old);
            runtime.block_on(swap(&mut db, ids, old, &new));
            written += ids.len();
        }
    }
    assert_eq!(written, rows);
    rows as f64 / begin.elapsed().as_secs_f64()
}
