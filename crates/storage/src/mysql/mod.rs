//! MariaDB, and what speaks MySQL's protocol: users' own columns as sources. Tested against MariaDB 10.11; Oracle's
//! MySQL 8 is meant to work and is untested.
//!
//! # Layout
//!
//! `options` reads an address, `pool` makes a session, `fault` says what an error means. `table` looks up what a
//! table is like, `sql` makes its statements from that and `bind` carries values in and out. [`MySqlSource`] is in
//! `source`, what it refuses in `preflight` (and `rights`, `width`, `checks`), its counting in `census` (and `older`: whom
//! a snapshot could not see; `beside`: what no count of the table shows), how busy the server is in `load` and what
//! replication has to do with it in `replicas`.
//! What is different where the server is a node of a cluster stands in `galera`, `galera_census` and `galera_manners`.

mod beside;
mod bind;
mod census;
mod checks;
mod fault;
mod galera;
mod galera_census;
mod galera_manners;
mod load;
mod older;
mod options;
mod pool;
mod preflight;
mod replicas;
mod rights;
mod source;
mod sql;
mod table;
mod width;

pub use source::MySqlSource;
