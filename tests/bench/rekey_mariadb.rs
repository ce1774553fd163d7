//! Rekeying a MariaDB table, beside a bare client that locks the rows of a batch, compares them and writes them.

use sqlx::{Connection as _, MySqlConnection, Row as _};
use tokio::runtime::Runtime;

use crate::{
    Scale,
    columns::{self, BATCH, SCHEMAS, Tables, renewed},
    harness::databases::MariaDb,
};

const READ: &str = "SELECT id, token FROM tokens WHERE id > ? AND id <= ? ORDER BY id LIMIT ?";

/// Room for all rows, and for what is written of them in one round.
const OPTIONS: [&str; 2] = ["--innodb-log-file-size=512M", "--innodb-buffer-pool-size=512M"];

struct Server {
    maria: MariaDb,
    runtime: Runtime,
}

pub(crate) fn measure(scale: &Scale) {
    let server = Server { maria: MariaDb::start_with(&OPTIONS), runtime: Runtime::new().unwrap() };
    for schema in SCHEMAS {
        let make = format!(
            "CREATE DATABASE IF NOT EXISTS {schema}; CREATE TABLE {schema}.tokens (id BIGINT PRIMARY KEY, token TEXT)"
        );
        server.maria.sql(&make);
    }
    let mut world = columns::world(&server.url());
    columns::rounds(scale, &mut world, &server);
}

impl Tables for Server {
    fn name(&self) -> &'static str {
        "MariaDB (log flushed once a second)"
    }

    fn url(&self) -> String {
        self.maria.url()
    }

    fn pid(&self) -> u32 {
        self.maria.pid()
    }

    fn refill(&self, schema: &str, values: &[String]) {
        self.runtime.block_on(async {
            let mut db = in_schema(&self.url(), schema).await;
            sqlx::raw_sql("TRUNCATE tokens").execute(&mut db).await.unwrap();
            for (values, first) in values.chunks(BATCH).zip((1..).step_by(BATCH)) {
                let ids: Vec<i64> = (first..).take(values.len()).collect();
                let insert = format!("INSERT INTO tokens VALUES {}", list("(?, ?)", ids.len()));
                write(&mut db, &insert, &ids, values).await;
            }
            sqlx::raw_sql("ANALYZE TABLE tokens").execute(&mut db).await.unwrap();
        });
    }

    fn bare(&self, parts: &[(i64, i64)]) {
        let workers = parts.iter().map(|(after, last)| {
            let (url, after, last) = (self.url(), *after, *last);
            self.runtime.spawn(async move { worker(in_schema(&url, SCHEMAS[1]).await, after, last).await })
        });
        for worker in workers.collect::<Vec<_>>() {
            self.runtime.block_on(worker).unwrap();
        }
    }
}

async fn worker(mut db: MySqlConnection, mut after: i64, last: i64) {
    loop {
        let read = sqlx::query(READ).bind(after).bind(last).bind(BATCH as u64);
        let (ids, old) = rows(read.fetch_all(&mut db).await.unwrap());
        let Some(end) = ids.last() else { return };
        after = *end;
        let new: Vec<String> = old.iter().map(|old| renewed(old)).collect();

        sqlx::raw_sql("START TRANSACTION").execute(&mut db).await.unwrap();
        let lock =
            format!("SELECT id, token FROM tokens WHERE id IN ({}) ORDER BY id FOR UPDATE", list("?", ids.len()));
        let lock = ids.iter().fold(sqlx::query(sqlx::AssertSqlSafe(lock)), |lock, id| lock.bind(*id));
        let locked = rows(lock.fetch_all(&mut db).await.unwrap());
        assert!(locked == (ids, old), "nobody else writes here");
        let insert = format!(
            "INSERT INTO tokens (id, token) VALUES {} ON DUPLICATE KEY UPDATE token = VALUES(token)",
            list("(?, ?)", new.len())
        );
        // All are locked, so that none of them is gone and would come back.
        write(&mut db, &insert, &locked.0, &new).await;
        sqlx::raw_sql("COMMIT").execute(&mut db).await.unwrap();
    }
}

async fn write(db: &mut MySqlConnection, sql: &str, ids: &[i64], values: &[String]) {
    let mut statement = sqlx::query(sqlx::AssertSqlSafe(sql));
    for (id, value) in ids.iter().zip(values) {
        statement = statement.bind(*id).bind(value.as_str());
    }
    statement.execute(db).await.unwrap();
}

fn rows(found: Vec<sqlx::mysql::MySqlRow>) -> (Vec<i64>, Vec<String>) {
    found.iter().map(|row| (row.get::<i64, _>(0), row.get::<String, _>(1))).unzip()
}

/// So many of the same, with commas.
fn list(item: &str, count: usize) -> String {
    vec![item; count].join(", ")
}

async fn in_schema(url: &str, schema: &str) -> MySqlConnection {
    let mut db = MySqlConnection::connect(url).await.unwrap();
    let settings = format!("USE {schema}; SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED");
    sqlx::raw_sql(sqlx::AssertSqlSafe(settings)).execute(&mut db).await.unwrap();
    db
}
