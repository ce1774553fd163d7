//! Auth0, 2017: a link that came and went set off thirty-three elections in nine minutes, and when the database was back
//! the services did not come back by themselves.
//!
//! Three nodes in the midst of a rotation, each with a link of its own to their store.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    cluster::missing,
    fleet::{Ends, Fleet, OfNode, set_all, until_all_follow, until_manifests_are, while_asked},
    harness::{
        World,
        proxy::{Proxy, Rule},
    },
};

/// How often every link comes and goes.
const FLAPS: u32 = 8;
const DOWN: Duration = Duration::from_secs(2);
const UP: Duration = Duration::from_millis(1500);

/// The most connections of one node in any second, and in a second on average: each outage begins with a few quick
/// tries, and none is made for each of those who ask meanwhile, which are dozens in a second.
const BURST_MAX: f64 = 12.0;
const AVERAGE_MAX: f64 = 2.0;

/// What db1 says of a member that is not there.
fn absence(nodes: &[World], member: &str) -> Option<String> {
    let status = nodes[0].get("/v1/status");
    let peer = status["peers"].as_array().unwrap().iter().find(|peer| peer["node"] == member).unwrap().clone();
    peer["absent"].as_str().map(str::to_owned)
}

/// Cuts one node's link for longer than it is believed, and lets it back, until that is called what it is.
fn flap_until_held_down(nodes: &[World], link: &Proxy) {
    for _ in 0..10 {
        link.set(Rule::Refuse);
        nodes[0].until("db3 is missed", || absence(nodes, "db3")?.contains("last heard").then_some(()));
        link.set(Rule::Pass);
        let held_down = nodes[0].until("db3 is back", || match absence(nodes, "db3") {
            None => Some(false),
            Some(why) if why.contains("came back") => Some(true),
            Some(_) => None,
        });
        if held_down {
            return;
        }
    }
    panic!("db3 came back ten times and was believed every time");
}

/// The connections of each node: the most in a second, and on average.
fn count_connections<T>(links: &[Proxy], story: impl FnOnce() -> T) -> (T, Vec<(f64, f64)>) {
    let over = AtomicBool::new(false);
    let of_link = |link: &Proxy| {
        let (began, at_first) = (Instant::now(), link.accepted());
        let mut most = 0.0_f64;
        while !over.load(Ordering::SeqCst) {
            let (since, before) = (Instant::now(), link.accepted());
            thread::sleep(Duration::from_secs(1));
            most = most.max((link.accepted() - before) as f64 / since.elapsed().as_secs_f64());
        }
        (most, (link.accepted() - at_first) as f64 / began.elapsed().as_secs_f64())
    };
    thread::scope(|scope| {
        let counting: Vec<_> = links.iter().map(|link| scope.spawn(move || of_link(link))).collect();
        let ends = Ends(&over);
        let told = story();
        drop(ends);
        (told, counting.into_iter().map(|counts| counts.join().unwrap()).collect())
    })
}

fn nothing_was_missed(answers: &[OfNode]) {
    for OfNode { service, supervisor, operator } in answers {
        assert_eq!(service.bad, Vec::<String>::new());
        assert!(service.good.len() > 500, "{} values were decrypted", service.good.len());
        assert_eq!(supervisor.bad, Vec::<String>::new());
        assert_eq!(operator.bad, Vec::<String>::new());
        let returns = supervisor.origins.windows(2).filter(|pair| pair[1] == "store").count();
        assert!(returns >= 2, "the store came back {returns} times: {:?}", supervisor.origins);
    }
}

#[test]
fn no_node_needs_help_while_links_flap_and_the_store_dies_and_a_member_that_flaps_is_held_down() {
    let mut fleet = Fleet::new();
    let Fleet { cluster, links, store, values } = &mut fleet;
    let nodes = &cluster.nodes;
    let (answers, connections) = count_connections(links, || {
        while_asked(nodes, values, || {
            // The links of all of them, in turn cut off and without an answer.
            for flap in 0..FLAPS {
                set_all(links, if flap % 2 == 0 { &Rule::Refuse } else { &Rule::BlackHole });
                thread::sleep(DOWN);
                set_all(links, &Rule::Pass);
                thread::sleep(UP);
            }
            flap_until_held_down(nodes, &links[2]);
            let refused = cluster.activate(10, json!({})).expect(409);
            let told = refused["missing"].to_string();
            assert!(missing(&refused).contains(&("member_missing".into(), "db3".into())), "{told}");
            assert!(told.contains("came back"), "{told}");

            store.kill();
            until_manifests_are(nodes, "last-good");
            store.restart();
            until_manifests_are(nodes, "store");
            nodes[0].until("db3 has stayed", || absence(nodes, "db3").is_none().then_some(()));
            nodes[0].until("the gate opens", || (cluster.activate(10, json!({})).status == 200).then_some(()));
            until_all_follow(nodes);
        })
    });
    nothing_was_missed(&answers);
    for (most, average) in connections {
        assert!(
            most <= BURST_MAX && average <= AVERAGE_MAX,
            "{most} connections in a second, {average} on average"
        );
    }
}
