//! Where things are kept: the metadata of the keyring, and the users' own columns.
//!
//! Two traits of few verbs. Neither ever sees a key: this crate can't, for it knows `types` only. *Absent*,
//! *unreachable* and *changed underneath* are three different answers and are never mixed up.
//!
//! # Layout
//!
//! [`metadata`] is the trait of the metadata store, [`source`] that of a user's column. Adapters stand beside
//! them.

pub mod metadata;
pub mod source;
