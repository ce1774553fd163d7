//! Fault 55 of `docs/track-record.md`, by whoever can write to the metadata store or to the log's files: a signed head
//! that is made up does no harm, and a log whose beginning is missing is told of.

use std::fs;

use keymoot_types::{
    Digest,
    audit::{Chain, Entry, Phase, Tip},
};
use serde_json::{Value as Json, json};

use crate::{
    audit::{file, files, last, lines, metric, needs, store, stored_head, whole},
    harness::World,
    unlock, unlocked,
};

fn put_head(world: &World, head: &str) {
    let sql = "UPDATE records SET value = ?1 WHERE key = 'audit/local'";
    assert_eq!(store(world).execute(sql, [head.as_bytes()]).unwrap(), 1);
}

/// The newest signed head, once it is in the store and the log's last line is its checkpoint.
fn newest(world: &World) -> Json {
    world.post("/v1/reload", Json::Null).expect(200);
    world.until("the end is signed", || {
        let head = stored_head(world);
        let end = whole(world).last()?.clone();
        (end["event"] == "checkpoint" && end["facts"] == head).then_some(head)
    })
}

#[test]
fn fault_55_a_head_that_somebody_put_into_the_store_is_a_warning_and_never_a_loss() {
    let mut world = unlocked(5);
    let genuine = newest(&world);
    let made_up = |seq: u64, version: u32| {
        let mut head = genuine.clone();
        head["head"]["seq"] = json!(seq);
        head["version"] = json!(version);
        head.to_string()
    };
    let heads = [
        made_up(1_000_000, 9),
        made_up(1 << 50, 9),
        made_up(1 << 50, 77),
        made_up(1 << 53, 77),
        made_up(u64::MAX, 77),
        "{}".to_owned(),
    ];
    let is_no_loss = |world: &World| {
        let needs = needs(world);
        assert!(needs.contains("did not sign") && !needs.contains("were lost or altered"), "{needs}");
        assert_eq!(metric(world, "keymoot_audit_ok"), Some(1.0));
        assert!(lines(&files(&world.data_dir())).iter().all(|line| line["event"] != "log-lost"));
    };
    // Under a running daemon: what it signed takes its place, and what is guarded is let through all the while.
    for head in &heads {
        put_head(&world, head);
        let put: Json = serde_json::from_str(head).unwrap();
        world.until("it is replaced", || (stored_head(&world) != put).then_some(()));
        is_no_loss(&world);
        assert_eq!(world.post("/v1/versions/77/abort", json!({})).status, 404);
    }
    let told = whole(&world).iter().filter(|line| line["event"] == "head-distrusted").count();
    assert_eq!(told, 1, "however often it is done");
    // Under a stopped one, sealed and unlocked again.
    for head in &heads {
        newest(&world);
        world.kill();
        put_head(&world, head);
        crate::audit::start(&mut world);
        is_no_loss(&world);
        assert_eq!(world.get("/v1/audit").get("head"), None, "it is not shown as ours");
        unlock(&world, &[9]);
        assert_eq!(world.post("/v1/versions/77/abort", json!({})).status, 404);
        is_no_loss(&world);
    }
    let seq = newest(&world)["head"]["seq"].as_u64().unwrap();
    assert_eq!(whole(&world).len() as u64, seq + 1, "no number was skipped");
    world.kill();
    crate::audit::start(&mut world);
    assert!(!needs(&world).contains("audit"), "{}", needs(&world));
}

#[test]
fn fault_55_a_log_that_begins_behind_what_was_signed_is_told_of_until_the_next_start() {
    let mut world = unlocked(5);
    let head = newest(&world);
    world.kill();
    // As good a chain as any, but that nobody knows what was before it.
    let seq = head["head"]["seq"].as_u64().unwrap();
    let before = Tip { seq, hash: Digest::new([1; 32]), digest: Digest::new([2; 32]) };
    let mut chain = Chain::new("local".parse().unwrap(), "boot", before);
    let mut text = Vec::new();
    for _ in 0..3 {
        let made = chain.next("2026-11-21T07:00:00Z".parse().unwrap(), &Entry::new("seal", Phase::Done)).unwrap();
        chain.advance(&made);
        text.extend_from_slice(&made.bytes);
    }
    fs::write(file(&world), text).unwrap();
    crate::audit::start(&mut world);
    let is_told = |world: &World| {
        assert!(needs(world).contains("could not be compared with its signed head"), "{}", needs(world));
        let lines = lines(&files(&world.data_dir()));
        assert_eq!(last(&lines, "head-not-found", "note")["facts"]["remembered"], head, "the evidence is kept");
        assert_eq!(lines.iter().filter(|line| line["event"] == "head-not-found").count(), 1);
    };
    is_told(&world);
    // A new head takes the old one's place in the store, and still it is said.
    unlock(&world, &[9]);
    assert_ne!(newest(&world), head);
    is_told(&world);
    world.kill();
    crate::audit::start(&mut world);
    assert!(!needs(&world).contains("audit"), "{}", needs(&world));
}
