//! Several nodes of one keyring: real daemons on one metadata store.

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

mod activation;
mod away;
mod balancer;
mod cluster;
mod exclusion;
mod faster;
mod handed_over;
mod herd;
mod missed;
mod namespaces;
mod partition;
mod rekey;
mod restored;
mod rolling;
mod silent;
mod together;
mod window;
