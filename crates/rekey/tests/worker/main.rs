//! The worker on stores in memory: crashes at every call, writers and other nodes beside it, rotation in the middle, limits.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod control;
mod counting;
mod crashes;
mod leases;
mod quarantined;
mod sqlite;
mod support;
mod writers;
