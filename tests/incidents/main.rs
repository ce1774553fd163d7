//! Outages that really happened, replayed on the real daemon over real TLS.

#[path = "../cluster/cluster.rs"]
#[allow(dead_code, reason = "the cluster's own tests use more of it")]
mod cluster;
#[path = "../harness/mod.rs"]
mod harness;

mod auth0_2017;
mod expensify_2023;
mod fleet;
mod proton_2021;
