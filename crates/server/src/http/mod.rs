//! What both listeners do with a request before and after its handler.
//!
//! # Layout
//!
//! [`auth`] says who calls, [`shed`] whether there is room, [`body`] reads what was sent, [`limit`] turns away who
//! guesses, [`problem`] makes trouble into an answer, [`layers`] goes around every handler. [`fault`] makes trouble to try things on.

pub mod auth;
pub mod body;
pub mod fault;
pub mod layers;
pub mod limit;
pub mod problem;
pub mod shed;
