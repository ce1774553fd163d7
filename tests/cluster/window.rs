//! Maintenance windows: who gets no keys.

use std::{fs, thread, time::Duration};

use serde_json::{Value as Json, json};

use crate::{cluster::Cluster, harness::World};

/// Some rounds of asking.
const A_WHILE: Duration = Duration::from_secs(5);

fn restart(node: &mut World) {
    node.stop();
    node.start();
}

#[track_caller]
fn gets_its_keys(node: &World) {
    node.until("it has its keys again", || (node.state() == "unlocked").then_some(()));
}

#[track_caller]
fn stays_sealed(node: &World) {
    thread::sleep(A_WHILE);
    assert_eq!(node.state(), "sealed");
}

fn unlock_again(cluster: &Cluster, at: usize) {
    cluster.nodes[at].unlock_by(9, &[1, 2]);
    cluster.until_all_present();
}

fn has_no_window(node: &World) {
    node.until("no window is shown", || node.get("/v1/status")["window"].is_null().then_some(()));
}

#[test]
fn without_the_holders_consent_or_a_name_in_it_or_its_own_certificate_a_member_gets_no_keys() {
    let mut cluster = Cluster::new("");
    cluster.keep_addresses();
    let asked = json!({"operation": "window", "members": ["db2"], "for": "1h"});
    for (members, granted_for) in [(json!(["db9"]), "1h"), (json!([]), "1h"), (json!(["db2"]), "13h")] {
        let body = json!({"operation": "window", "members": members, "for": granted_for});
        cluster.nodes[0].post("/v1/requests", body).expect(400);
    }
    // An operator asked, and one holder is not enough.
    let request = cluster.nodes[0].ask(asked);
    cluster.nodes[0].consent(&request, &[(9, 1)]).expect(200);
    restart(&mut cluster.nodes[1]);
    stays_sealed(&cluster.nodes[1]);
    unlock_again(&cluster, 1);
    cluster.nodes[0].consent(&request, &[(9, 2)]).expect(200);
    let open = || cluster.nodes[1].get("/v1/status")["window"]["left_seconds"].as_u64().map(drop);
    cluster.nodes[1].until("the window is known", open);

    restart(&mut cluster.nodes[1]);
    gets_its_keys(&cluster.nodes[1]);
    // Not named.
    restart(&mut cluster.nodes[2]);
    stays_sealed(&cluster.nodes[2]);
    unlock_again(&cluster, 2);
    // Sealed by somebody, and not restarted.
    cluster.nodes[1].post("/v1/seal", Json::Null);
    stays_sealed(&cluster.nodes[1]);
    // Another machine under the same name: it has the manifest, and not the key that the certificate was made with.
    cluster.nodes[1].stop();
    for file in ["peer-cert.pem", "peer-key.pem"] {
        fs::remove_file(cluster.nodes[1].data_dir().join(file)).unwrap();
    }
    cluster.nodes[1].start();
    cluster.nodes[1].until("it was refused", || {
        cluster.nodes[1].log().contains("is not for who shows this certificate").then_some(())
    });
    assert_eq!(cluster.nodes[1].state(), "sealed");
    let refused = cluster.nodes[0].until("the refusal is recorded", || {
        let lines = cluster.nodes[0].get("/v1/audit")["entries"].as_array().unwrap().clone();
        lines.into_iter().find(|line| line["event"] == "window-keys-given" && line["phase"] == "refused")
    });
    assert!(refused["facts"]["versions"].is_null(), "{refused}");
}

#[test]
fn a_window_ends_by_itself_and_by_an_operator_on_any_node() {
    let mut cluster = Cluster::new("");
    cluster.keep_addresses();
    let id = cluster.window(9, &["db1", "db2", "db3"], "1h");
    let without_token = cluster.nodes[1].control("GET", "/v1/status", None, Json::Null).expect(200);
    assert!(without_token["window"]["members"].is_null() && !without_token["window"]["for"].is_null());
    // Not on the node that was asked for it.
    let path = format!("/v1/requests/{id}");
    cluster.nodes[1].control("DELETE", &path, None, Json::Null).expect(401);
    let ended = cluster.nodes[1].control("DELETE", &path, Some(crate::harness::OPERATOR), Json::Null);
    assert_eq!(ended.status, 204, "{}", ended.json);
    cluster.nodes.iter().for_each(has_no_window);
    restart(&mut cluster.nodes[2]);
    stays_sealed(&cluster.nodes[2]);
    unlock_again(&cluster, 2);

    // By itself, also while the member that it is for is away.
    // Every node has to see it open, on a busy machine too.
    cluster.window(9, &["db3"], "30s");
    cluster.nodes[2].stop();
    cluster.nodes[..2].iter().for_each(has_no_window);
    cluster.nodes[2].start();
    let refused = || cluster.nodes[2].log().contains("no maintenance window is open").then_some(());
    cluster.nodes[2].until("it is refused", refused);
    assert_eq!(cluster.nodes[2].state(), "sealed");
    for node in &cluster.nodes[..2] {
        assert_eq!(node.state(), "unlocked");
    }
}
