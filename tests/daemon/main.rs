//! The daemon from outside: the real binary over real TLS, judged by the interface and by a second
//! implementation of the formats (`tests/oracle.py`).

#[path = "../harness/mod.rs"]
mod harness;

mod bad_input;
mod crashes;
mod gates;
mod operator_alone;
mod oracle;
mod parts;
mod rekey_crashes;
mod seal_and_reload;
mod secrets;
mod sources;
mod store_faults;
