//! The activation gate: no member is left behind.

use serde_json::{Value as Json, json};

use crate::{
    cluster::{Cluster, missing},
    harness::World,
};

fn both(who: &[(&str, &str)]) -> Vec<(String, String)> {
    who.iter().map(|(code, who)| ((*code).to_owned(), (*who).to_owned())).collect()
}

fn opens(node: &World, value: &str, text: &[u8]) {
    assert_eq!(node.open(value), text);
}

#[test]
fn fault_48_the_gate_stays_shut_until_every_member_holds_the_version_and_names_those_that_do_not() {
    let mut cluster = Cluster::new("");
    let old = cluster.nodes[2].encrypt(b"of v9");
    let v10 = cluster.staged(9);
    cluster.nodes[0].unlock_by(v10, &[1, 2]);
    // A member that was not heard for a moment is missed before it is asked what it holds.
    cluster.nodes[0].until("both are said to lack it", || {
        let refused = cluster.activate(v10, json!({})).expect(409);
        assert_eq!(refused["code"], "gate_refused");
        (missing(&refused) == both(&[("not_loaded", "db2"), ("not_loaded", "db3")])).then_some(())
    });
    cluster.nodes[1].unlock_by(v10, &[1, 2]);
    cluster.nodes[0].until("db2's heartbeat tells of v10", || {
        let refused = cluster.activate(v10, json!({"dry_run": true})).expect(200);
        (missing(&refused) == both(&[("not_loaded", "db3")])).then_some(())
    });

    // The third is stopped: not refused for what it lacks, but for not being heard of.
    cluster.pause(2);
    cluster.nodes[0].until("db3 is missed", || {
        let refused = cluster.activate(v10, json!({})).expect(409);
        assert_eq!(cluster.nodes[0].state_of(9), "primary");
        (missing(&refused) == both(&[("member_missing", "db3")])).then_some(())
    });
    assert!(cluster.nodes[1].encrypt(b"x").starts_with("km:v9:"));
    cluster.nodes[2].signal("-CONT");
    cluster.nodes[2].unlock_by(v10, &[4, 5]);
    cluster.nodes[0].until("db3 is back with v10", || {
        let answer = cluster.activate(v10, json!({}));
        (answer.status == 200).then_some(())
    });
    // Whatever is encrypted anywhere from now on opens everywhere.
    for node in &cluster.nodes {
        let value = node.until("the node encrypts with v10", || {
            let value = node.encrypt(b"of v10");
            value.starts_with("km:v10:").then_some(value)
        });
        for other in &cluster.nodes {
            opens(other, &value, b"of v10");
            opens(other, &old, b"of v9");
        }
    }
}

#[test]
fn an_excluded_member_that_comes_back_follows_as_far_as_it_holds_the_keys_and_says_what_it_lacks() {
    let mut cluster = Cluster::new("");
    let old = cluster.nodes[2].encrypt(b"of v9");
    let v10 = cluster.staged(9);
    for node in &cluster.nodes[..2] {
        node.unlock_by(v10, &[1, 2]);
    }
    cluster.pause(2);
    let excluded = json!({"exclude": [{"node": "db3", "for": "1h"}]});
    cluster.nodes[0].until("the gate opens without db3", || {
        let answer = cluster.activate(v10, excluded.clone());
        (answer.status == 200).then_some(())
    });
    let new = cluster.nodes[0].encrypt(b"of v10");
    assert!(new.starts_with("km:v10:"));
    cluster.nodes[2].signal("-CONT");
    let db3 = &cluster.nodes[2];
    // It follows as far as its keys vouch for: v10 is required from now on, and it lacks it.
    db3.until("db3 has followed", || (db3.state_of(10) == "activating").then_some(()));
    let status = db3.until("db3 says what it lacks", || {
        let status = db3.get("/v1/status");
        status["needs"].to_string().contains("v10 is required and not loaded").then_some(status)
    });
    assert_eq!(status["state"], "unlocked", "it opens what it can");
    opens(db3, &old, b"of v9");
    db3.decrypt(&new).expect_problem(503, "key_version_unavailable", "undetermined");
    // But it is out of service: not ready, and nothing of an old version comes from it.
    let ready = db3.control("GET", "/readyz", None, Json::Null);
    assert_eq!(ready.status, 503, "{}", ready.json);
    assert!(ready.json["why_not"].to_string().contains("v10 is required"), "{}", ready.json);
    let refused = db3.data("encrypt", json!({"plaintext": "eA=="}));
    refused.expect_problem(503, "key_version_unavailable", "undetermined");
    db3.unlock_by(v10, &[3, 4]);
    assert_eq!(db3.control("GET", "/readyz", None, Json::Null).status, 200);
    opens(db3, &new, b"of v10");
    db3.until("db3 is up to date", || (db3.state_of(10) == "primary").then_some(()));
    assert!(db3.encrypt(b"x").starts_with("km:v10:"));
    // And after a restart it needs both.
    cluster.nodes[2].stop();
    cluster.nodes[2].start();
    cluster.nodes[2].unlock_by(9, &[1, 2]);
    assert_eq!(cluster.nodes[2].state(), "unlocking");
    cluster.nodes[2].unlock_by(v10, &[1, 2]);
    assert_eq!(cluster.nodes[2].state(), "unlocked");
}

