//! What a node missed while it was down or cut off, and that it says so and can be let in again.

use std::{thread, time::Duration};

use serde_json::{Value as Json, json};

use crate::{
    cluster::Cluster,
    harness::{Answer, World},
};

/// More beats than it takes to forget what was found out by shares.
const BEATS: Duration = Duration::from_secs(7);

fn needs(node: &World) -> String {
    node.get("/v1/status")["needs"].to_string()
}

fn confirm(node: &World, revision: &str, digest: &str) -> Answer {
    let revision: u64 = revision.parse().unwrap();
    node.post("/v1/manifest/confirm", json!({"revision": revision, "digest": digest}))
}

/// v9 was retired while db3 was down, and db3 was given the shares of v10, which is all that is required now.
fn without_the_key_that_vouches() -> Cluster {
    let mut cluster = Cluster::new("");
    let v10 = cluster.staged(9);
    cluster.unlock_all(v10);
    cluster.nodes[0].until("activated", || (cluster.activate(v10, json!({})).status == 200).then_some(()));
    let db3 = &cluster.nodes[2];
    db3.until("it has followed", || (db3.state_of(10) == "primary").then_some(()));
    cluster.nodes[2].stop();
    let db1 = &cluster.nodes[0];
    let request = db1.ask(json!({"operation": "retire-override", "version": 9, "reason": "lost"}));
    db1.consent(&request, &[(10, 1)]).expect(200);
    db1.consent(&request, &[(10, 2)]).expect(200);
    assert_eq!(db1.state_of(9), "retired");
    cluster.nodes[2].start();
    cluster.nodes[2].unlock_by(10, &[1, 2]);
    cluster
}

#[test]
fn a_node_that_missed_a_retirement_says_whose_key_it_lacks_and_unlocks_once_the_manifest_is_confirmed() {
    let cluster = without_the_key_that_vouches();
    let db3 = &cluster.nodes[2];
    thread::sleep(BEATS);
    assert_eq!(db3.state(), "unlocking");
    let needs = needs(db3);
    assert!(needs.contains("can't be verified: v9 is not loaded here"), "{needs}");
    assert!(needs.contains("`keymoot rotate restore v9`"), "{needs}");
    let (_, command) = needs.split_once("`keymoot manifest confirm ").unwrap();
    let (revision, digest) = command.split_once('`').unwrap().0.split_once(' ').unwrap();
    confirm(db3, revision, digest).expect(200);
    assert_eq!(db3.state(), "unlocked", "the shares are here already");
    assert!(!self::needs(db3).contains("disagree"), "{}", self::needs(db3));
    let value = db3.encrypt(b"of v10");
    assert_eq!(cluster.nodes[0].open(&value), b"of v10");
    cluster.until_all_present();
}

#[test]
fn a_node_that_missed_a_retirement_unlocks_by_the_shares_of_the_version_once_it_is_restored() {
    let cluster = without_the_key_that_vouches();
    let [db1, _, db3] = &cluster.nodes[..] else { unreachable!() };
    db1.post("/v1/versions/9/restore", json!({})).expect(200);
    db3.until("it knows that v9 is back", || (db3.state_of(9) == "decrypt-only").then_some(()));
    assert!(needs(db3).contains("`keymoot manifest confirm "), "{}", needs(db3));
    db3.unlock_by(9, &[3, 4]);
    assert_eq!(db3.state(), "unlocked");
    assert!(!needs(db3).contains("disagree"), "{}", needs(db3));
}

/// The store lost what came after db3 had stopped, and db1 published its manifest above that.
fn published_above_a_gap(cluster: &mut Cluster) -> (String, String) {
    let db3 = &cluster.nodes[2];
    let adopted = cluster.nodes[0].get("/v1/status")["revision"].as_u64().unwrap();
    db3.until("it has followed", || (db3.get("/v1/status")["revision"] == adopted).then_some(()));
    cluster.pause(2);
    let db1 = &mut cluster.nodes[0];
    let v10 = db1.stage(9);
    db1.post(&format!("/v1/versions/{v10}/abort"), json!({})).expect(200);
    let db1 = &cluster.nodes[0];
    let store = rusqlite::Connection::open(cluster.store_file()).unwrap();
    store.busy_timeout(Duration::from_secs(60)).unwrap();
    let after = format!("manifest/{adopted:020}");
    store.execute("DELETE FROM records WHERE key LIKE 'manifest/%' AND key > ?1", [after]).unwrap();
    db1.until("the store went back", || needs(db1).contains("went back").then_some(()));
    let published = db1.post("/v1/manifest/republish", Json::Null).expect(200);
    assert!(published["revision"].as_u64().unwrap() > adopted + 1, "{published}");
    (published["revision"].to_string(), published["digest"].as_str().unwrap().to_owned())
}

#[test]
fn a_member_that_was_cut_off_sees_the_gap_that_the_others_published_above() {
    let mut cluster = Cluster::new("");
    let (revision, digest) = published_above_a_gap(&mut cluster);
    let db3 = &cluster.nodes[2];
    db3.signal("-CONT");
    db3.until("it sees the gap", || needs(db3).contains("is missing from the store").then_some(()));
    confirm(db3, &revision, &digest).expect(200);
    assert_eq!(db3.get("/v1/status")["revision"].to_string(), revision);
    assert!(!needs(db3).contains("disagree"), "{}", needs(db3));
}

#[test]
fn a_member_that_hears_nobody_looks_for_the_gap_when_a_manifest_above_it_is_confirmed() {
    let mut cluster = Cluster::new("");
    let (revision, digest) = published_above_a_gap(&mut cluster);
    cluster.pause(0);
    cluster.pause(1);
    let db3 = &cluster.nodes[2];
    db3.signal("-CONT");
    confirm(db3, &revision, &digest).expect(200);
    assert_eq!(db3.get("/v1/status")["revision"].to_string(), revision);
    // What it follows needs no confirming.
    assert_eq!(confirm(db3, "1", &"00".repeat(32)).code(), "conflict");
}

#[test]
fn service_time_that_was_lost_goes_on_where_the_newest_census_ended() {
    let mut world = World::new("");
    world.start();
    world.init(5, 9);
    world.unlock_by(9, &[1, 2]);
    // So long would be waited if it began anew.
    thread::sleep(Duration::from_secs(20));
    world.rotate(9);
    world.until("nothing is written with v9 any longer", || {
        let lacks =
            world.post("/v1/versions/9/retire", json!({"dry_run": true})).expect(200)["missing"].to_string();
        (!lacks.contains("the first can begin")).then_some(())
    });
    world.post("/v1/census", json!({})).expect(202);
    world.until("it is counted", || (world.get("/v1/census")["running"] == false).then_some(()));
    world.stop();
    let store = rusqlite::Connection::open(world.data_dir().join("meta.db")).unwrap();
    assert_eq!(store.execute("DELETE FROM records WHERE key LIKE 'clock/%'", ()).unwrap(), 1);
    drop(store);
    world.start();
    world.unlock_by(9, &[1, 2]);
    world.unlock_by(10, &[1, 2]);
    thread::sleep(BEATS);
    let lacks = world.post("/v1/versions/9/retire", json!({"dry_run": true})).expect(200)["missing"].to_string();
    assert!(lacks.contains("census_stale") && lacks.contains("there is 1 so far"), "{lacks}");
    assert!(!lacks.contains("quiet_period"), "{lacks}");
}
