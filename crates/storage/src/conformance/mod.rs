//! The suites that every adapter passes: what the traits promise, as claims. A broken one panics, as an
//! assertion does, so they are for tests only.

mod metadata;
mod source;
mod source_tables;

use std::fmt::Debug;

pub use metadata::metadata;
pub use source::{Application, Cells, Holds, Tenants, few_old_rows_among_many, source, spec};
pub use source_tables::{Dialect, IdKind, Table, every_row_once, tables};

/// What a call that must work answered.
#[expect(clippy::panic, reason = "a suite reports by panicking, as assert! does")]
#[track_caller]
fn done<T, E: Debug>(answer: Result<T, E>) -> T {
    match answer {
        Ok(answer) => answer,
        Err(error) => panic!("it failed: {error:?}"),
    }
}
