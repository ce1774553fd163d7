//! The file of a backup: lines of JSON, and at the end a digest over all of them, so that a torn or altered file is
//! refused before anything is done with it. There are no secrets in it, as there are none in the store.

use std::io::{self, Write};

use jiff::Timestamp;
use keymoot_api::Base64Bytes;
use keymoot_types::{Digest, KeyringId, KeyringName, NodeName};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// What the first line begins with.
pub const FORMAT: &str = "keymoot-backup/1";

/// Far more than manifests, proofs and quarantines ever take.
pub const BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// The first line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`FORMAT`].
    pub format: String,
    /// The keyring's name.
    pub keyring: KeyringName,
    /// The keyring's id.
    pub keyring_id: KeyringId,
    /// Of the newest manifest in it.
    pub revision: u64,
    /// Of the same: what an operator confirms after a restore.
    pub digest: Digest,
    /// When it was made.
    pub made_at: Timestamp,
    /// The node that it was made on.
    pub node: NodeName,
    /// How many records follow.
    pub records: usize,
}

/// A backup that is whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Backup {
    /// What it is of.
    pub header: Header,
    /// The node's last good manifest.
    pub last_good: Option<Vec<u8>>,
    /// Every record of the metadata store, ascending by key.
    pub records: Vec<(String, Vec<u8>)>,
}

/// Why a file is no backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupFileError {
    /// The first line is of something else.
    #[error("it is no backup of keymoot")]
    NoBackup,
    /// Written by another build.
    #[error("it has the format {0:?}, and this build reads {FORMAT}")]
    OtherFormat(String),
    /// It ends before its digest.
    #[error("it is cut off: the digest at its end is missing")]
    CutOff,
    /// What stands there is not what was written.
    #[error("it is damaged: {0}")]
    Damaged(String),
}

/// Every line but the first.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    LastGood(Base64Bytes),
    Record { key: String, value: Base64Bytes },
    Sha256(Digest),
}

#[derive(Deserialize)]
struct Beginning {
    format: String,
}

/// Whether the bytes begin as a backup does, whole or not.
pub fn is_backup(bytes: &[u8]) -> bool {
    let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let format = serde_json::from_slice::<Beginning>(first).map(|beginning| beginning.format);
    format.is_ok_and(|format| format.starts_with("keymoot-backup/"))
}

impl Backup {
    /// Writes it, its digest last.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let mut out = Hashing { out, sha256: Sha256::new() };
        out.line(&self.header)?;
        if let Some(manifest) = &self.last_good {
            out.line(&Line::LastGood(Base64Bytes::new(manifest.clone())))?;
        }
        for (key, value) in &self.records {
            out.line(&Line::Record { key: key.clone(), value: Base64Bytes::new(value.clone()) })?;
        }
        let digest = Digest::new(out.sha256.clone().finalize().into());
        out.line(&Line::Sha256(digest))?;
        out.out.flush()
    }

    /// Reads a whole file.
    ///
    /// # Errors
    /// [`BackupFileError`], for everything that is not exactly what [`Backup::write`] wrote.
    pub fn parse(bytes: &[u8]) -> Result<Self, BackupFileError> {
        let damaged = |what: &str| BackupFileError::Damaged(what.into());
        let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let Beginning { format } = serde_json::from_slice(first).map_err(|_| BackupFileError::NoBackup)?;
        if format != FORMAT {
            return Err(if format.starts_with("keymoot-backup/") {
                BackupFileError::OtherFormat(format.chars().take(40).collect())
            } else {
                BackupFileError::NoBackup
            });
        }
        // The last line, with nothing behind it.
        let whole = bytes.strip_suffix(b"\n").ok_or(BackupFileError::CutOff)?;
        let body_bytes = whole.iter().rposition(|byte| *byte == b'\n').ok_or(BackupFileError::CutOff)? + 1;
        let (body, last) = whole.split_at(body_bytes);
        let Ok(Line::Sha256(digest)) = serde_json::from_slice(last) else { return Err(BackupFileError::CutOff) };
        if Digest::new(Sha256::digest(body).into()) != digest {
            return Err(damaged("its content is not what its digest is over"));
        }
        let header: Header = serde_json::from_slice(first).map_err(|error| damaged(&error.to_string()))?;
        let mut backup = Self { header, last_good: None, records: Vec::new() };
        for line in body.split(|byte| *byte == b'\n').skip(1).filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line).map_err(|error| damaged(&error.to_string()))? {
                Line::LastGood(manifest) => backup.last_good = Some(manifest.to_vec()),
                Line::Record { key, value } => backup.records.push((key, value.to_vec())),
                Line::Sha256(_) => return Err(damaged("a digest stands in the middle")),
            }
        }
        if backup.records.len() != backup.header.records {
            return Err(damaged("it does not hold as many records as it says"));
        }
        if !backup.records.is_sorted_by(|(a, _), (b, _)| a < b) {
            return Err(damaged("its records are not ascending"));
        }
        Ok(backup)
    }
}

struct Hashing<W> {
    out: W,
    sha256: Sha256,
}

impl<W: Write> Hashing<W> {
    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        self.sha256.update(&bytes);
        self.out.write_all(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup() -> Backup {
        let header = Header {
            format: FORMAT.into(),
            keyring: "prod".parse().unwrap(),
            keyring_id: KeyringId::new([7; 8]),
            revision: 12,
            digest: Digest::new([9; 32]),
            made_at: Timestamp::UNIX_EPOCH,
            node: "db1".parse().unwrap(),
            records: 2,
        };
        let records = vec![("a/1".into(), b"\0\xff".to_vec()), ("b".into(), vec![])];
        Backup { header, last_good: Some(b"{}".to_vec()), records }
    }

    fn bytes(backup: &Backup) -> Vec<u8> {
        let mut bytes = Vec::new();
        backup.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_was_written_is_read_back() {
        for last_good in [None, Some(b"{}".to_vec())] {
            let backup = Backup { last_good, ..backup() };
            assert_eq!(Backup::parse(&bytes(&backup)), Ok(backup));
        }
    }

    #[test]
    fn a_backup_that_is_cut_off_or_altered_anywhere_is_refused() {
        let whole = bytes(&backup());
        for end in 0..whole.len() {
            assert!(Backup::parse(&whole[..end]).is_err(), "cut at {end}");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut altered = whole.clone();
                altered[at] ^= 1 << bit;
                assert!(Backup::parse(&altered).is_err(), "bit {bit} of byte {at}");
            }
        }
        assert!(Backup::parse(&[&whole[..], b"\n"].concat()).is_err());
        assert!(Backup::parse(&[&whole[..], &whole[..]].concat()).is_err());
    }

    #[test]
    fn a_format_of_another_build_is_named() {
        let text = String::from_utf8(bytes(&backup())).unwrap();
        let newer = text.replace(FORMAT, "keymoot-backup/2");
        assert!(is_backup(newer.as_bytes()));
        assert_eq!(Backup::parse(newer.as_bytes()), Err(BackupFileError::OtherFormat("keymoot-backup/2".into())));
        assert_eq!(Backup::parse(b"{\"revision\":1}"), Err(BackupFileError::NoBackup));
    }
}
