//! The audit log as the daemon writes it: who did what, from where, and what became of it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use keymoot_types::audit::{Report, Verifier};
use serde_json::{Value as Json, json};

use crate::{
    harness::{AUDITOR, OPERATOR, SERVICE, World},
    oracle, unlocked,
};

pub fn file(world: &World) -> PathBuf {
    world.data_dir().join("audit.jsonl")
}

/// All files of a log, in their order.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut files: Vec<_> =
        all.filter(|path| name(path).starts_with("audit-") && name(path).ends_with(".jsonl")).collect();
    files.sort();
    files.extend([dir.join("audit.jsonl")].into_iter().filter(|path| path.exists()));
    files
}

/// The whole lines of these files, and what the verifier says of them.
pub fn read(files: &[PathBuf]) -> (Vec<Json>, Report) {
    let texts: Vec<_> = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let lines = texts.iter().flat_map(|text| text.split_inclusive('\n')).filter(|line| line.ends_with('\n'));
    let lines: Vec<Json> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut verifier = Verifier::starting_at(lines[0]["seq"].as_u64().unwrap());
    for (number, text) in texts.iter().enumerate() {
        if number > 0 {
            verifier.next_file();
        }
        verifier.feed(text.as_bytes(), &mut |_| Ok(()));
    }
    (lines, verifier.finish())
}

pub fn report(files: &[PathBuf]) -> Report {
    read(files).1
}

pub fn lines(files: &[PathBuf]) -> Vec<Json> {
    read(files).0
}

/// The lines of a log that is whole.
#[track_caller]
pub fn whole(world: &World) -> Vec<Json> {
    // A running daemon may be in the midst of its last line.
    let (lines, report) = world.until("the last line ends", || {
        Some(read(&files(&world.data_dir()))).filter(|(_, report)| report.torn_tail.is_none())
    });
    assert!(report.is_whole(), "{report:?}");
    assert_eq!(lines.len() as u64, report.lines);
    lines
}

/// The newest line of this event and phase.
#[track_caller]
pub fn last<'a>(lines: &'a [Json], event: &str, phase: &str) -> &'a Json {
    let found = lines.iter().rev().find(|line| line["event"] == event && line["phase"] == phase);
    found.unwrap_or_else(|| panic!("no {event} {phase} in {lines:#?}"))
}

/// Starts the daemon and waits for its log: a start goes on without one that takes long to open.
#[track_caller]
pub fn start(world: &mut World) {
    world.start();
    world.until("the log is open", || (!needs(world).contains("the audit log can't be written")).then_some(()));
}

pub fn needs(world: &World) -> String {
    world.get("/v1/status")["needs"].to_string()
}

pub fn metric(world: &World, name: &str) -> Option<f64> {
    let text = world.http().get(format!("{}/metrics", world.control_url())).send().unwrap().text().unwrap();
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(name))?.to_owned();
    line.split_whitespace().last()?.parse().ok()
}

pub fn store(world: &World) -> rusqlite::Connection {
    rusqlite::Connection::open(world.data_dir().join("meta.db")).unwrap()
}

/// The signed head as a start will find it. The daemon tells a new one before the store has it.
pub fn stored_head(world: &World) -> Json {
    let sql = "SELECT value FROM records WHERE key = 'audit/local'";
    let head = store(world).query_row(sql, (), |row| row.get::<_, Vec<u8>>(0)).unwrap_or_default();
    serde_json::from_slice(&head).unwrap_or_default()
}

