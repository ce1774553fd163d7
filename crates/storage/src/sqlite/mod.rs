//! SQLite, embedded: the default metadata store, and users' own SQLite files as sources.
//!
//! # Layout
//!
//! `session` keeps one connection and opens it anew after every error; `fault` says what an error means.
//! [`SqliteMetadata`] is in `metadata` (and `format`: creating and checking its file), [`SqliteSource`] in
//! `source`, with its statements in `sql`, its values in `bind`, what it refuses in `preflight` and `unique`,
//! and its counting in `census`.

mod bind;
mod census;
mod fault;
mod format;
mod metadata;
mod preflight;
mod session;
mod source;
mod sql;
mod unique;

use std::time::Duration;

pub use metadata::SqliteMetadata;
pub use source::SqliteSource;

/// How long to wait for another connection's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
