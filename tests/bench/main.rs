//! `just bench`: how fast the daemon is, as ratios to what the same machine does without it.
//!
//! Both sides of every ratio are measured in alternating short rounds in one run. It asserts no time and no ratio:
//! a busy machine is not a defect. `docs/performance.md` tells what was found.
//!
//! # Layout
//!
//! [`load`] asks over TLS, [`echo`] is the ceiling, [`bao`] another key manager; [`service`], [`rekey`],
//! [`rekey_postgres`], [`rekey_mariadb`], [`growth`], [`foreground`] and [`footprint`] are what is measured; [`process`]
//! and [`figures`] count and show.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a benchmark that can't go on ends loudly, and blocks no runtime but its own"
)]

#[path = "../harness/mod.rs"]
mod harness;

mod bao;
mod columns;
mod echo;
mod figures;
mod footprint;
mod foreground;
mod growth;
mod load;
mod process;
mod rekey;
mod rekey_mariadb;
mod rekey_postgres;
mod service;

use std::{path::Path, time::Duration};

use clap::Parser;

/// Measures the daemon against what this machine does without it.
#[derive(Parser)]
struct Options {
    /// Few and short rounds: to see that it works, not to trust the figures.
    #[arg(long)]
    quick: bool,
    /// Compare with OpenBao too. Its program is `KEYMOOT_BENCH_BAO`, or `target/venv/bin/bao`.
    #[arg(long)]
    bao: bool,
    /// Only how rekeying a PostgreSQL table on disk grows, from 10,000 rows to so many: a minute for the million, and
    /// much longer and 15 GB of `TMPDIR` for ten.
    #[arg(long, value_name = "ROWS", num_args = 0..=1, default_missing_value = "1000000")]
    growth: Option<usize>,
    /// Only what has this in its name: service, footprint, foreground, rekey-sqlite, rekey-postgres, rekey-mariadb.
    #[arg(default_value = "")]
    only: String,
    /// Cargo passes it; it means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How much is measured.
pub(crate) struct Scale {
    pub(crate) rounds: usize,
    pub(crate) round: Duration,
    pub(crate) rows: usize,
    pub(crate) bao: bool,
    /// The most rows of the growth.
    pub(crate) growth: usize,
}

type Measure = fn(&Scale);

fn main() {
    let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, role, data_dir] = &arguments[..]
        && role == echo::ROLE
    {
        return echo::serve(Path::new(data_dir));
    }
    let options = Options::parse();
    let mut scale = Scale { rounds: 5, round: Duration::from_secs(2), rows: 200_000, bao: options.bao, growth: 0 };
    if options.quick {
        scale = Scale { rounds: 2, round: Duration::from_millis(500), rows: 40_000, ..scale };
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let others = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("{cores} cores; load average before the start: {}", others.trim());
    println!("{} rounds of {:?} on each side, {} connections", scale.rounds, scale.round, load::CONNECTIONS);
    if let Some(growth) = options.growth {
        return growth::measure(&Scale { growth, ..scale });
    }
    let measures = [
        ("footprint", footprint::measure as Measure),
        ("service", service::measure),
        ("rekey-sqlite", rekey::measure),
        ("rekey-postgres", rekey_postgres::measure),
        ("foreground", foreground::measure),
        ("rekey-mariadb", rekey_mariadb::measure),
    ];
    for (name, measure) in measures {
        if name.contains(&options.only) {
            measure(&scale);
        }
    }
}
