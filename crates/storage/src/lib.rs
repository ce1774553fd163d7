//! Where things are kept: the metadata of the keyring, and the users' own columns.
//!
//! Two traits of few verbs. Neither ever sees a key: this crate can't, for it knows `types` only. *Absent*,
//! *unreachable* and *changed underneath* are three different answers and are never mixed up.
//!
//! # Layout
//!
//! [`metadata`] is the trait of the metadata store, [`source`] that of a user's column. Adapters stand beside
//! them: [`sqlite`], [`postgres`], [`mysql`], [`etcd`] and, for tests, [`memory`]. [`open`] finds the adapter of an address. [`conformance`] is the
//! suite that every adapter passes, [`faulty`] makes any of them fail at a chosen call, [`bounded`] keeps callers from
//! waiting for long, `pool` keeps connections and makes them anew, `read_back` judges whether a batch is as it was written,
//! `tls` says how far a server is trusted and `behind` how far its replicas are behind.

mod away;
mod behind;
pub mod bounded;
pub mod conformance;
pub mod etcd;
pub mod faulty;
pub mod memory;
pub mod metadata;
pub mod mysql;
pub mod open;
mod pool;
pub mod postgres;
mod read_back;
pub mod source;
pub mod sqlite;
mod tls;

pub use open::{OpenError, open_existing_metadata, open_metadata, open_source};

/// The first byte string behind all those that begin with `prefix`; `None` where nothing is behind them.
fn behind_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut behind = prefix.to_vec();
    while let Some(last) = behind.pop() {
        if let Some(next) = last.checked_add(1) {
            behind.push(next);
            return Some(behind);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::behind_prefix;

    #[test]
    fn what_is_behind_a_prefix_is_behind_all_that_begins_with_it() {
        assert_eq!(behind_prefix(b"km:v9:"), Some(b"km:v9;".to_vec()));
        assert_eq!(behind_prefix(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(behind_prefix(b"\xff"), None);
        assert_eq!(behind_prefix(b""), None);
    }
}
