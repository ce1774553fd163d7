//! Growth: the same table in PostgreSQL, on disk, ten times as large each time. Rows a second and memory should not
//! change with it; the census is beside the statement that a person counts with.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    Scale,
    columns::{self, rekeyed},
    figures::{Goal, Spread, figure, heading, ratio, row},
    harness::{World, servers::Postgres},
    process::{cpu_seconds, forget_peak, memory_mb},
    rekey::seconds,
    service::plaintexts,
};

const ROWS_MIN: usize = 10_000;
/// What the others are compared with.
const ROWS_BESIDE: usize = 100_000;
/// So many rows are enough for a figure; smaller tables go several rounds.
const ROWS_ENOUGH: usize = 1_000_000;
/// Values that differ; a row holds one of them.
const VALUES: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(3600);
const SETTINGS: [&str; 5] =
    ["fsync=on", "shared_buffers=512MB", "max_wal_size=2GB", "checkpoint_timeout=15min", "log_checkpoints=off"];

pub(crate) fn measure(scale: &Scale) {
    let postgres = Postgres::start_on_disk(&SETTINGS);
    postgres.sql(
        "CREATE SCHEMA app; CREATE TABLE app.tokens (id int8 PRIMARY KEY, token text); \
         CREATE TABLE app.seed (id int8, token text)",
    );
    let mut world = columns::world(&postgres.url());
    let values = world.encrypt_all(&plaintexts(VALUES));
    // So many fit into an argument of `psql`.
    for (first, values) in (1..).step_by(250).zip(values.chunks(250)) {
        let rows: Vec<String> = (first..).zip(values).map(|(id, value)| format!("({id}, '{value}')")).collect();
        postgres.sql(&format!("INSERT INTO app.seed VALUES {}", rows.join(", ")));
    }
    fill(&postgres, ROWS_MIN);
    world.rotate(1);

    let sizes = std::iter::successors(Some(ROWS_MIN), |rows| Some(rows * 10));
    let mut beside = None;
    for rows in sizes.take_while(|rows| *rows <= scale.growth) {
        let rate = at(&postgres, &world, rows);
        if rows == ROWS_BESIDE {
            beside = Some(rate);
        } else if let Some(beside) = beside {
            ratio("rows, of those at 100,000", rate / beside, Goal::AtLeast(0.9));
        }
    }
}

/// Rows a second at one size.
fn at(postgres: &Postgres, world: &World, rows: usize) -> f64 {
    let (mut rates, mut census, mut count, mut cpu) = (Vec::new(), Vec::new(), Vec::new(), 0.0);
    forget_peak(world.pid());
    let rounds = (ROWS_ENOUGH / rows).clamp(1, 5);
    for _ in 0..rounds {
        fill(postgres, rows);
        let before = cpu_seconds(world.pid());
        let job = world.post("/v1/rekey", json!({})).expect(202);
        let path = format!("/v1/rekey/{}", job["id"].as_str().unwrap());
        let job = until(|| Some(world.get(&path)).filter(|job| job["state"] != "running"));
        assert_eq!(rekeyed(&job), rows as u64, "{job}");
        rates.push(rows as f64 / seconds(&job));
        cpu += cpu_seconds(world.pid()) - before;

        let (took, sql) = counted(world, rows);
        census.push(rows as f64 / took);
        let begin = Instant::now();
        postgres.sql(&sql);
        count.push(rows as f64 / begin.elapsed().as_secs_f64());
    }
    let [rates, census, count] = [rates, census, count].map(|all| Spread::of(all.into_iter()));
    heading(&format!("growth: {rows} rows in PostgreSQL, on disk, {rounds} rounds"));
    row("keymoot, rows/s", rates);
    figure("keymoot, processor us for each row", 1e6 * cpu / (rows * rounds) as f64, "us");
    figure("the daemon's most memory", memory_mb(world.pid(), "VmHWM"), "MB");
    row("census, rows/s", census);
    row("a person's count by version, rows/s", count);
    ratio("census, of that count", census.median / count.median, Goal::AtLeast(0.8));
    rates.median
}

/// Seconds of a census, and the statement that counts the same by hand.
fn counted(world: &World, rows: usize) -> (f64, String) {
    let begin = Instant::now();
    world.post("/v1/census", json!({})).expect(202);
    let answer = until(|| Some(world.get("/v1/census")).filter(|answer| answer["running"] == false));
    let took = begin.elapsed().as_secs_f64();
    let source = &answer["sources"][0];
    assert_eq!((&source["rows"], &source["conclusive"]), (&json!(rows), &json!(true)), "{source}");
    (took, source["sql"].as_str().unwrap().to_owned())
}

/// So many rows as they were before any rekey, of a table of that size.
fn fill(postgres: &Postgres, rows: usize) {
    postgres.sql("TRUNCATE app.tokens");
    postgres.sql(&format!(
        "INSERT INTO app.tokens SELECT number * {VALUES} + id, token \
         FROM generate_series(0, {rows} / {VALUES} - 1) AS number, app.seed ORDER BY number, id"
    ));
    // Neither may be in a transaction, as two statements of one message are.
    postgres.sql("VACUUM ANALYZE app.tokens");
    postgres.sql("CHECKPOINT");
}

fn until<T>(mut done: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = done() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "waited in vain");
        sleep(Duration::from_millis(10));
    }
}
