//! Rekeying a SQLite table, beside the bare loop that reads and compares and swaps the same rows and encrypts
//! nothing.

use std::{path::Path, time::Instant};

use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior, params};
use serde_json::Value as Json;

use crate::{
    Scale,
    figures::{Goal, Spread, figure, heading, ratio, row},
    harness::{PATIENCE, SOURCE, World, make_table},
    process::{cpu_seconds, memory_mb},
    service::plaintexts,
};

/// Rows of one read and one transaction of the bare loop.
const BATCH: u32 = 1_000;

// The worker's own statements (`crates/storage/src/sqlite/sql.rs`).
const READ: &str = "SELECT t.\"id\", t.\"token\" FROM main.\"tokens\" AS t WHERE (t.\"id\") > (?1) \
                    ORDER BY t.\"id\" LIMIT ?2";
const SWAP: &str = "UPDATE main.\"tokens\" AS t SET \"token\" = ?1 WHERE t.\"id\" = ?2 \
                    AND typeof(t.\"token\") = typeof(?3) AND CAST(t.\"token\" AS BLOB) IS CAST(?3 AS BLOB)";

pub(crate) fn measure(scale: &Scale) {
    let mut world = World::new(SOURCE);
    let (file, bare_file) = (world.path("app.db"), world.path("bare.db"));
    drop(make_table(&file, &[]));
    world.start();
    world.init(24, 1);
    world.unlock(&[(1, 1)]).expect(200);
    world.unlock(&[(1, 2)]).expect(200);
    let values = world.encrypt_all(&plaintexts(scale.rows));
    drop(make_table(&bare_file, &values));
    refill(&file, &values);
    world.rotate(1);

    let rows = scale.rows as f64;
    let (mut ours, mut bare, mut cpu) = (Vec::new(), Vec::new(), 0.0);
    for _ in 0..scale.rounds {
        refill(&file, &values);
        let cpu_before = cpu_seconds(world.pid());
        let job = world.rekey();
        cpu += cpu_seconds(world.pid()) - cpu_before;
        assert_eq!(job["sources"][0]["rekeyed"], scale.rows, "{job}");
        ours.push(rows / seconds(&job));
        refill(&bare_file, &values);
        bare.push(rows / bare_loop(&bare_file, scale.rows));
    }
    let (ours, bare) = (Spread::of(ours.into_iter()), Spread::of(bare.into_iter()));
    heading(&format!("rekey of {} rows in SQLite (WAL, FULL)", scale.rows));
    row("keymoot, rows/s", ours);
    row("bare compare-and-swap loop, rows/s", bare);
    figure("keymoot, processor us for each row", 1e6 * cpu / (rows * scale.rounds as f64), "us");
    ratio("rows, of the bare loop's", ours.median / bare.median, Goal::AtLeast(0.6));
    figure("the daemon's most memory", memory_mb(world.pid(), "VmHWM"), "MB");
}

/// From the job's own record.
pub(crate) fn seconds(job: &Json) -> f64 {
    let at = |field: &str| job[field].as_str().unwrap().parse::<Timestamp>().unwrap();
    at("ended_at").duration_since(at("started_at")).as_secs_f64()
}

fn open(file: &Path) -> Connection {
    let connection = Connection::open(file).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection.execute_batch("PRAGMA synchronous = FULL").unwrap();
    connection
}

/// Every row as it was before any rekey.
fn refill(file: &Path, values: &[String]) {
    let mut connection = open(file);
    let transaction = connection.transaction().unwrap();
    {
        let mut insert = transaction.prepare("INSERT OR REPLACE INTO tokens VALUES (?1, ?2)").unwrap();
        for (id, value) in (1_i64..).zip(values) {
            insert.execute(params![id, value]).unwrap();
        }
    }
    transaction.commit().unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
}

/// Seconds to write every row anew: one transaction a batch, the same length, no cryptography.
fn bare_loop(file: &Path, rows: usize) -> f64 {
    let mut connection = open(file);
    let begin = Instant::now();
    let (mut after, mut written) = (0_i64, 0);
    loop {
        let found: Vec<(i64, String)> = {
            let mut read = connection.prepare_cached(READ).unwrap();
            let found = read.query_map(params![after, BATCH], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            found.map(Result::unwrap).collect()
        };
        let Some((last, _)) = found.last() else { break };
        after = *last;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        for (id, old) in &found {
            let new = old.replacen("km:v1:", "km:v2:", 1);
            written += transaction.prepare_cached(SWAP).unwrap().execute(params![new, id, old]).unwrap();
        }
        transaction.commit().unwrap();
    }
    let seconds = begin.elapsed().as_secs_f64();
    assert_eq!(written, rows);
    seconds
}
