//! PostgreSQL, as the metadata store of several nodes.
//!
//! # Layout
//!
//! What sources will share: `options` reads an address, `pool` keeps connections and connects them anew, `fault`
//! says what an error means, and `transaction` finds out what became of a commit whose answer was lost.
//! [`PostgresMetadata`] is in `metadata` (and `format`: making and checking its tables).

mod fault;
mod format;
mod metadata;
mod options;
mod pool;
mod transaction;

pub use metadata::PostgresMetadata;
