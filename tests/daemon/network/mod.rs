//! Fault 60: every exchange with the daemon, cut off, late, doubled and out of order.

mod ceremonies;
mod order;
mod steps;
pub mod sweep;
mod values;
