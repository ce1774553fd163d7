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
mod bad_input;
mod crashes;
mod gates;
mod import;
mod operator_alone;
mod oracle;
mod parts;
mod rekey_crashes;
mod reshare;
mod seal_and_reload;
mod secrets;
mod sources;
mod store_faults;
