//! Two nodes are asked at once, or one while another waits: nothing that was done by the faster one is undone.

use std::{
    sync::Barrier,
    thread::{self, ScopedJoinHandle},
};

use serde_json::{Value as Json, json};

use crate::{
    cluster::{Cluster, missing},
    harness::{Answer, World},
};

/// What a dry run says is missing, each as (code, who).
fn lacks(node: &World, path: &str) -> Vec<(String, String)> {
    let said = node.post(path, json!({"dry_run": true})).expect(200);
    if said["missing"].is_array() { missing(&said) } else { vec![] }
}

/// Asked for a moment earlier than it is meant, an activation is refused for what is still to be heard.
fn until_nothing_lacks(node: &World, path: &str) {
    node.until("nothing is missing", || lacks(node, path).is_empty().then_some(()));
}

/// v10 is staged, proved and loaded everywhere.
fn ready() -> Cluster {
    let mut cluster = Cluster::new("");
    let v10 = cluster.staged(9);
    cluster.unlock_all(v10);
    for node in &cluster.nodes {
        until_nothing_lacks(node, "/v1/versions/10/activate");
    }
    cluster
}

/// All of these nodes are asked for the same at the same time.
fn at_once(nodes: &[World], path: &str) -> Vec<Answer> {
    let barrier = Barrier::new(nodes.len());
    thread::scope(|scope| {
        let ask = |node| {
            barrier.wait();
            World::post(node, path, json!({}))
        };
        let asked: Vec<_> = nodes.iter().map(|node| scope.spawn(move || ask(node))).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    })
}

/// An activation that waits for db3, which stands still.
fn waiting_for_db3<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    cluster: &'scope Cluster,
) -> ScopedJoinHandle<'scope, Answer> {
    loop {
        until_nothing_lacks(&cluster.nodes[0], "/v1/versions/10/activate");
        // Nobody misses it yet.
        cluster.pause(2);
        let asked = scope.spawn(|| cluster.activate(10, json!({})));
        let waits = cluster.nodes[1].until("it waits, or was refused", || {
            let begun = cluster.nodes[1].state_of(10) == "activating";
            (begun || asked.is_finished()).then_some(begun)
        });
        if waits {
            return asked;
        }
        cluster.nodes[2].signal("-CONT");
    }
}

#[test]
fn an_activation_that_waits_does_not_undo_what_was_rolled_back_meanwhile() {
    let cluster = ready();
    let [db1, db2, db3] = &cluster.nodes[..] else { unreachable!() };
    thread::scope(|scope| {
        let waits = waiting_for_db3(scope, &cluster);
        cluster.pause(0);
        let others = json!([{"node": "db1", "for": "1h"}, {"node": "db3", "for": "1h"}]);
        let activate = |version: u32, body: Json| db2.post(&format!("/v1/versions/{version}/activate"), body);
        db2.until("it is activated without them", || {
            (activate(10, json!({"exclude": others})).status == 200).then_some(())
        });
        db2.until("it is rolled back", || (activate(9, json!({})).status == 200).then_some(()));
        db1.signal("-CONT");
        let answer = waits.join().unwrap();
        assert_eq!(answer.status, 409, "{}", answer.json);
        // On a machine where all that took half a minute the wait was over.
        let detail = answer.json["detail"].as_str().unwrap();
        assert!(detail.contains("decrypt-only") || answer.code() == "gate_refused", "{detail}");
    });
    db3.signal("-CONT");
    for node in &cluster.nodes {
        node.until("it was not undone", || (node.state_of(10) == "decrypt-only").then_some(()));
        assert_eq!(node.state_of(9), "primary");
    }
}

#[test]
fn of_activations_that_are_asked_for_at_once_none_is_refused() {
    let cluster = ready();
    for answer in at_once(&cluster.nodes, "/v1/versions/10/activate") {
        assert_eq!(answer.expect(200)["state"], "primary");
    }
}

#[test]
fn of_retirements_that_are_asked_for_at_once_the_one_that_counts_keeps_its_certificate() {
    let cluster = ready();
    let db1 = &cluster.nodes[0];
    db1.until("activated", || (cluster.activate(10, json!({})).status == 200).then_some(()));
    for node in &cluster.nodes {
        node.until("v9 could be retired by its censuses", || {
            let lacks = lacks(node, "/v1/versions/9/retire");
            if lacks.iter().any(|(code, _)| code == "census_stale") {
                node.post("/v1/census", json!({})).expect(202);
            }
            lacks.is_empty().then_some(())
        });
    }
    let answers = at_once(&cluster.nodes, "/v1/versions/9/retire");
    let done = answers.iter().filter(|answer| answer.status == 200 && answer.json["certificate"].is_object());
    let certificates: Vec<_> = done.map(|done| done.json["certificate"].clone()).collect();
    assert_eq!(certificates.len(), 1, "{:?}", answers.iter().map(|answer| &answer.json).collect::<Vec<_>>());
    for node in &cluster.nodes {
        node.until("it has followed", || (node.state_of(9) == "retired").then_some(()));
        assert_eq!(node.get("/v1/certificates")["certificates"], json!(certificates));
    }
}
