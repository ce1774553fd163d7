//! What is done on one node is known on all: proofs, shares in force, who encrypts.

use serde_json::{Value as Json, json};

use crate::cluster::Cluster;

#[test]
fn proofs_that_were_given_to_different_nodes_count_together() {
    let mut cluster = Cluster::new("");
    let holders: Json = (1..=3).map(|n| json!({"name": format!("h{n}")})).collect();
    let request = cluster.nodes[0].ask(json!({"operation": "reshare", "version": 9, "holders": holders}));
    cluster.nodes[0].consent(&request, &[(9, 1)]).expect(200);
    cluster.nodes[0].consent(&request, &[(9, 2)]).expect(200);
    let old = cluster.nodes[0].take_packages(9);
    let new = cluster.nodes[0].shares.clone();
    for (at, node) in cluster.nodes.iter_mut().enumerate() {
        node.shares.clone_from(&new);
        node.until("the new shares are known here", || {
            (node.submit("/v1/prove/parts", &[(9, at + 1)]).status == 200).then_some(())
        });
    }
    for node in &cluster.nodes {
        let body = json!({"parts": {"prod-keyPart-v9": old[3].2}});
        node.until("the old shares are refused here", || {
            let answer = node.control("POST", "/v1/prove/parts", None, body.clone());
            (answer.json["rejected"][0]["code"] == "share_replaced").then_some(())
        });
        // A node follows the store each second, and reads what others proved at every fifth look.
        node.until("all proofs are known here", || {
            let proofs = node.get("/v1/status")["last_proofs"].clone();
            proofs.as_array().unwrap().iter().all(|proof| !proof["proved_at"].is_null()).then_some(())
        });
    }
}

#[test]
fn a_node_that_learns_of_an_activation_by_the_way_encrypts_with_the_new_version_at_once() {
    let mut cluster = Cluster::new("");
    let v10 = cluster.staged(9);
    cluster.unlock_all(v10);
    cluster.nodes[0].until("activated", || (cluster.activate(v10, json!({})).status == 200).then_some(()));
    // Whatever made db2 look at the store, it serves by what it found there.
    let path = format!("/v1/versions/{v10}/activate");
    cluster.nodes[1].post(&path, json!({"dry_run": true})).expect(200);
    assert_eq!(cluster.nodes[1].state_of(10), "primary");
    assert!(cluster.nodes[1].encrypt(b"x").starts_with("km:v10:"));
}

#[test]
fn no_node_writes_a_manifest_that_its_own_keys_do_not_vouch_for() {
    let mut cluster = Cluster::new("");
    let v10 = cluster.staged(9);
    for node in &cluster.nodes[1..] {
        node.unlock_by(v10, &[1, 2]);
    }
    // db1 lacks v10 and is asked to leave itself out; or is sealed and asked to roll back.
    let db1 = &cluster.nodes[0];
    let without_itself = json!({"exclude": [{"node": "db1", "for": "1h"}]});
    assert_eq!(cluster.activate(v10, without_itself.clone()).status, 400);
    let revision = db1.get("/v1/status")["revision"].clone();
    db1.post("/v1/seal", Json::Null);
    for version in [9, v10] {
        let refused = db1.post(&format!("/v1/versions/{version}/activate"), json!({}));
        assert_eq!((refused.status, refused.code()), (503, "sealed"), "{}", refused.json);
    }
    assert_eq!(cluster.nodes[1].get("/v1/status")["revision"], revision);
    db1.unlock_by(9, &[1, 2]);

    // Sealed while it waits for a member that is stopped: others go on with what it began.
    db1.unlock_by(v10, &[1, 2]);
    cluster.until_all_present();
    cluster.pause(2);
    std::thread::scope(|scope| {
        let activation = scope.spawn(|| cluster.activate(v10, json!({})));
        db1.until("v10 is activating, or refused for want of db3", || {
            (activation.is_finished() || db1.state_of(10) == "activating").then_some(())
        });
        db1.post("/v1/seal", Json::Null);
        let answer = activation.join().unwrap();
        assert!([409, 503].contains(&answer.status), "{}", answer.json);
    });
    cluster.nodes[2].signal("-CONT");
    for version in [9, v10] {
        db1.unlock_by(version, &[1, 2]);
    }
    assert_eq!(db1.state(), "unlocked");
    cluster.nodes[1].until("another node goes on with it", || {
        let answer = cluster.nodes[1].post(&format!("/v1/versions/{v10}/activate"), json!({}));
        (answer.status == 200).then_some(())
    });
    for node in &cluster.nodes {
        node.until("v10 encrypts here", || node.encrypt(b"x").starts_with("km:v10:").then_some(()));
    }
}

#[test]
fn a_member_is_destroyed_only_when_it_is_silent_and_then_no_gate_waits_for_it() {
    let mut cluster = Cluster::new("");
    let destroyed = json!({"destroyed": "db3"});
    assert_eq!(cluster.nodes[0].post("/v1/members", destroyed.clone()).code(), "conflict", "it is there");
    assert_eq!(cluster.nodes[0].post("/v1/members", json!({"destroyed": "db1"})).status, 400);
    cluster.pause(2);
    let left = cluster.nodes[0].until("db3 is silent", || {
        let answer = cluster.nodes[0].post("/v1/members", destroyed.clone());
        (answer.status == 200).then_some(answer.json)
    });
    assert_eq!(left["members"], json!(["db1", "db2"]));
    // It lives after all: nobody waits for it, so nothing new comes from it.
    cluster.nodes[2].signal("-CONT");
    let db3 = &cluster.nodes[2];
    db3.until("db3 has followed", || {
        let refused = db3.data("encrypt", json!({"plaintext": "eA=="}));
        (refused.status == 503).then_some(())
    });
    assert_eq!(
        cluster.nodes[0].post("/v1/members", json!({"add": "db3"})).expect(200)["members"],
        json!(["db1", "db2", "db3"])
    );
    db3.until("db3 is a member again", || {
        (db3.data("encrypt", json!({"plaintext": "eA=="})).status == 200).then_some(())
    });
    drop(cluster.nodes.remove(0));
    assert_eq!(cluster.nodes[0].control("POST", "/v1/members", None, destroyed).status, 401);
}
