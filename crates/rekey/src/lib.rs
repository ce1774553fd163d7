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
//! `held`) → `stretch` (chunks read and judged `ahead`, several in `flight`, counted in order) → `gate` (what stands
//! before every batch: [`limits`], [`manners`], the [`window`], a `probe` of the source's load) → `chunk` (judge,
//! write, read the lost again) → `judge` (one row; `adopt`: plaintext and back). Beside it: [`job`] (what is stored of a
//! job), `checkpoint` (where), `inner`, `live` and `looked` (what jobs and their runners share), [`quarantine`] and
//! [`retry`], [`view`] (what is shown).
//! Then [`census`] (every row in exactly one class) and [`walk`] (whether old values come back between two of them).
//!
//! [`keys`] is what the node has to give.

mod adopt;
mod ahead;
pub mod census;
mod checkpoint;
mod chunk;
mod clock;
mod drive;
mod flight;
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
mod looked;
pub mod manners;
pub mod plan;
mod probe;
pub mod quarantine;
pub mod retry;
mod runner;
mod stretch;
pub mod view;
pub mod walk;
pub mod window;

pub use job::{JobId, Throttle};
pub use jobs::{Jobs, JobsError, Setup, Start};
pub use judge::Reason;
pub use keymoot_types::lifecycle::JobState;
pub use keys::{Brake, Keys, Released, Sources};
pub use lease::Holder;
pub use manners::Manners;
pub use view::{JobView, SourceView};
pub use window::Window;
