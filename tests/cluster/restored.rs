//! A table of users that is put back from a backup, under a cluster: one node looks, all of them know.

use serde_json::json;

use crate::{
    cluster::Cluster,
    harness::{SOURCE, make_table},
};

/// Longer than it takes to notice, on a busy machine too.
const HOLD: &str = "40s";

#[test]
fn fault_34_what_one_node_finds_in_a_restored_table_keeps_every_node_from_destroying_its_version() {
    let dir = tempfile::tempdir().unwrap();
    let source = SOURCE.replace("{dir}", dir.path().to_str().unwrap());
    let retire = format!("[retire]\nquiet = \"1s\"\nmax_write_delay = \"1s\"\nhold = \"{HOLD}\"\n");
    let mut cluster = Cluster::new(&format!("{retire}{source}"));
    let old = cluster.nodes[0].encrypt(b"of v9");
    let table = make_table(&dir.path().join("app.db"), std::slice::from_ref(&old));
    let v10 = cluster.staged(9);
    cluster.unlock_all(v10);
    cluster.nodes[0].until("activated", || (cluster.activate(v10, json!({})).status == 200).then_some(()));
    assert_eq!(cluster.nodes[0].rekey()["state"], "completed");
    cluster.nodes[0].retire(9);
    let counted = || cluster.nodes.iter().map(|node| node.log().matches("census taken").count()).sum::<usize>();
    let before = counted();
    table.execute("UPDATE tokens SET token = ?1", [&old]).unwrap();
    for node in &cluster.nodes {
        node.until("the old value is known of", || {
            node.get("/v1/status")["needs"].to_string().contains("values of v9 are there again").then_some(())
        });
    }
    let finders = cluster.nodes.iter().filter(|node| node.log().contains("was this source restored"));
    assert_eq!(finders.count(), 1, "one node looks at a time");
    // Nobody asks for a count but the end of the hold.
    cluster.nodes[0].until("the hold is over", || (counted() > before).then_some(()));
    for node in &cluster.nodes {
        assert!(!node.log().contains("the version is destroyed"));
    }
    // Asked again where the store was too busy to say whether it did it.
    let restored = || {
        let answer = cluster.nodes[1].post("/v1/versions/9/restore", json!({}));
        (answer.status == 200 || cluster.nodes[1].state_of(9) == "decrypt-only").then_some(())
    };
    cluster.nodes[1].until("it is restored", restored);
    for node in &cluster.nodes {
        node.until("it has followed", || (node.state_of(9) == "decrypt-only").then_some(()));
    }
    cluster.unlock_all(9);
    for node in &cluster.nodes {
        assert_eq!(node.open(&old), b"of v9");
    }
    assert_eq!(cluster.nodes[0].rekey()["state"], "completed");
    cluster.nodes[0].retire(9);
}
