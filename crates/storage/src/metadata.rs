//! The metadata store: named records, and one linearizable compare-and-swap.
//!
//! Manifests, proofs, heartbeats, jobs and checkpoints are records. All that needs agreement among nodes is a
//! [`Metadata::swap`], so that Keymoot has no consensus of its own.

use std::fmt;

use async_trait::async_trait;

/// Says which state of a record was read. Never used again for another state of the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp(pub u64);

impl Stamp {
    /// One that never was and never will be again, in any store or backup: of 64 random bits.
    pub(crate) fn draw() -> Result<Self, MetadataError> {
        let drawn = getrandom::u64().map(Self);
        drawn.map_err(|_| MetadataError::Unavailable("the system gives no randomness".into()))
    }
}

/// A record as it was read.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Its key, such as `manifest/00000000000000000041`.
    pub key: String,
    /// What it holds. Never a secret.
    pub value: Vec<u8>,
    /// Which state this is.
    pub stamp: Stamp,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({}, {} bytes, {:?})", self.key, self.value.len(), self.stamp)
    }
}

/// Why the store did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// The store does not answer, or can't write (a full disk). Nothing is known; try again later.
    #[error("the metadata store is unavailable: {0}")]
    Unavailable(String),
    /// The record is not in the state that was expected: somebody else changed it. Read it again.
    #[error("the record {key} was changed by somebody else")]
    Changed {
        /// The record's key.
        key: String,
    },
    /// The store answers, but what it holds can't be trusted.
    #[error("the metadata store is damaged: {0}")]
    Damaged(String),
}

/// The longest value that a record may have: etcd's limit for a request, less room for the rest.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;

/// Refuses a longer value in every adapter alike, so that a record never fits one store and not another.
pub(crate) fn within_limit(key: &str, value: &[u8]) -> Result<(), MetadataError> {
    if value.len() <= VALUE_BYTES_MAX {
        return Ok(());
    }
    let bytes = value.len();
    Err(MetadataError::Unavailable(format!(
        "{key} is {bytes} bytes long, and a record has at most {VALUE_BYTES_MAX}"
    )))
}

/// What becomes of the records that are there when a store is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// One record is enough to refuse.
    Refuse,
    /// All of them go.
    Replace,
}

/// The metadata store.
#[async_trait]
pub trait Metadata: Send + Sync {
    /// The record, or `None` where the store answered that there is none.
    async fn get(&self, key: &str) -> Result<Option<Record>, MetadataError>;

    /// All records whose key begins with `prefix`, ascending by the bytes of the key, as they were at one moment:
    /// a list of everything is a consistent copy.
    async fn list(&self, prefix: &str) -> Result<Vec<Record>, MetadataError>;

    /// Writes the record whatever state it is in.
    async fn put(&self, key: &str, value: &[u8]) -> Result<Stamp, MetadataError>;

    /// Writes the record only if it is still in the state `expected` (`None`: only if there is none), durably
    /// and atomically; else [`MetadataError::Changed`]. After an error of another kind the outcome is unknown:
    /// read it back.
    async fn swap(&self, key: &str, expected: Option<Stamp>, value: &[u8]) -> Result<Stamp, MetadataError>;

    /// Removes the record if it is in the state `expected`; else [`MetadataError::Changed`].
    async fn remove(&self, key: &str, expected: Stamp) -> Result<(), MetadataError>;

    /// Makes these records, of different keys, all that the store holds, durably and as a whole: nobody ever sees
    /// a part of them. Where records are there and must not be replaced, [`MetadataError::Changed`] names one.
    async fn fill(&self, records: Vec<(String, Vec<u8>)>, existing: Existing) -> Result<(), MetadataError>;
}
