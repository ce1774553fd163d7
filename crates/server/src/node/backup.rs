//! Backup and restore of what a keyring knows besides its keys: every record of the metadata store, in one consistent
//! copy, and the last good manifest. It may be made beside a running daemon, and is put back where none runs.

use std::{
    io::{self, BufWriter},
    path::Path,
};

use keymoot_storage::{
    metadata::{Existing, MetadataError, Record},
    open::OpenError,
    open_existing_metadata, open_metadata,
};
use keymoot_types::{Digest, KeyringId, manifest::ManifestDocument};
use serde::Serialize;
use serde_json::json;

pub use super::backup_file::{BYTES_MAX, Backup, BackupFileError, FORMAT, Header, is_backup};
use super::{
    census, chain,
    files::{Files, LastGood},
    highest, wall_clock,
};
use crate::{
    config::Config,
    durable,
    occupied::{Occupied, OccupiedError},
};

/// Why nothing was backed up or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The configuration names a store that this build does not know.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store does not answer or can't be trusted.
    #[error(transparent)]
    Store(#[from] MetadataError),
    /// A daemon runs there.
    #[error(transparent)]
    Occupied(#[from] OccupiedError),
    /// The file is no backup, or not a whole one.
    #[error(transparent)]
    File(#[from] BackupFileError),
    /// There is nothing to back up.
    #[error("there is no keyring in the metadata store")]
    NoKeyring,
    /// It is of another keyring than the configuration, the store or the manifest in `data_dir`.
    #[error("it is of keyring {there}, and here is {here}: nothing was changed")]
    OtherKeyring {
        /// In the backup.
        there: String,
        /// Here.
        here: String,
    },
    /// The newest manifest can't be read, or is not the one that the first line names.
    #[error("its newest manifest is damaged: {0}")]
    Manifest(String),
    /// The store is in use.
    #[error(
        "the metadata store holds {records} records already ({here}); the backup has revision {there}. Nothing was \
         changed. `--force` puts the backup in their place"
    )]
    NotEmpty {
        /// Records in the store.
        records: usize,
        /// The newest manifest in the store, in words.
        here: String,
        /// The revision of the backup.
        there: u64,
    },
    /// It would be too long to be read again.
    #[error("the store holds {0} bytes, and a backup at most {BYTES_MAX}")]
    TooLarge(u64),
    /// A file could not be written.
    #[error("{0}: {1}")]
    Io(String, io::Error),
}

/// What was put back.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Restored {
    /// What the backup says of itself.
    #[serde(flatten)]
    pub header: Header,
    /// What was there before and is gone, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced: Option<String>,
    /// The revision of the manifest that `data_dir` holds; where it is beyond the backup's, nothing of it is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_good: Option<u64>,
}

/// Copies what the store and `data_dir` of this configuration hold.
///
/// # Errors
/// [`BackupError`]. Nothing is written, and no store is made.
pub async fn make(config: &Config) -> Result<Backup, BackupError> {
    let records = open_existing_metadata(&config.metadata_url)?.list("").await?;
    let newest = newest(&records)?.ok_or(BackupError::NoKeyring)?;
    same_keyring(config, &newest)?;
    let bytes: u64 = records.iter().map(|record| (record.key.len() + record.value.len()) as u64).sum();
    // Base64 takes a third more.
    if bytes > BYTES_MAX / 2 {
        return Err(BackupError::TooLarge(bytes));
    }
    let last_good = match Files::new(&config.data_dir).last_good() {
        LastGood::Good(document) => Some(document.canonical().to_vec()),
        LastGood::Absent | LastGood::Damaged(_) => None,
    };
    let header = Header {
        format: FORMAT.into(),
        keyring: newest.manifest().keyring.clone(),
        keyring_id: newest.manifest().keyring_id,
        revision: newest.manifest().revision,
        digest: newest.digest(),
        made_at: wall_clock(),
        node: config.cluster.node.clone(),
        records: records.len(),
    };
    let records = records.into_iter().map(|record| (record.key, record.value)).collect();
    Ok(Backup { header, last_good, records })
}

/// Writes it for its owner alone, beside the place and then into it: what stands there is whole, before and after.
///
/// # Errors
/// What the system says.
pub fn write_file(backup: &Backup, path: &Path) -> Result<(), BackupError> {
    durable::replace(path, |file| backup.write(BufWriter::new(file)))
        .map_err(|error| BackupError::Io(path.display().to_string(), error))
}