#[test]
fn another_configuration_of_keys_on_one_member_is_shown_and_shuts_the_gate() {
    let mut cluster = Cluster::new("");
    let more = "[[key]]\nname = \"pii\"\nmax_age = \"30d\"\n";
    cluster.nodes[1].add_config(more);
    cluster.nodes[1].post("/v1/reload", Json::Null).expect(200);
    let v10 = cluster.staged(9);
    cluster.unlock_all(v10);
    let refused = cluster.nodes[0].until("db2 tells of its configuration", || {
        let answer = cluster.activate(v10, json!({"dry_run": true})).expect(200);
        let differs =
            missing(&answer).iter().any(|(code, who)| (code.as_str(), who.as_str()) == ("config_differs", "db2"));
        differs.then_some(answer)
    });
    let detail = refused["missing"].to_string();
    assert!(detail.contains("key pii is declared there and not here"), "{detail}");
}

#[test]
fn two_daemons_under_one_name_shut_the_gates_and_both_say_so() {
    let mut cluster = Cluster::new("");
    // db3 is started once more, from a copy of its configuration that calls it db2.
    cluster.nodes[2].stop();
    cluster.nodes[2].rename_node("db3", "db2");
    cluster.nodes[2].start();
    cluster.nodes[2].unlock_by(9, &[1, 2]);
    for node in &cluster.nodes[1..] {
        node.until("the other one is noticed", || {
            let answer = node.post("/v1/manifest/republish", Json::Null);
            let staged = node.post("/v1/requests", json!({"operation": "stage"}));
            if staged.status == 202 {
                let id = staged.json["id"].as_str().unwrap().to_owned();
                node.control("DELETE", &format!("/v1/requests/{id}"), Some(crate::harness::OPERATOR), Json::Null);
            }
            drop(answer);
            (staged.status == 409 && staged.json["detail"].as_str().unwrap().contains("under the name db2"))
                .then_some(())
        });
    }
}

#[test]
fn a_retirement_waits_for_every_member_and_says_where_the_version_is_gone() {
    // Longer than a busy machine stands still between a use and the question behind it.
    let mut cluster = Cluster::new("[retire]\nquiet = \"20s\"\nmax_write_delay = \"1s\"\nhold = \"1h\"\n");
    let old = cluster.nodes[1].encrypt(b"old");
    let v10 = cluster.staged(9);
    cluster.unlock_all(v10);
    cluster.nodes[0].until("activated", || (cluster.activate(v10, json!({})).status == 200).then_some(()));
    cluster.pause(2);
    cluster.nodes[0].until("db3 is not settled", || {
        // Until it is missed nothing but this use keeps the gate shut.
        opens(&cluster.nodes[0], &old, b"old");
        let refused = cluster.nodes[0].post("/v1/versions/9/retire", json!({})).expect(409);
        missing(&refused).contains(&("not_settled".into(), "db3".into())).then_some(())
    });
    cluster.nodes[2].signal("-CONT");
    // Used on another node: the quiet period begins anew.
    opens(&cluster.nodes[1], &old, b"old");
    let refused = cluster.nodes[0].post("/v1/versions/9/retire", json!({})).expect(409);
    assert!(
        missing(&refused).iter().any(|(code, _)| code == "quiet_period" || code == "not_settled"),
        "{refused}"
    );
    let done = cluster.nodes[0].retire(9);
    assert_eq!(done["state"], "retired");
    for node in &cluster.nodes {
        node.until("v9 is wiped", || {
            let v9 = node.get("/v1/versions")["versions"][0].clone();
            (v9["state"] == "retired" && v9["validated"] == false).then_some(())
        });
        node.decrypt(&old).expect_problem(503, "key_version_unavailable", "undetermined");
    }
    assert!(done["effects"].to_string().contains("v9 is wiped on db1, db2 and db3"), "{done}");
}
