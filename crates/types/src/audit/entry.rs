//! What a caller says happened.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::{CHECKPOINT, LOG_LOST, SignedHead};

/// The longest text in a line, in bytes. What is longer is cut, and ends in `…`: what somebody sends must never keep
/// the line from being written.
const TEXT_BYTES_MAX: usize = 1024;
const WORD_BYTES_MAX: usize = 64;

/// How far the deed is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It is about to be tried.
    Intent,
    /// It is done.
    Done,
    /// It was refused, and nothing changed.
    Refused,
    /// It was tried and failed.
    Failed,
    /// Nothing was asked for: the daemon says so by itself.
    Note,
}

/// One record, but for what the chain adds: number, time, node and hashes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    event: String,
    phase: Phase,
    #[serde(skip_serializing_if = "Option::is_none")]
    who: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    facts: Map<String, Json>,
}

/// Why an entry is no line.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// The event, or a fact, has no plain name.
    #[error("{0:?} is not a word of a-z, 0-9, - and _ that begins with a letter")]
    NotAWord(String),
    /// A number that canonical JSON would change.
    #[error("a number is beyond 2^53, where canonical JSON is not exact")]
    NotExact,
    /// More than a line holds.
    #[error("the line has {0} bytes, and at most {max} are allowed", max = super::LINE_BYTES_MAX)]
    TooLong(usize),
    /// There is no next number.
    #[error("the log has no number left")]
    Exhausted,
    /// It has no canonical form.
    #[error("it has no canonical form: {0}")]
    Json(#[from] serde_json::Error),
}

impl Entry {
    /// `event` is a kebab-case word.
    pub fn new(event: impl Into<String>, phase: Phase) -> Self {
        Self { event: event.into(), phase, who: None, from: None, request: None, facts: Map::new() }
    }

    /// A checkpoint: the facts are the signed head.
    pub fn checkpoint(signed: &SignedHead) -> Result<Self, EntryError> {
        let mut entry = Self::new(CHECKPOINT, Phase::Note);
        if let Json::Object(facts) = serde_json::to_value(signed)? {
            entry.facts = facts;
        }
        Ok(entry)
    }

    /// Lines are gone, as `remembered` shows where it is known; see [`super::Chain::declare_lost`].
    pub fn log_lost(remembered: Option<&SignedHead>, reason: impl Into<String>) -> Result<Self, EntryError> {
        let entry = Self::new(LOG_LOST, Phase::Note).fact("reason", reason.into());
        Ok(match remembered {
            Some(signed) => entry.fact("remembered", serde_json::to_value(signed)?),
            None => entry,
        })
    }

    /// The same in another phase: what was intended is done, or failed.
    pub fn in_phase(mut self, phase: Phase) -> Self {
        self.phase = phase;
        self
    }

    /// Name of the token.
    pub fn who(mut self, name: impl Into<String>) -> Self {
        self.who = Some(bounded(name.into()));
        self
    }

    /// Where it came from.
    pub fn from(mut self, address: IpAddr) -> Self {
        self.from = Some(address.to_canonical());
        self
    }

    /// What joins the lines of one request.
    pub fn request(mut self, id: impl Into<String>) -> Self {
        self.request = Some(bounded(id.into()));
        self
    }

    /// Adds a fact, or replaces the one of that name.
    pub fn fact(mut self, name: impl Into<String>, value: impl Into<Json>) -> Self {
        self.facts.insert(name.into(), bounded_json(value.into()));
        self
    }

    /// Its event.
    pub fn event(&self) -> &str {
        &self.event
    }

    /// Its phase.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub(super) fn check(&self) -> Result<(), EntryError> {
        let names = std::iter::once(&self.event).chain(self.facts.keys());
        match names.into_iter().find(|name| !is_word(name)) {
            Some(bad) => Err(EntryError::NotAWord(bounded(bad.clone()))),
            None => Ok(()),
        }
    }
}

pub(super) fn is_word(text: &str) -> bool {
    let of_a_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    text.len() <= WORD_BYTES_MAX
        && text.as_bytes().first().is_some_and(u8::is_ascii_lowercase)
        && text.bytes().all(of_a_word)
}

fn bounded(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        let fits = TEXT_BYTES_MAX - '…'.len_utf8();
        let end = (0..=fits).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
        text.push('…');
    }
    text
}

fn bounded_json(value: Json) -> Json {
    match value {
        Json::String(text) => Json::String(bounded(text)),
        Json::Array(items) => items.into_iter().map(bounded_json).collect(),
        Json::Object(fields) => {
            fields.into_iter().map(|(name, value)| (bounded(name), bounded_json(value))).collect()
        }
        plain => plain,
    }
}