#[test]
fn who_gave_which_part_and_from_where_stands_in_the_log_accepted_or_why_not() {
    let mut world = World::new("");
    world.start();
    world.init(5, 9);
    let init = |phase: &str| last(&whole(&world), "init", phase).clone();
    assert_eq!((&init("intent")["who"], &init("intent")["from"]), (&json!("ops"), &json!("127.0.0.1")));
    assert_eq!(init("intent")["facts"]["holders"][4]["name"], "h5");
    assert_eq!((&init("done")["facts"]["version"], &init("done")["facts"]["status"]), (&json!(9), &json!(201)));
    assert_eq!(init("done")["facts"]["intent"], init("intent")["seq"]);

    // Sealed, and it is written all the same.
    world.unlock(&[(9, 1)]).expect(200);
    let given = last(&whole(&world), "unlock-parts", "done").clone();
    assert_eq!(given["facts"]["accepted"], json!([{"version": 9, "holder": "h1"}]));
    assert_eq!((&given["from"], given.get("who")), (&json!("127.0.0.1"), None));
    let again = json!({"parts": {"prod-keyPart-v9": world.share(9, 1)}});
    world.control("POST", "/v1/unlock/parts", Some(OPERATOR), again).expect(422);
    let refused = last(&whole(&world), "unlock-parts", "refused").clone();
    assert_eq!(refused["facts"]["rejected"], json!([{"version": 9, "holder": "h1", "code": "duplicate_share"}]));
    assert_eq!(refused["who"], "ops");
    world.submit("/v1/unlock/parts", &[(9, 2)]).expect(200);
    let unlocked = last(&whole(&world), "unlocked", "note").clone();
    assert_eq!(unlocked["facts"]["versions"][0]["version"], 9);

    // A rotation, in the words of its ceremonies.
    world.rotate(9);
    let lines = whole(&world);
    // What was not on disk in time was not done, and asked again.
    let given_up = |intent: &Json| {
        lines.iter().any(|line| line["event"] == "not-done" && line["facts"]["intent"] == intent["seq"])
    };
    let intents: Vec<_> = lines
        .iter()
        .filter(|line| line["phase"] == "intent" && !given_up(line))
        .map(|line| line["event"].as_str().unwrap())
        .collect();
    assert_eq!(intents, ["init", "request", "consent", "consent", "packages", "activate"]);
    assert_eq!(last(&lines, "consent", "done")["facts"]["version"], 10);
    assert_eq!(last(&lines, "consent", "done")["facts"]["accepted"], json!([{"version": 9, "holder": "h2"}]));
    assert_eq!(last(&lines, "request", "done")["facts"]["digest"].as_str().unwrap().len(), 64);
    assert_eq!(last(&lines, "prove-parts", "done")["facts"]["accepted"], json!([{"version": 10, "holder": "h5"}]));
    let states: Vec<_> = lines
        .iter()
        .filter(|line| line["event"] == "version-state")
        .map(|line| (line["facts"]["version"].as_u64().unwrap(), line["facts"]["state"].as_str().unwrap()))
        .collect();
    assert_eq!(states, [(10, "staged"), (10, "activating"), (9, "decrypt-only"), (10, "primary")]);
    // What was refused says by which code.
    assert_eq!(world.post("/v1/versions/9/retire", json!({})).status, 409);
    let retire = last(&whole(&world), "retire", "refused").clone();
    assert_eq!(retire["facts"]["code"], "gate_refused");
    assert!(retire["facts"]["missing"][0]["code"].is_string(), "{retire}");
    world.post("/v1/seal", Json::Null);
    last(&whole(&world), "sealed", "note");
    world.stop();
    last(&whole(&world), "stopped", "note");
    start(&mut world);
    assert_eq!(last(&whole(&world), "boot", "note")["previous"].as_str().unwrap().len(), 64);
}

#[test]
fn the_log_is_read_in_pages_by_operators_and_auditors_while_sealed_too() {
    let mut world = World::new("[audit]\nmax_bytes = 65536\n");
    world.start();
    world.init(5, 9);
    // More than a page, over several files.
    while files(&world.data_dir()).len() < 9 {
        assert_eq!(world.post("/v1/versions/9/retire", json!({"dry_run": false})).status, 503);
    }
    let all = whole(&world);
    assert!(all.len() > 1200);
    for token in [OPERATOR, AUDITOR] {
        let (mut read, mut after) = (vec![], 0);
        loop {
            let page =
                world.control("GET", &format!("/v1/audit?after={after}"), Some(token), Json::Null).expect(200);
            read.extend(page["entries"].as_array().unwrap().clone());
            assert!(page["entries"].as_array().unwrap().len() <= 500);
            match page["next"].as_u64() {
                Some(next) => after = next,
                None => break,
            }
        }
        assert_eq!(read, all);
    }
    for after in [0, 1, 499, 500, 777, all.len() as u64 - 1] {
        let page = world.get(&format!("/v1/audit?after={after}"));
        assert_eq!(page["entries"][0]["seq"], after + 1);
    }
    let end = world.get(&format!("/v1/audit?after={}", all.len()));
    assert_eq!((&end["entries"], end.get("next")), (&json!([]), None));
    for (token, status) in [(None, 401), (Some(SERVICE), 403)] {
        assert_eq!(world.control("GET", "/v1/audit", token, Json::Null).status, status);
    }
    for bad in ["?after=x", "?after=-1", "?seq=1"] {
        assert_eq!(world.control("GET", &format!("/v1/audit{bad}"), Some(AUDITOR), Json::Null).status, 400);
    }
    // And the files are one chain for an implementation that is not ours.
    let paths = files(&world.data_dir());
    let answer = oracle::answer("audit", &json!({"files": paths}));
    assert_eq!(answer["lines"], all.len(), "{answer}");
}

