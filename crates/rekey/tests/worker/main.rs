//! The worker on stores in memory: crashes at every call, writers and other nodes beside it, rotation in the middle, limits.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod adoption;
mod control;
mod counting;
mod crashes;
mod flight;
mod kinds;
mod leases;
mod manners;
mod quarantined;
mod release;
mod sqlite;
mod support;
mod walk;
mod writers;
