//! A daemon whose metadata store is a server that goes away and comes back.

use std::{fs, os::unix::fs::PermissionsExt as _};

use crate::harness::{
    World,
    servers::{Etcd, PASSWORD, Postgres},
};

/// A world whose store's address stands in a file of its own.
fn world_at(url: &str) -> World {
    let world = World::new("[metadata]\nurl = \"file:{dir}/store.url\"\n");
    fs::write(world.path("store.url"), url).unwrap();
    fs::set_permissions(world.path("store.url"), fs::Permissions::from_mode(0o600)).unwrap();
    world
}

/// Waits until `status` says that its manifest is from there.
fn until_manifest_is(world: &World, from: &str) {
    world.until("the manifest's place", || (world.get("/v1/status")["manifest"] == from).then_some(()));
}

/// The same story with every store; `up` makes it run, or not.
fn goes_on_without_its_store(url: &str, mut up: impl FnMut(bool)) {
    let mut world = world_at(url);
    world.start();
    world.init(5, 9);
    world.unlock_by(9, &[1, 2]);
    until_manifest_is(&world, "store");
    let value = world.encrypt(b"hello");

    up(false);
    until_manifest_is(&world, "last-good");
    assert_eq!(world.open(&value), b"hello");
    // What makes keys needs the store, and says so.
    let refused = world.post("/v1/requests", serde_json::json!({"operation": "stage"}));
    assert_eq!(refused.status, 503, "{}", refused.json);

    world.kill();
    world.start();
    let status = world.get("/v1/status");
    assert_eq!((&status["state"], &status["manifest"]), (&"sealed".into(), &"last-good".into()), "{status}");
    world.unlock_by(9, &[1, 2]);
    assert_eq!(world.open(&value), b"hello");
    assert_eq!(world.open(&world.encrypt(b"new")), b"new");

    up(true);
    until_manifest_is(&world, "store");
    let next = world.rotate(9);
    assert_eq!((next, world.open(&value)), (10, b"hello".to_vec()));
    world.kill();
    world.start();
    until_manifest_is(&world, "store");
    world.unlock_by(9, &[1, 2]);
    world.unlock_by(10, &[1, 2]);
    assert_eq!(world.open(&value), b"hello");
    assert!(!world.log().contains(PASSWORD));
}

#[test]
fn a_daemon_on_postgresql_starts_unlocks_and_decrypts_without_it_and_takes_it_up_again() {
    let mut server = Postgres::start();
    let url = server.url();
    goes_on_without_its_store(&url, |up| if up { server.restart() } else { server.kill() });
}

#[test]
fn a_daemon_on_etcd_starts_unlocks_and_decrypts_without_it_and_takes_it_up_again() {
    let mut server = Etcd::start();
    let url = server.url();
    goes_on_without_its_store(&url, |up| {
        // Two of three are enough to take it away.
        if up { server.restart(&[0, 1]) } else { [0, 1].into_iter().for_each(|member| server.kill(member)) }
    });
}