/// Puts a backup into the store of this configuration, which must be empty or is to be replaced.
///
/// The last good manifest in `data_dir` stays, as it may be newer than the backup. Without one, the node waits for an
/// operator's `confirm`; only a manifest that is beyond the store's even in the backup is put there. Censuses don't
/// come back: what was counted before says nothing of now.
///
/// # Errors
/// [`BackupError`]. Nothing was changed then.
pub async fn restore(config: &Config, backup: Backup, force: bool) -> Result<Restored, BackupError> {
    let _occupied = Occupied::take(&config.data_dir)?;
    let Backup { header, last_good, records } = backup;
    check_newest(&header, &records)?;
    if header.keyring != config.keyring {
        return Err(other_keyring(&header, config.keyring.to_string()));
    }
    let files = Files::new(&config.data_dir);
    let here = files.last_good();
    if let LastGood::Good(document) = &here {
        check_id(&header, document.manifest().keyring_id)?;
    }
    let metadata = open_metadata(&config.metadata_url)?;
    let before = metadata.list("").await?;
    let replaced = match newest(&before) {
        Ok(Some(document)) => {
            check_id(&header, document.manifest().keyring_id)?;
            format!("revision {}, digest {}", document.manifest().revision, document.digest())
        }
        Ok(None) => "no manifest".into(),
        Err(error) => error.to_string(),
    };
    if !before.is_empty() && !force {
        return Err(BackupError::NotEmpty { records: before.len(), here: replaced, there: header.revision });
    }
    let marker = highest::RESTORED_BACKUP.to_owned();
    let said = json!({
        "why": "a backup was put back", "made_at": header.made_at, "at": wall_clock(), "revision": header.revision,
        "digest": header.digest,
    });
    let mut records: Vec<_> =
        records.into_iter().filter(|(key, _)| !key.starts_with(census::PREFIX) && *key != marker).collect();
    records.push((marker, said.to_string().into_bytes()));
    let existing = if before.is_empty() { Existing::Refuse } else { Existing::Replace };
    metadata.fill(records, existing).await?;
    let last_good = match here {
        LastGood::Good(document) => Some(document.manifest().revision),
        LastGood::Damaged(_) => None,
        LastGood::Absent => keep_newer(&files, &header, last_good)?,
    };
    Ok(Restored { header, replaced: (!before.is_empty()).then_some(replaced), last_good })
}

/// A store that had gone back before the backup was made must not hide what the node knew better.
fn keep_newer(files: &Files, header: &Header, last_good: Option<Vec<u8>>) -> Result<Option<u64>, BackupError> {
    let Some(document) = last_good.and_then(|bytes| ManifestDocument::parse(&bytes).ok()) else { return Ok(None) };
    let revision = document.manifest().revision;
    if document.manifest().keyring_id != header.keyring_id || revision <= header.revision {
        return Ok(None);
    }
    let failed = |error| BackupError::Io("the last good manifest".into(), error);
    files.write_last_good(&document).map_err(failed)?;
    Ok(Some(revision))
}

/// The newest manifest among the records.
fn newest(records: &[Record]) -> Result<Option<ManifestDocument>, BackupError> {
    let newest = records.iter().rev().find(|record| record.key.starts_with(chain::PREFIX));
    newest.map(|record| parse(&record.value)).transpose()
}

fn parse(bytes: &[u8]) -> Result<ManifestDocument, BackupError> {
    ManifestDocument::parse(bytes).map_err(|error| BackupError::Manifest(error.to_string()))
}

fn check_newest(header: &Header, records: &[(String, Vec<u8>)]) -> Result<(), BackupError> {
    let newest = records.iter().rev().find(|(key, _)| key.starts_with(chain::PREFIX));
    let (_, bytes) = newest.ok_or(BackupError::NoKeyring)?;
    let document = parse(bytes)?;
    let manifest = document.manifest();
    let named: (_, _, _, Digest) = (&header.keyring, header.keyring_id, header.revision, header.digest);
    if named != (&manifest.keyring, manifest.keyring_id, manifest.revision, document.digest()) {
        return Err(BackupError::Manifest("it is not the one that the first line names".into()));
    }
    Ok(())
}

fn same_keyring(config: &Config, document: &ManifestDocument) -> Result<(), BackupError> {
    let found = &document.manifest().keyring;
    if *found == config.keyring {
        return Ok(());
    }
    Err(BackupError::OtherKeyring { there: found.to_string(), here: config.keyring.to_string() })
}

fn check_id(header: &Header, here: KeyringId) -> Result<(), BackupError> {
    if here == header.keyring_id { Ok(()) } else { Err(other_keyring(header, format!("keyring id {here}"))) }
}

fn other_keyring(header: &Header, here: String) -> BackupError {
    BackupError::OtherKeyring { there: format!("{} with id {}", header.keyring, header.keyring_id), here }
}
