//! What services notice of a rekey: decryptions over TLS at a steady rate, with and without a job on a PostgreSQL table.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde_json::json;

use crate::{
    Scale,
    figures::{Goal, Spread, figure, heading, ratio, row},
    harness::{World, servers::Postgres},
    rekey::seconds,
    service::plaintexts,
};

/// Far below what a core can answer: the question is what a job adds, not how much there is room for.
const CLIENTS: usize = 4;
const EVERY: Duration = Duration::from_millis(4);

pub(crate) fn measure(scale: &Scale) {
    let postgres = Postgres::start();
    postgres.sql("CREATE TABLE tokens (id int8 PRIMARY KEY, token text); CREATE TABLE old (id int8, token text)");
    let mut world = World::new(&format!(
        "[[source]]\nname = \"tokens.token\"\nurl = \"{}\"\ntable = \"tokens\"\nid = \"id\"\n\
         column = \"token\"\nkey = \"auth-token\"\n",
        postgres.url()
    ));
    world.start();
    world.init(24, 1);
    world.unlock(&[(1, 1)]).expect(200);
    world.unlock(&[(1, 2)]).expect(200);
    let values = world.encrypt_all(&plaintexts(scale.rows));
    // So many fit into an argument of `psql`.
    for (number, chunk) in values.chunks(250).enumerate() {
        let rows: Vec<_> = (number * 250..).zip(chunk).map(|(id, value)| format!("({id}, '{value}')")).collect();
        postgres.sql(&format!("INSERT INTO old VALUES {}", rows.join(", ")));
    }
    world.rotate(1);
    let value = world.encrypt(b"of a service");

    let (mut quiet, mut beside, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    let _warm = ask(&world, &value, |begin| begin.elapsed() < scale.round / 4);
    for _ in 0..scale.rounds {
        quiet.push(ask(&world, &value, |begin| begin.elapsed() < scale.round));
        // One statement each: a vacuum may be in no transaction.
        for statement in
            ["TRUNCATE tokens", "INSERT INTO tokens SELECT * FROM old", "VACUUM ANALYZE tokens", "CHECKPOINT"]
        {
            postgres.sql(statement);
        }
        let id = world.post("/v1/rekey", json!({})).expect(202)["id"].as_str().unwrap().to_owned();
        beside.push(ask(&world, &value, |_| world.get(&format!("/v1/rekey/{id}"))["state"] == "running"));
        let job = world.job_end(&id);
        assert_eq!(job["sources"][0]["rekeyed"], scale.rows, "{job}");
        rates.push(scale.rows as f64 / seconds(&job));
    }
    let at = |rounds: &[Histogram<u64>], quantile: f64| {
        Spread::of(rounds.iter().map(|round| round.value_at_quantile(quantile) as f64 / 1e3))
    };
    heading("decryptions at a steady rate beside a rekey in PostgreSQL");
    figure("asked, requests/s", CLIENTS as f64 / EVERY.as_secs_f64(), "");
    row("the rekey beside them, rows/s", Spread::of(rates.into_iter()));
    for (quantile, name) in [(0.5, "p50"), (0.99, "p99")] {
        row(&format!("quiet, {name} ms"), at(&quiet, quantile));
        row(&format!("beside the rekey, {name} ms"), at(&beside, quantile));
    }
    let ratio_of = |quantile| at(&beside, quantile).median / at(&quiet, quantile).median;
    ratio("p99, of the quiet one", ratio_of(0.99), Goal::AtMost(1.2));
}

/// Microseconds from when a question was due to the end of its answer, as long as `more` says so: one that had to wait
/// for the one before counts with its wait.
fn ask(world: &World, value: &str, more: impl Fn(Instant) -> bool) -> Histogram<u64> {
    let begin = Instant::now();
    let stop = AtomicBool::new(false);
    let mut all = Histogram::<u64>::new(3).unwrap();
    thread::scope(|scope| {
        let client = |number: usize| {
            let stop = &stop;
            scope.spawn(move || {
                let mut latency = Histogram::<u64>::new(3).unwrap();
                let mut due = begin + EVERY * u32::try_from(number).unwrap() / u32::try_from(CLIENTS).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    world.open(value);
                    latency.record(u64::try_from(due.elapsed().as_micros()).unwrap()).unwrap();
                    due += EVERY;
                }
                latency
            })
        };
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        while more(begin) {
            thread::sleep(Duration::from_millis(100));
        }
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            all.add(client.join().unwrap()).unwrap();
        }
    });
    all
}
