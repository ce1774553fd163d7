//! Outages that really happened, replayed on the real daemon over real TLS.

#[path = "../harness/mod.rs"]
mod harness;

mod expensify_2023;
