//! A metadata store and a source in memory, for the tests of other crates. They hold to the same
//! [`conformance`](crate::conformance) suites as the real ones, and lose everything when they are dropped.

mod metadata;
mod source;

pub use metadata::MemoryMetadata;
pub use source::MemorySource;
