//! The daemon from outside: the real binary over real TLS, judged by the interface and by a second
//! implementation of the formats (`tests/oracle.py`).

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

mod adoption;
mod attacks;
mod attacks_flood;
mod audit;
mod audit_crashes;
mod audit_cut;
mod audit_faults;
mod audit_floods;
mod audit_heads;
mod bad_input;
mod ceremony_crashes;
mod crashes;
mod cuts;
mod disaster;
mod gates;
mod import;
mod network;
mod numbers;
mod operator_alone;
mod oracle;
mod parts;
mod reshare;
mod restored;
mod seal_and_reload;
mod secrets;
mod sources;
mod store_faults;
mod stores;

use harness::{World, trap};

/// A keyring at v9 of so many holders, unlocked.
fn unlocked(holders: usize) -> World {
    let mut world = World::new("");
    world.start();
    world.init(holders, 9);
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
