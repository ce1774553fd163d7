//! What Keymoot decides, apart from how it is done: no I/O, no runtime, no clock, no logger. Time comes in as a
//! value, so that a test or a simulation can drive it.
//!
//! # Layout
//!
//! The way of a share: [`judge`] one part → [`unlock`] (collecting → validated → unlocked) or
//! [`consent`] (and [`import`]). What follows from it: [`revise`] makes the next manifest, [`reshare`] new shares in it, [`adopt`] decides whether one may be
//! followed, [`gate`] says what is missing before a version is activated or retired, [`number`] which number a new one gets. [`elapsed`] is the time that
//! destructive waits are measured in.

pub mod adopt;
pub mod consent;
pub mod elapsed;
pub mod exclude;
pub mod gate;
pub mod import;
pub mod judge;
pub mod members;
pub mod number;
pub mod reshare;
pub mod revise;
pub mod unlock;
pub mod window;

pub use judge::{Matched, PartRefusal};
pub use unlock::Unlock;

use std::time::Duration;

/// A reading of a monotonic clock: time since some fixed point of this boot.
pub type Monotonic = Duration;
