//! The audit log: hash-chained lines of canonical JSON.
//!
//! # Layout
//!
//! What a caller says is an [`Entry`]; a [`Chain`] makes the next line of it. A [`Line`] is one that was read and
//! whose own hash is right; a [`Verifier`] holds line after line against the chain, in bounded memory. A [`Head`] is
//! the end of a log at some time; a [`SignedHead`] kept elsewhere finds a tail that was cut off and a log that was
//! rebuilt, which no chain can find by itself.

mod entry;
mod head;
mod line;
mod verify;

pub use entry::{Entry, EntryError, Phase};
pub use head::{Head, SignedHead};
pub use line::{Line, LineError};
pub use verify::{Bad, Flaw, Report, TornTail, Verifier};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value as Json};
use sha2::{Digest as _, Sha256};

use crate::{Digest, KeyringId, NodeName, manifest::numbers_are_exact};

/// The longest line, without its line feed.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// The event of a line whose facts are a [`SignedHead`].
pub const CHECKPOINT: &str = "checkpoint";

/// The event of a line by which the daemon declares that lines are lost.
pub const LOG_LOST: &str = "log-lost";

/// `previous` of a line that has no line before it.
pub const NO_LINE: Digest = Digest::new([0; 32]);

/// Where a chain stands: its last line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tip {
    /// Its number; 0 where there is no line yet.
    pub seq: u64,
    /// Its `hash`.
    pub hash: Digest,
    /// SHA-256 of its bytes without the line feed: `previous` of the next.
    pub digest: Digest,
}

impl Tip {
    /// Before the first line.
    pub const START: Self = Self { seq: 0, hash: NO_LINE, digest: NO_LINE };

    /// After a line that was read.
    pub fn after(line: &Line) -> Self {
        Self { seq: line.seq(), hash: line.hash(), digest: line.digest() }
    }
}

/// One daemon's end of the log, from one boot on.
#[derive(Debug, Clone)]
pub struct Chain {
    node: NodeName,
    boot: String,
    tip: Tip,
}

/// A line that was made and is not yet part of the chain: [`Chain::advance`] once it is on disk.
#[derive(Debug, Clone)]
pub struct Made {
    /// The line with its line feed.
    pub bytes: Vec<u8>,
    /// Where the chain then stands.
    pub tip: Tip,
}

/// A line as it is written, but for its hash.
#[derive(Serialize)]
struct Unhashed<'a> {
    at: Timestamp,
    boot: &'a str,
    node: &'a NodeName,
    previous: Digest,
    seq: u64,
    #[serde(flatten)]
    entry: &'a Entry,
}

impl Chain {
    /// Goes on after `tip`, which is [`Tip::START`] for a new log.
    pub fn new(node: NodeName, boot: impl Into<String>, tip: Tip) -> Self {
        Self { node, boot: boot.into(), tip }
    }

    /// Where it stands.
    pub fn tip(&self) -> Tip {
        self.tip
    }

    /// What a checkpoint signs now; none while there is no line.
    pub fn head(&self, keyring_id: KeyringId) -> Option<Head> {
        let Tip { seq, hash, .. } = self.tip;
        (hash != NO_LINE).then(|| Head { keyring_id, node: self.node.clone(), seq, hash })
    }

    /// Makes the next line. The chain stays where it is: a line that could not be written never was.
    pub fn next(&self, at: Timestamp, entry: &Entry) -> Result<Made, EntryError> {
        entry.check()?;
        let seq = self.tip.seq.checked_add(1).ok_or(EntryError::Exhausted)?;
        let line = Unhashed { at, boot: &self.boot, node: &self.node, previous: self.tip.digest, seq, entry };
        let Json::Object(mut fields) = serde_json::to_value(&line)? else { return Err(EntryError::NotExact) };
        if !fields.values().all(numbers_are_exact) {
            return Err(EntryError::NotExact);
        }
        let hash = hash_without(&mut fields)?;
        fields.insert("hash".into(), Json::String(hash.to_string()));
        let mut bytes = serde_json_canonicalizer::to_vec(&fields)?;
        if bytes.len() > LINE_BYTES_MAX {
            return Err(EntryError::TooLong(bytes.len()));
        }
        let digest = digest_of(&bytes);
        bytes.push(b'\n');
        Ok(Made { bytes, tip: Tip { seq, hash, digest } })
    }

    /// The line is on disk.
    pub fn advance(&mut self, made: &Made) {
        self.tip = made.tip;
    }

    /// Lines up to `seq` are known to have been, and are gone: their numbers are not used again. The next line must
    /// be [`Entry::log_lost`].
    pub fn declare_lost(&mut self, seq: u64) {
        self.tip.seq = self.tip.seq.max(seq);
    }
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::new(Sha256::digest(bytes).into())
}

/// Takes `hash` out of a line's fields, and says what it must be.
fn hash_without(fields: &mut Map<String, Json>) -> Result<Digest, serde_json::Error> {
    fields.remove("hash");
    Ok(digest_of(&serde_json_canonicalizer::to_vec(fields)?))
}
