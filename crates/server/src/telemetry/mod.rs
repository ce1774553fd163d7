//! Logs and metrics.
//!
//! # Layout
//!
//! [`logs`] writes JSON lines to stderr, [`prometheus`] keeps the numbers, [`foreground`] tells how long services wait.

pub mod foreground;
pub mod logs;
pub mod prometheus;

pub use self::{foreground::Foreground, logs::init_logs, prometheus::Metrics};
