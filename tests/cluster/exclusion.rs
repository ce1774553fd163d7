//! Members that are left out for a time, and versions that are given up though somebody holds them.

use serde_json::{Value as Json, json};

use crate::cluster::{Cluster, missing};

fn lacks(cluster: &Cluster, body: Json) -> Vec<(String, String)> {
    missing(&cluster.activate(10, body).expect(409))
}

/// A member that was not heard for a moment is missed as well: what is lacking otherwise is awaited.
fn until_lacks(cluster: &Cluster, body: &Json, wanted: &[(String, String)]) {
    cluster.nodes[0].until("this is lacking", || (lacks(cluster, body.clone()) == wanted).then_some(()));
}

fn of(code: &str, who: &str) -> (String, String) {
    (code.into(), who.into())
}

#[test]
fn an_exclusion_lasts_for_its_time_is_shown_and_ends_by_itself() {
    let mut cluster = Cluster::new("");
    let v10 = cluster.staged(9);
    cluster.nodes[0].unlock_by(v10, &[1, 2]);
    cluster.nodes[2].kill();
    until_lacks(&cluster, &json!({}), &[of("not_loaded", "db2"), of("member_missing", "db3")]);
    let of_db2 = [of("not_loaded", "db2")];
    // Only thought of.
    let exclude = json!({"exclude": [{"node": "db3", "for": "30s"}], "dry_run": true});
    cluster.nodes[0].until("db2 alone would be lacking", || {
        (missing(&cluster.activate(v10, exclude.clone()).expect(200)) == of_db2).then_some(())
    });
    assert!(lacks(&cluster, json!({})).contains(&of("member_missing", "db3")));
    // Said once, it lasts.
    until_lacks(&cluster, &json!({"exclude": [{"node": "db3", "for": "30s"}]}), &of_db2);
    until_lacks(&cluster, &json!({}), &of_db2);
    let needs = cluster.nodes[0].get("/v1/status")["needs"].to_string();
    assert!(needs.contains("member db3 is excluded"), "{needs}");
    cluster.nodes[0].until("it ends by itself", || {
        lacks(&cluster, json!({})).contains(&of("member_missing", "db3")).then_some(())
    });
    assert!(!cluster.nodes[0].get("/v1/status")["needs"].to_string().contains("is excluded"));

    // It outlives a restart of the node that was told, and only members are excluded.
    let stranger = cluster.activate(v10, json!({"exclude": [{"node": "db9", "for": "1h"}]}));
    assert_eq!(stranger.status, 400, "{}", stranger.json);
    until_lacks(&cluster, &json!({"exclude": [{"node": "db3", "for": "1h"}]}), &of_db2);
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    cluster.nodes[0].unlock_by(9, &[1, 2]);
    let db1 = &cluster.nodes[0];
    db1.until("it is known again", || {
        db1.get("/v1/status")["needs"].to_string().contains("member db3 is excluded").then_some(())
    });
}

#[test]
fn a_version_is_not_given_up_as_lost_while_another_member_holds_it() {
    let mut cluster = Cluster::new("");
    let v10 = cluster.staged(9);
    cluster.unlock_all(v10);
    cluster.nodes[0].until("activated", || (cluster.activate(v10, json!({})).status == 200).then_some(()));
    let new = cluster.nodes[1].until("db2 follows", || {
        let value = cluster.nodes[1].encrypt(b"of v10");
        value.starts_with("km:v10:").then_some(value)
    });
    cluster.nodes[0].stop();
    cluster.nodes[0].start();
    cluster.nodes[0].unlock_by(9, &[1, 2]);
    let db1 = &cluster.nodes[0];
    db1.post("/v1/unlock/degraded", json!({"missing": [10]})).expect(200);
    assert_eq!(db1.state(), "degraded");
    db1.decrypt(&new).expect_problem(503, "key_version_unavailable", "undetermined");
    let back = || db1.post("/v1/versions/9/activate", json!({"override": "v10 is lost"}));
    let refused = back().expect(409);
    let told = refused["missing"].to_string();
    assert!(told.contains("v10 is not lost") && told.contains("way_back"), "{told}");
    // Where nobody holds it any more, the way back is open.
    for node in &cluster.nodes[1..] {
        node.post("/v1/seal", Json::Null);
    }
    db1.until("the way back is open", || (back().status == 200).then_some(()));
    assert!(db1.encrypt(b"x").starts_with("km:v9:"));
    db1.decrypt(&new).expect_problem(503, "key_version_unavailable", "undetermined");
}
