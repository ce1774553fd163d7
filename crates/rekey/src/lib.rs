//! Re-encrypts the values in users' columns with the primary, while everything else goes on, and counts what is
//! left.
//!
//! A `kill -9` at any instruction loses nothing: rows are only ever written by compare-and-swap, and a
//! checkpoint holds cursor and counters together. What can't be read stays as it is and is listed.
//!
//! # Layout
//!
//! The way of a job: [`plan`] (may it start, what will it cost) → [`jobs`] (asked for, stored, shown) → `drive`
//! (its sources, as far as their `lease`s are to be had) → `runner` (one source, pass after pass; its checkpoint is
//! `held`) → `gate` (what stands before every batch) → `chunk`
//! (read, judge, write, read the lost again) → `judge` (one row). Beside it: [`job`] (what is stored of a job),
//! `checkpoint` (where), `inner` and `live` (what jobs and their runners share), [`limits`], [`quarantine`] and
//! [`retry`], [`view`] and [`progress`] (what is shown).
//! Then [`census`] (every row in exactly one class) → [`certificate`] (what a retirement says of it).
//!
//! [`keys`] is what the node has to give.

pub mod census;
pub mod certificate;
mod checkpoint;
mod chunk;
mod clock;
mod drive;
mod gate;
mod held;
mod inner;
pub mod job;
pub mod jobs;
mod judge;
pub mod keys;
mod lease;
pub mod limits;
mod live;
pub mod plan;
pub mod progress;
pub mod quarantine;
pub mod retry;
mod runner;
pub mod view;

pub use job::{JobId, JobState};
pub use jobs::{Jobs, JobsError, Setup, Start};
pub use judge::Reason;
pub use keys::{Brake, Keys, Sources};
pub use lease::Holder;
pub use view::{JobView, SourceView};
