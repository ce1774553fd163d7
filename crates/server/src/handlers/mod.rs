//! From a request to a ceremony and back. [`data`] is what services ask, [`control`] everything else.

pub mod control;
pub mod data;
mod jobs;
mod table;
