//! Users' columns on real databases: the real daemon over TLS, live writers beside it, and every row opened at the end by a
//! second implementation that knows every plaintext.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that meets what it did not expect ends there; and it may look at a clock"
)]

#[path = "../harness/mod.rs"]
mod harness;

mod adopt;
mod application;
mod cluster_falls;
mod crashes;
mod database;
mod faults;
mod hidden;
mod hidden_ways;
mod manners;
mod midway;
mod million;
mod primaries;
mod refused;
mod story;
mod waits;

use harness::{World, trap};

/// A keyring of five holders at v9, unlocked, whose source is the database's table of tokens.
fn unlocked(database: &database::Database) -> World {
    unlocked_on(&database.source())
}

/// The same with this declaration of the source.
fn unlocked_on(source: &str) -> World {
    let mut world = World::new("");
    world.add_config(source);
    world.start();
    world.init(5, 9);
    unlock(&world, &[9]);
    world
}

/// Two shares of each version, after which nothing is missing.
#[track_caller]
fn unlock(world: &World, versions: &[u32]) {
    for version in versions {
        world.unlock_by(*version, &[1, 2]);
    }
    assert_eq!(world.state(), "unlocked", "{}", world.get("/v1/status"));
}
