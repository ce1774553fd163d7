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
mod disaster;
mod gates;
mod import;
mod numbers;
mod operator_alone;
mod oracle;
mod parts;
mod rekey_crashes;
mod reshare;
mod seal_and_reload;
mod secrets;
mod sources;
mod store_faults;
mod stores;
mod trap;
