//! Logs and metrics.
//!
//! # Layout
//!
//! [`logs`] writes JSON lines to stderr, [`prometheus`] keeps the numbers.

pub mod logs;
pub mod prometheus;

pub use self::{logs::init_logs, prometheus::Metrics};
