//! A share that is late, and what is meant for another cluster.

use std::process::Command;

use keymoot_api::routes::{self, Listener, Method, Route};
use serde_json::{Value as Json, json};

use crate::harness::{
    KEY, OPERATOR, SERVICE, World, client,
    proxy::{Proxy, Rule},
};

fn have(world: &World) -> u64 {
    world.get("/v1/status")["versions"][0]["have"].as_u64().unwrap()
}

/// Gives the first holder's share through the proxy, over a connection of its own.
fn give(world: &World, proxy: &Proxy) -> Option<u16> {
    let http = client(&world.data_dir().join("tls-cert.pem"));
    let url = format!("https://{}/v1/unlock/parts", proxy.address());
    let sent = http.post(url).body(world.parts(&[(9, 1)])).send();
    // What was cut off within the body of an answer is no answer either.
    let answer = sent.ok()?;
    let status = answer.status().as_u16();
    answer.bytes().is_ok().then_some(status)
}

#[test]
fn fault_60_a_share_that_comes_late_and_twice_at_once_is_counted_once() {
    let mut world = World::new("");
    world.start();
    world.init(5, 9);
    let proxy = Proxy::new(world.control_url().strip_prefix("https://").unwrap().parse().unwrap());
    proxy.set(Rule::Delay(std::time::Duration::from_millis(50)));
    std::thread::scope(|scope| {
        let giving: Vec<_> = (0..4).map(|_| scope.spawn(|| give(&world, &proxy))).collect();
        let answers: Vec<_> = giving.into_iter().map(|one| one.join().unwrap()).collect();
        assert!(answers.iter().all(Option::is_some), "{answers:?}");
        assert!(answers.contains(&Some(200)), "{answers:?}");
    });
    assert_eq!((have(&world), world.state().as_str()), (1, "unlocking"));
}

/// Every command, with the right token and meant for another keyring.
fn commands_for(keyring_id: &Json, here: &World) {
    let meant = keyring_id.as_str().unwrap();
    let is_command = |route: &&&Route| route.method != Method::Get;
    let commands: Vec<_> = routes::ALL.iter().filter(|route| **route != routes::DOUBT_ACKNOWLEDGE).collect();
    for route in commands.iter().filter(is_command) {
        let method = format!("{:?}", route.method).to_uppercase().parse().unwrap();
        let (listener, token) = match route.listener {
            Listener::Control => (here.control_url(), OPERATOR),
            Listener::Data => (here.data_url(), SERVICE),
        };
        let path = route.path.replace("{version}", "9").replace("{id}", "x").replace("{key}", KEY);
        let asked = here.http().request(method, format!("{listener}{path}")).bearer_auth(token);
        let asked = asked.header("Keymoot-Keyring", meant);
        let answer = asked.body("{}").send().unwrap();
        let (status, said) = (answer.status().as_u16(), answer.text().unwrap());
        assert!(status == 409 && said.contains("nothing was done"), "{}: {status} {said}", route.path);
        assert!(said.contains(meant), "{said}");
    }
    let sealed = Command::new(env!("CARGO_BIN_EXE_keymoot"))
        .args(["seal", "--keyring-id", meant, "--control-addr", here.control_url(), "--ca"])
        .arg(here.data_dir().join("tls-cert.pem"))
        .env("KEYMOOT_TOKEN", OPERATOR)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&sealed.stdout);
    assert!(sealed.status.code() == Some(1) && said.contains("nothing was done"), "{sealed:?}");
}

/// A keyring of the same name, made elsewhere; and a store that a newer build has written to.
#[test]
fn fault_50_what_is_aimed_at_another_cluster_is_refused_and_a_newer_store_is_left_unread() {
    let mut here = crate::unlocked(5);
    let there = crate::unlocked(5);
    let value = here.encrypt(b"x");
    let revision = here.get("/v1/status")["revision"].clone();
    let identity = |world: &World| {
        let status = world.get("/v1/status");
        (status["keyring_id"].clone(), status["revision"].clone())
    };
    assert_ne!(identity(&here).0, identity(&there).0);
    // A share, a consent, a request and a manifest of the other one.
    let request = there.ask(json!({"operation": "stage"}));
    let share = there.parts(&[(9, 1)]).into_bytes();
    let foreign =
        |path: &str| here.raw(format!("{}{path}", here.control_url()), "POST", None, share.clone()).expect(422);
    let refused = foreign("/v1/unlock/parts");
    assert_eq!(refused["rejected"][0]["code"], "wrong_keyring", "{refused}");
    let refused = foreign("/v1/prove/parts");
    assert_eq!(refused["rejected"][0]["code"], "wrong_keyring", "{refused}");
    assert_eq!(here.consent(&request, &[(9, 1)]).status, 404);
    let digest = "00".repeat(32);
    let confirm = here.post("/v1/manifest/confirm", json!({"revision": revision, "digest": digest}));
    assert_eq!(confirm.code(), "conflict", "{}", confirm.json);
    commands_for(&identity(&there).0, &here);
    assert_eq!(here.get("/v1/status")["revision"], revision);
    assert_eq!(here.state(), "unlocked");

    here.stop();
    let store = here.data_dir().join("meta.db");
    rusqlite::Connection::open(&store).unwrap().pragma_update(None, "user_version", 2).unwrap();
    let before = std::fs::read(&store).unwrap();
    here.start();
    let status = here.get("/v1/status");
    assert_eq!(status["manifest"], "last-good", "{status}");
    assert!(status["needs"].to_string().contains("format 2"), "{status}");
    here.unlock_by(9, &[1, 2]);
    assert_eq!(here.open(&value), b"x");
    assert_eq!(here.post("/v1/requests", json!({"operation": "stage"})).status, 503);
    assert_eq!(std::fs::read(&store).unwrap(), before, "it was written to");
}
