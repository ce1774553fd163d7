//! Nodes whose store goes silent in the midst of a statement, and what is answered meanwhile.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::Value as Json;

use crate::{
    cluster::Cluster,
    harness::{
        OPERATOR, World,
        proxy::{Proxy, Rule},
        servers::Postgres,
    },
};

/// Shorter than the store's adapter waits for a statement (12 s), and longer than any answer needs that does not wait
/// for it, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(9);

/// Every piece is held back for so long, so that nearly always a statement is under way.
const SLOW: Duration = Duration::from_millis(150);

fn in_time<T>(what: &str, ask: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let answer = ask();
    let took = began.elapsed();
    assert!(took < PATIENCE, "{what} took {took:?} with a silent store");
    answer
}

fn until_manifest_is(node: &World, origin: &str) {
    node.until("the manifest's place", || (node.get("/v1/status")["manifest"] == origin).then_some(()));
}

#[test]
fn a_store_that_goes_silent_in_mid_statement_holds_up_no_share_no_status_no_seal_and_no_value() {
    let store = Postgres::start();
    let links: Vec<_> = (0..3).map(|_| Proxy::new(store.address())).collect();
    let urls: Vec<_> = links.iter().map(|link| store.url_at(link.address())).collect();
    let cluster = Cluster::at([&urls[0], &urls[1], &urls[2]], "");
    let value = cluster.nodes[0].encrypt(b"hello");
    for round in 1..=3 {
        let set_all = |rule: Rule| links.iter().for_each(|link| link.set(rule.clone()));
        set_all(Rule::Delay(SLOW));
        thread::sleep(Duration::from_millis(1500));
        set_all(Rule::BlackHole);
        thread::scope(|scope| {
            for node in &cluster.nodes {
                let value = &value;
                scope.spawn(move || {
                    in_time("status", || node.get("/v1/status"));
                    let ready = in_time("readyz", || node.control("GET", "/readyz", None, Json::Null));
                    assert_eq!(ready.status, 200, "{}", ready.json);
                    in_time("seal", || node.control("POST", "/v1/seal", Some(OPERATOR), Json::Null));
                    assert_eq!(in_time("status", || node.state()), "sealed");
                    for holder in [1, 2] {
                        in_time("a share", || node.unlock(&[(9, holder)]).expect(200));
                    }
                    assert_eq!(in_time("status", || node.state()), "unlocked", "in round {round}");
                    assert_eq!(in_time("decrypt", || node.open(value)), b"hello");
                });
            }
        });
        for node in &cluster.nodes {
            until_manifest_is(node, "last-good");
        }
        set_all(Rule::Pass);
        for node in &cluster.nodes {
            until_manifest_is(node, "store");
        }
    }
    cluster.until_all_present();
}

#[test]
fn fault_31_an_activation_whose_commit_was_answered_into_the_void_is_done_once_or_not_at_all() {
    let store = Postgres::start();
    let links: Vec<_> = (0..3).map(|_| Proxy::new(store.address())).collect();
    let urls: Vec<_> = links.iter().map(|link| store.url_at(link.address())).collect();
    let mut cluster = Cluster::at([&urls[0], &urls[1], &urls[2]], "");
    let value = cluster.nodes[0].encrypt(b"hello");
    let v10 = cluster.staged(9);
    cluster.unlock_all(v10);
    cluster.nodes[0].until("every member tells of v10", || {
        let asked = cluster.activate(v10, serde_json::json!({"dry_run": true})).expect(200);
        asked["missing"].as_array().is_none_or(Vec::is_empty).then_some(())
    });
    let revision = |node: &World| node.get("/v1/status")["revision"].as_u64().unwrap();
    let before = revision(&cluster.nodes[0]);
    // Heartbeats, both swaps and what is sealed anew behind them: whatever is written loses its answers for a while.
    links[0].set(Rule::LoseAnswerTo(b"COMMIT".to_vec(), 12));
    let answer = cluster.activate(v10, serde_json::json!({}));
    let state = cluster.nodes[0].state_of(v10);
    match answer.status {
        200 => assert_eq!(state, "primary", "it was reported as done"),
        // What was not found out is said to be open.
        503 if state == "primary" => assert!(answer.json["detail"].as_str().unwrap().contains("look at `status`")),
        409 | 503 => assert_ne!(state, "primary", "it was reported as not done: {}", answer.json),
        status => panic!("{status} {}", answer.json),
    }
    // Where the audit log's disk kept the call from being made it is a heartbeat's answer.
    cluster.nodes[0].until("an answer is lost", || (links[0].lost() > 0).then_some(()));
    links[0].set(Rule::Pass);
    cluster.nodes[0].until("repeated until it is done", || {
        (cluster.activate(v10, serde_json::json!({})).status == 200).then_some(())
    });
    let after = revision(&cluster.nodes[0]);
    // Activating and primary, and what an attempt took back; never the same step twice at once.
    assert!((before + 2..=before + 8).contains(&after), "from revision {before} to {after}");
    for node in &cluster.nodes {
        node.until("the node follows", || {
            (revision(node) >= after && node.state_of(v10) == "primary").then_some(())
        });
        assert_eq!(node.open(&value), b"hello");
    }
}

#[test]
fn fault_34_a_metadata_store_from_before_the_rotation_is_noticed_by_every_node_and_nothing_is_destroyed() {
    let store = Postgres::start();
    let url = store.url();
    let more = "[retire]\nquiet = \"1s\"\nmax_write_delay = \"1s\"\nhold = \"2s\"\n";
    let mut cluster = Cluster::at([&url, &url, &url], more);
    let old = cluster.nodes[0].encrypt(b"of v9");
    store.sql("CREATE TABLE backup AS SELECT * FROM keymoot_records");
    let v10 = cluster.staged(9);
    cluster.unlock_all(v10);
    cluster.nodes[0]
        .until("activated", || (cluster.activate(v10, serde_json::json!({})).status == 200).then_some(()));
    for node in &cluster.nodes {
        node.until("the node follows", || (node.state_of(v10) == "primary").then_some(()));
    }
    let new = cluster.nodes[0].encrypt(b"of v10");
    store.sql("BEGIN; DELETE FROM keymoot_records; INSERT INTO keymoot_records SELECT * FROM backup; COMMIT");
    for node in &cluster.nodes {
        node.until("the step back is noticed", || {
            let needs = node.get("/v1/status")["needs"].to_string();
            needs.contains("went back to revision").then_some(())
        });
        // Nothing moves a key or throws one away until an operator has settled it.
        for path in ["/v1/versions/9/retire", "/v1/versions/9/activate"] {
            let refused = node.post(path, serde_json::json!({}));
            assert!([409, 503].contains(&refused.status), "{path}: {}", refused.json);
        }
        assert_eq!((node.open(&old), node.open(&new)), (b"of v9".to_vec(), b"of v10".to_vec()));
    }
    // One node's past is published above all that was seen, and an operator vouches for it to the others.
    let newest = cluster.nodes[0].post("/v1/manifest/republish", Json::Null).expect(200);
    for node in &cluster.nodes[1..] {
        node.post("/v1/manifest/confirm", newest.clone()).expect(200);
    }
    for node in &cluster.nodes {
        node.until("every node follows again", || {
            let status = node.get("/v1/status");
            (status["manifest"] == "store" && !status["needs"].to_string().contains("went back")).then_some(())
        });
        assert_eq!((node.state_of(9), node.state_of(v10)), ("decrypt-only".into(), "primary".into()));
    }
}
