//! Faults 24 and 25 of `docs/track-record.md`: a sync that fails once and then succeeds, a full disk, short writes and
//! interrupted ones, at every call of the workload.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use crate::{
    at_once,
    harness::World,
    story::Story,
    traced::{self, Of},
    whole_sweep,
};

/// What may be spoiled.
const CALLS: [&str; 5] = ["pwrite64", "write", "ftruncate", "fsync", "fdatasync"];

/// What one run with spoiled calls came to.
struct Run {
    /// Calls that were spoiled, each with its file.
    spoiled: Vec<String>,
    refused: BTreeMap<String, usize>,
    started: bool,
}

/// The whole story with these calls of some files spoiled; then it is killed, started again unharmed, and held to what it
/// acknowledged.
fn run(of: Of, inject: &str) -> Run {
    let mut story = Story::new();
    let calls: Vec<_> = inject.split(' ').map(|inject| inject.split(':').next().unwrap()).collect();
    let mut expressions = vec![format!("trace={}", calls.join(","))];
    expressions.extend(inject.split(' ').map(|inject| format!("inject={inject}")));
    let started = story.world.try_start_as(traced::daemon(&story.world, of, &expressions));
    if let Err(status) = started {
        // It could not make its first files, and said so.
        let log = story.world.log();
        assert!(status.code().is_some() && log.contains("os error"), "{inject}: {status}\n{log}");
    } else {
        story.go_on(1).unwrap_or_else(|_| panic!("{inject}: the daemon died\n{}", story.world.log()));
    }
    let spoiled = traced::injected(&story.world);
    // What was interrupted is done again, and nobody needs to know. Nor of a checkpoint that failed: what it was to write
    // into the database itself still stands in its log, and SQLite tells nobody (`sqlite3WalDefaultHook`).
    let matters = |line: &String| !line.contains("meta.db>") && !line.contains("app.db>");
    if spoiled.iter().any(matters) && !inject.contains("EINTR") && started.is_ok() && story.refused.is_empty() {
        let told = |line: &str| line.contains("\"WARN\"") || line.contains("\"ERROR\"");
        // It may have been spoiled only just now.
        let what = format!("somebody is told of {spoiled:?} ({inject})");
        story.world.until(&what, || story.world.log().lines().any(told).then_some(()));
    }
    if started.is_ok() {
        traced::kill(&mut story.world);
    }
    story.world.start();
    story.check();
    story.go_on(story.acked.rotations + 1).unwrap();
    story.check();
    Run { spoiled, refused: story.refused, started: started.is_ok() }
}

fn sweep(injections: Vec<(Of, String)>) -> (usize, BTreeMap<String, usize>, BTreeSet<String>) {
    let (mut spoiled, mut refused, mut names) = (0, BTreeMap::new(), BTreeSet::new());
    let mut unstarted = 0;
    for run in at_once(injections, |(of, inject)| run(of, &inject)) {
        spoiled += run.spoiled.len();
        unstarted += usize::from(!run.started);
        for (code, times) in run.refused {
            *refused.entry(code).or_insert(0) += times;
        }
        let name = |line: &String| CALLS.into_iter().find(|call| line.contains(call)).unwrap().to_owned();
        names.extend(run.spoiled.iter().map(name));
    }
    println!("{spoiled} calls were spoiled, of {names:?}; refused {refused:?}; {unstarted} daemons did not start");
    (spoiled, refused, names)
}

