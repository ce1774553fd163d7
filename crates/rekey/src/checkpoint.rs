//! Where jobs lie in the metadata store, and a record of it that knows its own stamp.
//!
//! Job records have a prefix of their own, so that listing jobs never reads a quarantine.

use keymoot_storage::metadata::{Metadata, MetadataError, Record, Stamp};
use keymoot_types::SourceName;
use serde::{Serialize, de::DeserializeOwned};

use crate::job::JobId;

/// Every job's record begins so.
pub(crate) const JOBS: &str = "rekey/job/";

pub(crate) fn job_key(id: JobId) -> String {
    format!("{JOBS}{id}")
}

pub(crate) fn sources_prefix(id: JobId) -> String {
    format!("rekey/source/{id}/")
}

pub(crate) fn source_key(id: JobId, source: &SourceName) -> String {
    format!("{}{source}", sources_prefix(id))
}

pub(crate) fn quarantine_prefix(id: JobId, source: &SourceName) -> String {
    format!("rekey/quarantine/{id}/{source}/")
}

/// A record that is read once and then written by compare-and-swap: whoever writes it beside us is noticed.
#[derive(Debug, Clone)]
pub(crate) struct Durable<T> {
    key: String,
    stamp: Option<Stamp>,
    value: T,
}

impl<T: Serialize + DeserializeOwned> Durable<T> {
    /// One that is not in the store yet.
    pub(crate) fn new(key: String, value: T) -> Self {
        Self { key, stamp: None, value }
    }

    pub(crate) async fn load(metadata: &dyn Metadata, key: &str) -> Result<Option<Self>, MetadataError> {
        metadata.get(key).await?.map(Self::read).transpose()
    }

    pub(crate) fn read(record: Record) -> Result<Self, MetadataError> {
        let value = parse(&record)?;
        Ok(Self { key: record.key, stamp: Some(record.stamp), value })
    }

    /// The record as it is now.
    pub(crate) async fn reload(&self, metadata: &dyn Metadata) -> Result<Option<Self>, MetadataError> {
        Self::load(metadata, &self.key).await
    }

    pub(crate) fn value(&self) -> &T {
        &self.value
    }

    /// Writes `value`, if the record is still as it was read. Where the outcome is unknown it is read back;
    /// calling again with the same value is then safe too.
    pub(crate) async fn save(&mut self, metadata: &dyn Metadata, value: T) -> Result<(), MetadataError> {
        let bytes = serde_json::to_vec(&value).map_err(|error| MetadataError::Damaged(error.to_string()))?;
        self.stamp = Some(swap(metadata, &self.key, self.stamp, &bytes).await?);
        self.value = value;
        Ok(())
    }
}

/// A compare-and-swap whose outcome is read back where it is unknown.
pub(crate) async fn swap(
    metadata: &dyn Metadata,
    key: &str,
    expected: Option<Stamp>,
    bytes: &[u8],
) -> Result<Stamp, MetadataError> {
    match metadata.swap(key, expected, bytes).await {
        Ok(stamp) => Ok(stamp),
        Err(error) => match metadata.get(key).await {
            Ok(Some(record)) if record.value == bytes && Some(record.stamp) != expected => Ok(record.stamp),
            _ => Err(error),
        },
    }
}

/// What a record holds.
pub(crate) fn parse<T: DeserializeOwned>(record: &Record) -> Result<T, MetadataError> {
    serde_json::from_slice(&record.value)
        .map_err(|error| MetadataError::Damaged(format!("record {}: {error}", record.key)))
}