#[test]
fn what_was_signed_is_in_the_log_and_in_the_store_and_stays_there_while_sealed() {
    let mut world = unlocked(5);
    world.rotate(9);
    let head = world.until("the newest line is signed", || {
        let lines = whole(&world);
        let head = stored_head(&world);
        let behind = lines.last()?["seq"].as_u64()?.checked_sub(head["head"]["seq"].as_u64()?)?;
        (behind == 1 && lines.last()?["event"] == "checkpoint").then_some(head)
    });
    assert_eq!(head["version"], 10);
    assert_eq!(world.get("/v1/audit")["head"], head);
    assert_eq!(last(&whole(&world), "checkpoint", "note")["facts"], head);
    world.kill();
    start(&mut world);
    assert_eq!(world.get("/v1/audit")["head"], head, "the sealed node has it from the store");
    assert!(needs(&world).find("audit").is_none(), "{}", needs(&world));
    assert_eq!(metric(&world, "keymoot_audit_ok"), Some(1.0));
    assert_eq!(metric(&world, "keymoot_audit_failures_total"), Some(0.0));
    assert!(metric(&world, "keymoot_audit_records_total").unwrap() >= 1.0);
    // Signed with a key that anybody can pin beforehand: the version's own.
    let answer = oracle::answer("audit", &json!({"files": files(&world.data_dir())}));
    assert!(answer["checkpoints"].as_u64().unwrap() > 3, "{answer}");
}

#[test]
fn a_file_that_was_moved_away_is_gone_on_from_in_a_new_one_after_a_reload() {
    let mut world = unlocked(5);
    for (moved, by_signal) in [("audit.1", false), ("audit.2", true)] {
        fs::rename(file(&world), world.path(moved)).unwrap();
        if by_signal {
            world.signal("-HUP");
        } else {
            world.post("/v1/reload", Json::Null).expect(200);
        }
        world.until("a new file was begun", || fs::metadata(file(&world)).ok().filter(|facts| facts.len() > 0));
        world.until("it works", || (metric(&world, "keymoot_audit_ok") == Some(1.0)).then_some(()));
        world.post("/v1/rekey", json!({"sources": []}));
    }
    world.stop();
    let all = [world.path("audit.1"), world.path("audit.2"), file(&world)];
    let report = report(&all);
    assert!(report.is_whole(), "{report:?}");
    assert_eq!(lines(&all).iter().filter(|line| line["event"] == "new-file").count(), 2);
    world.start();
    assert!(!needs(&world).contains("lost"), "{}", needs(&world));
}

#[test]
fn a_flood_of_refused_parts_becomes_a_few_lines() {
    let world = unlocked(5);
    let (before, began) = (whole(&world).len(), std::time::Instant::now());
    for _ in 0..200 {
        let body = json!({"parts": {"prod-keyPart-v9": "kmshare1nonsense"}});
        assert!([422, 429].contains(&world.control("POST", "/v1/unlock/parts", None, body).status));
    }
    let lines = whole(&world);
    let refused = lines[before..].iter().filter(|line| line["phase"] == "refused").count();
    // The room is given anew each minute, and a busy machine may need more than one.
    let rooms = usize::try_from(began.elapsed().as_secs() / 60 + 1).unwrap();
    assert!((20..=20 * rooms).contains(&refused), "{refused}, and the rest is counted");
    // Whoever is right is heard.
    world.submit("/v1/prove/parts", &[(9, 3)]).expect(200);
    assert_eq!(last(&whole(&world), "prove-parts", "done")["facts"]["accepted"][0]["holder"], "h3");
}
