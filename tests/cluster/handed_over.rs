//! Keys on their way from one member to another, over a network that cuts them off.

use crate::{
    cluster::Cluster,
    harness::proxy::{Proxy, RARE, Rule},
};

const NOTHING_CAME: &str = "no keys from this member";

#[test]
fn fault_60_a_hand_over_that_is_cut_anywhere_leaves_the_member_sealed_or_whole_and_the_next_one_succeeds() {
    let mut cluster = Cluster::new("");
    cluster.keep_addresses();
    let control = cluster.nodes[0].control_url().replace("https://", "");
    let proxy = Proxy::new(control.parse().unwrap());
    cluster.nodes[0].announce(proxy.address());
    let announced = proxy.address().to_string();
    cluster.nodes[2].until("db1 is reached through the proxy", || {
        let status = cluster.nodes[2].get("/v1/status");
        status["peers"].as_array().unwrap().iter().any(|peer| peer["address"] == announced).then_some(())
    });
    let value = cluster.nodes[0].encrypt(b"hello");
    cluster.window(9, &["db3"], "1h");
    // There is nobody else to ask.
    cluster.nodes[1].stop();
    let Cluster { nodes, .. } = &mut cluster;
    let (db1, db3) = nodes.split_at_mut(2);
    let (db1, db3) = (&db1[0], &mut db3[0]);
    let gets_its_keys = |db3: &crate::harness::World| {
        db3.until("it has its keys", || (db3.state() == "unlocked").then_some(()));
        assert_eq!(db3.open(&value), b"hello");
    };
    db3.stop();
    let before = proxy.passed();
    db3.start();
    gets_its_keys(db3);
    let lengths = proxy.passed();
    let (mut nothing, mut whole) = (0, 0);
    for (way, rule) in [Rule::CutRequest as fn(usize) -> Rule, Rule::CutReply].into_iter().enumerate() {
        let length = lengths[way] - before[way];
        assert!(length > 300, "{length} bytes are no exchange");
        for bytes in RARE.of(length) {
            db3.stop();
            proxy.set(rule(bytes));
            let asked = db3.log().matches(NOTHING_CAME).count();
            db3.start();
            let sealed = db3.until("it has asked", || match db3.state().as_str() {
                "unlocked" => Some(false),
                "sealed" => (db3.log().matches(NOTHING_CAME).count() > asked).then_some(true),
                state => panic!("{state} behind {bytes} bytes"),
            });
            *(if sealed { &mut nothing } else { &mut whole }) += 1;
            proxy.set(Rule::Pass);
            gets_its_keys(db3);
        }
    }
    println!("{lengths:?} bytes: {nothing} times nothing, {whole} times all");
    assert!(nothing > 5, "{nothing} times nothing, {whole} times all");
    assert_eq!(db1.state(), "unlocked");
}
