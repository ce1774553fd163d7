//! Rekeying a table on a server, beside a bare client with as many workers that reads and writes the same rows and
//! encrypts nothing. Both tables are on the same server, in schemas of their own.

use std::time::Instant;

use serde_json::Value as Json;

use crate::{
    Scale,
    figures::{Goal, Spread, figure, heading, ratio, row},
    harness::World,
    process::{cpu_seconds, family_cpu_seconds, memory_mb},
    rekey::seconds,
    service::plaintexts,
};

/// Rows of one read and one transaction of the bare client.
pub(crate) const BATCH: usize = 1_000;
/// As many as the worker has chunks in flight where nothing is set.
const WORKERS: i64 = 2;
/// The daemon's table is `app.tokens` and the bare client's `bare.tokens`.
pub(crate) const SCHEMAS: [&str; 2] = ["app", "bare"];

/// A server with both tables.
pub(crate) trait Tables {
    /// What the heading says of the server.
    fn name(&self) -> &'static str;
    fn url(&self) -> String;
    fn pid(&self) -> u32;
    /// Every row as it was before any rekey.
    fn refill(&self, schema: &str, values: &[String]);
    /// Writes every row anew, each worker those of its ids: behind the first, up to the last.
    fn bare(&self, parts: &[(i64, i64)]);
}

/// A daemon that may decrypt and encrypt with version 1, and knows the table.
pub(crate) fn world(url: &str) -> World {
    let mut world = World::new(&format!(
        "[[source]]\nname = \"tokens.token\"\nurl = \"{url}\"\ntable = \"app.tokens\"\nid = \"id\"\n\
         column = \"token\"\nkey = \"auth-token\"\n"
    ));
    world.start();
    world.init(24, 1);
    world.unlock(&[(1, 1)]).expect(200);
    world.unlock(&[(1, 2)]).expect(200);
    world
}

/// The daemon's rows a second, beside the bare client's.
pub(crate) fn rounds(scale: &Scale, world: &mut World, tables: &impl Tables) -> Spread {
    let values = world.encrypt_all(&plaintexts(scale.rows));
    // The declaration is compared with the table before a version is made.
    tables.refill(SCHEMAS[0], &values);
    world.rotate(1);
    let (rows, rounds) = (scale.rows as f64, scale.rounds as f64);
    let (mut ours, mut bare, mut cpu, mut cpu_both, mut cpu_bare) = (Vec::new(), Vec::new(), 0.0, 0.0, 0.0);
    for _ in 0..scale.rounds {
        tables.refill(SCHEMAS[0], &values);
        let before = (cpu_seconds(world.pid()), family_cpu_seconds(tables.pid()));
        let job = world.rekey();
        let after = (cpu_seconds(world.pid()), family_cpu_seconds(tables.pid()));
        assert_eq!(rekeyed(&job), scale.rows as u64, "{job}");
        ours.push(rows / seconds(&job));
        cpu += after.0 - before.0;
        cpu_both += after.0 - before.0 + after.1 - before.1;

        tables.refill(SCHEMAS[1], &values);
        let before = (cpu_seconds(std::process::id()), family_cpu_seconds(tables.pid()));
        let begin = Instant::now();
        tables.bare(&parts(scale.rows));
        bare.push(rows / begin.elapsed().as_secs_f64());
        cpu_bare += cpu_seconds(std::process::id()) - before.0 + family_cpu_seconds(tables.pid()) - before.1;
    }
    let (ours, bare) = (Spread::of(ours.into_iter()), Spread::of(bare.into_iter()));
    let each = |cpu: f64| 1e6 * cpu / (rows * rounds);
    heading(&format!("rekey of {} rows in {}", scale.rows, tables.name()));
    row("keymoot, rows/s", ours);
    row("bare client, two workers, rows/s", bare);
    figure("keymoot, processor us for each row", each(cpu), "us");
    figure("keymoot and the server, us", each(cpu_both), "us");
    figure("bare client and the server, us", each(cpu_bare), "us");
    ratio("rows, of the bare client's", ours.median / bare.median, Goal::AtLeast(0.8));
    figure("the daemon's most memory", memory_mb(world.pid(), "VmHWM"), "MB");
    ours
}

pub(crate) fn rekeyed(job: &Json) -> u64 {
    job["sources"][0]["rekeyed"].as_u64().unwrap()
}

/// The ids from 1 on in as many parts as there are workers.
fn parts(rows: usize) -> Vec<(i64, i64)> {
    let part = (rows as i64 + WORKERS - 1) / WORKERS;
    (0..WORKERS).map(|number| (number * part, (number + 1) * part)).collect()
}

/// What the bare client writes: as long as a new value, and of the next version.
pub(crate) fn renewed(old: &str) -> String {
    old.replacen("km:v1:", "km:v2:", 1)
}
