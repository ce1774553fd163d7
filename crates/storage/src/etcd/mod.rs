//! etcd, as the metadata store where no single machine may matter.
//!
//! # Layout
//!
//! `address` reads an address, `gateway` asks the members, one after the other, over their JSON interface,
//! `message` is what is said there, `keyspace` is where the records lie, and [`EtcdMetadata`] is in `metadata`,
//! with `fill`, as no single transaction of etcd can hold all records.

mod address;
mod fill;
mod gateway;
mod keyspace;
mod message;
mod metadata;

pub use metadata::EtcdMetadata;

use crate::metadata::MetadataError;

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    /// Trying again later may help.
    Unreachable(String),
    /// What is there can't be trusted.
    Damaged(String),
    /// The past that was asked for is no longer kept.
    Compacted,
}

impl From<Fault> for MetadataError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unreachable(reason) => Self::Unavailable(reason),
            Fault::Damaged(reason) => Self::Damaged(reason),
            Fault::Compacted => Self::Unavailable("its history was compacted meanwhile".into()),
        }
    }
}

/// A fault, and whether what was asked may have been done nevertheless.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trouble {
    fault: Fault,
    maybe_done: bool,
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self { fault, maybe_done: false }
    }
}

impl From<Trouble> for MetadataError {
    fn from(trouble: Trouble) -> Self {
        trouble.fault.into()
    }
}
