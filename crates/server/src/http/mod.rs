//! What both listeners do with a request before and after its handler.
//!
//! # Layout
//!
//! [`auth`] says who calls, [`shed`] whether there is room, [`body`] reads what was sent, [`problem`] makes
//! trouble into an answer, [`layers`] goes around every handler.

pub mod auth;
pub mod body;
pub mod layers;
pub mod problem;
pub mod shed;