#[test]
fn fault_24_a_sync_that_fails_once_at_any_call_loses_nothing_that_was_acknowledged() {
    let mut injections: Vec<(Of, String)> = Vec::new();
    if whole_sweep() {
        let each = (1..=150).flat_map(|n| ["fsync", "fdatasync"].map(|call| format!("{call}:error=EIO:when={n}")));
        injections.extend(each.map(|inject| (Of::All, inject)));
    } else {
        // Several calls of a thread in one run, and so far from each other that between them a step succeeds.
        let each = (1..=19).step_by(3);
        let each = each.flat_map(|n| ["fsync", "fdatasync"].map(|call| format!("{call}:error=EIO:when={n}+19")));
        injections.extend(each.map(|inject| (Of::All, inject)));
        // Calls are counted for each thread: among all files' those of the metadata store might not be met. SQLite is
        // built without `fdatasync`.
        injections.extend((3..=6).map(|n| (Of::Metadata, format!("fsync:error=EIO:when={n}+5"))));
    }
    let (spoiled, refused, _) = sweep(injections);
    assert!(spoiled >= 40, "{spoiled}");
    assert!(refused.contains_key("store_unavailable") && refused.contains_key("audit_unavailable"), "{refused:?}");
}

#[test]
fn fault_25_a_full_disk_or_an_interruption_at_any_write_is_refused_clearly_and_loses_nothing() {
    let points: Vec<String> = if whole_sweep() {
        (1..=200).map(|n| n.to_string()).collect()
    } else {
        (1..=19).step_by(6).map(|n: usize| format!("{n}+19")).collect()
    };
    let each = |error: &'static str| {
        points
            .iter()
            .flat_map(move |point| CALLS[..3].iter().map(move |call| format!("{call}:error={error}:when={point}")))
    };
    // What was half written is cut off, and that fails too.
    let cut = (2..12).step_by(3).map(|n| format!("fdatasync:error=EIO:when={n}+19 ftruncate:error=ENOSPC:when=1"));
    let all = each("ENOSPC").chain(each("EINTR")).chain(cut).map(|inject| (Of::All, inject));
    let metadata = (3..=15).step_by(4).map(|n| (Of::Metadata, format!("pwrite64:error=ENOSPC:when={n}+19")));
    let (spoiled, refused, names) = sweep(all.chain(metadata).collect());
    assert!(spoiled >= 20 && CALLS[..3].iter().all(|call| names.contains(*call)), "{spoiled} {names:?}");
    assert!(refused.contains_key("store_unavailable") && refused.contains_key("audit_unavailable"), "{refused:?}");
}

/// No file of the daemon grows beyond this: the write that reaches it is short, and the next one fails.
fn limit(world: &World, bytes: &str) {
    let limit = format!("--fsize={bytes}:unlimited");
    assert!(Command::new("prlimit").args(["--pid", &world.pid().to_string(), &limit]).status().unwrap().success());
}

#[test]
fn fault_25_a_write_cut_short_at_any_byte_is_taken_back_and_the_service_resumes_with_the_space() {
    let mut cuts = Vec::new();
    for file in ["data/audit.jsonl", "data/meta.db-wal"] {
        let more: &[u64] =
            if whole_sweep() { &[0, 1, 24, 100, 511, 512, 700, 4096, 4120, 9000] } else { &[1, 100, 4120] };
        cuts.extend(more.iter().map(|more| (file, *more)));
    }
    let all = cuts.len();
    let short = at_once(cuts, |(file, more)| {
        let mut story = Story::new();
        let mut command = Command::new("sh");
        // Ignored, so that what is too long fails instead of ending the process.
        command.args([
            "-c",
            "trap '' XFSZ; exec \"$@\"",
            "sh",
            env!("CARGO_BIN_EXE_keymoot"),
            "server",
            "--config",
        ]);
        command.arg(story.world.config_file());
        story.world.start_as(command);
        story.go_on(0).unwrap();
        let length = fs::metadata(story.world.path(file)).unwrap().len();
        limit(&story.world, &(length + more).to_string());
        let short = story.until_refused();
        limit(&story.world, "unlimited");
        story.go_on(1).unwrap();
        story.check();
        story.world.kill();
        story.world.start();
        story.check();
        short
    });
    let short = short.into_iter().filter(|short| *short).count();
    println!("{short} of {all} rotations met a short write");
    assert!(short >= all / 2, "{short} of {all}");
}
