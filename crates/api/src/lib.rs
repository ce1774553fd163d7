//! The messages of Keymoot's interfaces, shared by server and client.
//!
//! Requests are strict: a field that is unknown or given twice, and a value of the wrong type, are errors. Answers
//! are read tolerantly, so that an older client understands a newer server.
//!
//! # Layout
//!
//! One module a ceremony: [`init`], [`unlock`], [`rotate`], [`rekey`], [`census`], [`status`], [`upkeep`]. What
//! services call is in [`data`]. Trouble is a [`problem`], addresses are in [`routes`], and [`body`] is the one
//! place where a request is parsed, so that no error message repeats what stood in it. [`bytes`], [`duration`]
//! and [`secret`] are the building blocks.

pub mod body;
pub mod bytes;
pub mod census;
pub mod data;
pub mod duration;
pub mod init;
pub mod problem;
pub mod rekey;
pub mod rotate;
pub mod routes;
pub mod secret;
pub mod status;
pub mod unlock;
pub mod upkeep;

pub use bytes::Base64Bytes;
pub use duration::HumanDuration;
pub use problem::{Missing, Problem};
pub use secret::SecretText;
