//! PostgreSQL, as the metadata store of several nodes, and users' own tables as sources.
//!
//! # Layout
//!
//! What both share: `options` reads an address, `pool` makes a new connection, `fault`
//! says what an error means, and `transaction` finds out what became of a commit whose answer was lost.
//! [`PostgresMetadata`] is in `metadata` (and `format`: making and checking its tables), [`PostgresSource`] in `source`.

mod fault;
mod format;
mod metadata;
mod options;
mod pool;
mod source;
mod transaction;

pub use metadata::PostgresMetadata;
pub use source::PostgresSource;
