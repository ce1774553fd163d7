//! One line, read.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::{CHECKPOINT, LINE_BYTES_MAX, LOG_LOST, Phase, SignedHead, digest_of, entry::is_word, hash_without};
use crate::{Digest, NodeName};

/// A line that is in its one form and whose own hash is right. Whether it stands at its place is the
/// [`super::Verifier`]'s to say.
#[derive(Debug, Clone)]
pub struct Line {
    fields: Fields,
    digest: Digest,
}

#[derive(Debug, Clone, Deserialize)]
struct Fields {
    seq: u64,
    at: Timestamp,
    node: NodeName,
    boot: String,
    event: String,
    phase: Phase,
    who: Option<String>,
    from: Option<IpAddr>,
    request: Option<String>,
    facts: Map<String, Json>,
    previous: Digest,
    hash: Digest,
}

/// Why bytes are no line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Longer than any line that is written.
    #[error("it is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// Not JSON, or not of a record's shape.
    #[error("it is no record: {0}")]
    NotARecord(String),
    /// The same could be said in other bytes.
    #[error("it is not in canonical form")]
    NotCanonical,
    /// Something in it is not what was hashed.
    #[error("it was altered: its content does not have the hash that it names")]
    Altered,
}

impl Line {
    /// Reads a line, without its line feed.
    pub fn parse(bytes: &[u8]) -> Result<Self, LineError> {
        if bytes.len() > LINE_BYTES_MAX {
            return Err(LineError::TooLong);
        }
        let not_a_record = |error: serde_json::Error| LineError::NotARecord(error.to_string());
        let fields: Fields = serde_json::from_slice(bytes).map_err(not_a_record)?;
        if !is_word(&fields.event) {
            return Err(LineError::NotARecord("its event is not a word".into()));
        }
        let mut json: Map<String, Json> = serde_json::from_slice(bytes).map_err(not_a_record)?;
        if serde_json_canonicalizer::to_vec(&json).map_err(not_a_record)? != bytes {
            return Err(LineError::NotCanonical);
        }
        if hash_without(&mut json).map_err(not_a_record)? != fields.hash {
            return Err(LineError::Altered);
        }
        Ok(Self { fields, digest: digest_of(bytes) })
    }

    /// Its number.
    pub fn seq(&self) -> u64 {
        self.fields.seq
    }

    /// When.
    pub fn at(&self) -> Timestamp {
        self.fields.at
    }

    /// Whose log.
    pub fn node(&self) -> &NodeName {
        &self.fields.node
    }

    /// The daemon's boot.
    pub fn boot(&self) -> &str {
        &self.fields.boot
    }

    /// What.
    pub fn event(&self) -> &str {
        &self.fields.event
    }

    /// How far.
    pub fn phase(&self) -> Phase {
        self.fields.phase
    }

    /// By whose token.
    pub fn who(&self) -> Option<&str> {
        self.fields.who.as_deref()
    }

    /// From where.
    pub fn from(&self) -> Option<IpAddr> {
        self.fields.from
    }

    /// What joins the lines of one request.
    pub fn request(&self) -> Option<&str> {
        self.fields.request.as_deref()
    }

    /// What else is known.
    pub fn facts(&self) -> &Map<String, Json> {
        &self.fields.facts
    }

    /// SHA-256 of the bytes of the line before.
    pub fn previous(&self) -> Digest {
        self.fields.previous
    }

    /// SHA-256 of this line's canonical JSON without `hash`.
    pub fn hash(&self) -> Digest {
        self.fields.hash
    }

    /// SHA-256 of this line's bytes without the line feed: `previous` of the next.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The signed head of a checkpoint: none of another line, an error where it can't be read.
    pub fn checkpoint(&self) -> Option<Result<SignedHead, serde_json::Error>> {
        (self.event() == CHECKPOINT).then(|| SignedHead::deserialize(self.facts()))
    }

    /// The head that a [`LOG_LOST`] line remembers, if it names one, likewise.
    pub fn remembered(&self) -> Option<Result<SignedHead, serde_json::Error>> {
        let remembered = self.facts().get("remembered").filter(|_| self.event() == LOG_LOST)?;
        Some(SignedHead::deserialize(remembered))
    }
}
