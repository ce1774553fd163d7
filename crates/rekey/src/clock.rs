//! The one place where this crate looks at a wall clock. Waits are measured on the monotonic one.

use jiff::Timestamp;

/// Now. For records that people read, never for deciding how long something lasted.
#[allow(clippy::disallowed_methods, reason = "the one place")]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}
