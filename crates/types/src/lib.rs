//! What things are in Keymoot: key versions, names, values, shares, the manifest, verdicts.
//!
//! Nothing here performs a secret operation or any I/O. Every type is made by one checking constructor, so
//! that a value of the type is a proof that the check was made.
//!
//! # Layout
//!
//! The way of a share: [`part`] (a named line of a parts file) → [`share`] → [`manifest`] (what it is compared
//! with) → [`refusal`] (why it was turned away). The way of a value: [`name`], [`key_version`] → [`value`] →
//! [`associated_data`] (what binds it to its row) → [`verdict`] (what may be said about it). The states that
//! nodes, versions and jobs go through are in [`lifecycle`]; what a node tells the others is a [`heartbeat`]. What was done is
//! told in the [`audit`] log; what a rekey would do, in a [`plan`]. Secret bytes of
//! any length are [`wiped`].

pub mod associated_data;
pub mod audit;
pub mod census;
pub mod certificate;
pub mod heartbeat;
pub mod id;
pub mod key_version;
pub mod lifecycle;
pub mod manifest;
pub mod name;
pub mod part;
pub mod plan;
pub mod refusal;
pub mod share;
pub mod value;
pub mod verdict;
pub mod window;
pub mod wiped;

pub use id::{Digest, KeyId, KeyringId};
pub use key_version::KeyVersion;
pub use lifecycle::{NodeState, VersionState};
pub use manifest::Manifest;
pub use name::{HolderName, KeyName, KeyringName, NodeName, SourceName};
pub use refusal::RefusalCode;
pub use share::Share;
pub use value::Value;
pub use verdict::{ErrorCode, Verdict};
pub use wiped::Wiped;
