//! What is to be done with one row. Pure but for the cipher: no store is touched here.

use std::sync::Arc;

use keymoot_keyring::{OpenError, RekeyError, SealError};
use keymoot_storage::source::{Cell, Row, RowId, Source, Swap, Task};
use keymoot_types::{
    KeyName, KeyVersion, Value,
    value::{BINARY_PREFIX, Form, TEXT_PREFIX, ValueError},
};
use serde::{Deserialize, Serialize};

use crate::{job::Counters, keys::Service};

/// Why a row is in quarantine. Never says what the row holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It begins as a value does and is not one.
    MalformedCiphertext,
    /// A body byte that this build does not know: a newer writer, or junk.
    UnsupportedFormat,
    /// Nothing here has heard of that version.
    UnknownKeyVersion,
    /// The version exists and is not loaded here.
    KeyVersionUnavailable,
    /// The key is there, and the value does not authenticate: damaged, moved from another row, or declared
    /// with another key or template than it was written with.
    AuthenticationFailed,
    /// A column that the associated data is made from is NULL.
    AssociatedDataNull,
    /// The new value did not decrypt to what the old one did; it was not written.
    SelfCheckFailed,
    /// The plaintext is over the limit of a value.
    TooLarge,
    /// A number or another type in a column that is to be encrypted.
    NotTextOrBytes,
    /// Plaintext with a value inside: encrypted, that value would be hidden from every count.
    EmbeddedValue,
    /// What the value holds begins as a value does; written in clear it would be taken for one.
    LooksLikeValue,
    /// What the value holds is no text, and its column is.
    NotText,
    /// A wrapped data key is never written in clear.
    DataKey,
}

impl Reason {
    /// The reason as the interfaces spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MalformedCiphertext => "malformed_ciphertext",
            Self::UnsupportedFormat => "unsupported_format",
            Self::UnknownKeyVersion => "unknown_key_version",
            Self::KeyVersionUnavailable => "key_version_unavailable",
            Self::AuthenticationFailed => "authentication_failed",
            Self::AssociatedDataNull => "associated_data_null",
            Self::SelfCheckFailed => "self_check_failed",
            Self::TooLarge => "too_large",
            Self::NotTextOrBytes => "not_text_or_bytes",
            Self::EmbeddedValue => "embedded_value",
            Self::LooksLikeValue => "looks_like_value",
            Self::NotText => "not_text",
            Self::DataKey => "data_key",
        }
    }
}

/// What a row is.
#[derive(Debug)]
pub(crate) enum Judged {
    Null,
    Empty,
    Foreign,
    /// As it should be already.
    Current,
    /// To be rewritten so: a value of an old version, or plaintext that is adopted, or a value that is released.
    Old(Box<Swap>),
    Unreadable(Unreadable),
}

/// What many rows are.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    /// Those that need no write.
    pub(crate) counters: Counters,
    pub(crate) swaps: Vec<Swap>,
    pub(crate) unreadable: Vec<Unreadable>,
}

/// A row that stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) id: RowId,
    pub(crate) version: Option<KeyVersion>,
    pub(crate) reason: Reason,
}

/// Why no row can be judged, through no fault of the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unjudged {
    /// Worth another try.
    Later(String),
    /// The declaration is wrong.
    Mistaken(String),
}

/// Why a row is not to be written.
#[derive(Debug)]
pub(crate) enum Stays {
    /// For a reason of its own.
    Unreadable(Reason),
    /// Nothing can be judged now.
    Unjudged(Unjudged),
}

impl From<Reason> for Stays {
    fn from(reason: Reason) -> Self {
        Self::Unreadable(reason)
    }
}

/// Judges rows of one source with the keys of one moment.
#[derive(Clone)]
pub(crate) struct Judge {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) service: Service,
    task: Task,
    dry_run: bool,
}

impl Judge {
    pub(crate) fn new(source: Arc<dyn Source>, service: Service, dry_run: bool) -> Result<Self, Unjudged> {
        let task = service.task(source.spec()).map_err(Unjudged::Mistaken)?;
        Ok(Self { source, service, task, dry_run })
    }

    pub(crate) fn rows(&self, rows: Vec<Row>) -> Result<Judgement, Unjudged> {
        let mut judgement = Judgement { swaps: Vec::with_capacity(rows.len()), ..Judgement::default() };
        let counters = &mut judgement.counters;
        for row in rows {
            match self.row(row)? {
                Judged::Null => counters.null += 1,
                Judged::Empty => counters.empty += 1,
                Judged::Foreign => counters.foreign += 1,
                Judged::Current => counters.current += 1,
                Judged::Old(swap) => judgement.swaps.push(*swap),
                Judged::Unreadable(row) => judgement.unreadable.push(row),
            }
        }
        Ok(judgement)
    }

    fn row(&self, row: Row) -> Result<Judged, Unjudged> {
        let bytes = match (&row.cell, row.cell.bytes()) {
            (Cell::Null, _) => return Ok(Judged::Null),
            // A number holds no value, whatever its digits.
            (_, None) => &[],
            (_, Some([])) => return Ok(Judged::Empty),
            (_, Some(bytes)) => bytes,
        };
        let (value, form) = match Value::parse_bytes(bytes) {
            Ok(parsed) => parsed,
            Err(ValueError::NoPrefix) if self.task == Task::Adopt => {
                let new = self.adopted(&row);
                return written(row, None, new);
            }
            Err(ValueError::NoPrefix) => return Ok(Judged::Foreign),
            Err(error) => {
                let reason = match error {
                    ValueError::UnsupportedFormat(_) => Reason::UnsupportedFormat,
                    _ => Reason::MalformedCiphertext,
                };
                let version = version_claimed(bytes);
                return written(row, version, Err(reason.into()));
            }
        };
        let version = value.version();
        let new = match self.new_value(&row, &value, form) {
            Ok(None) => return Ok(Judged::Current),
            Ok(Some(new)) => Ok(new),
            Err(stays) => Err(stays),
        };
        written(row, Some(version), new)
    }

    /// What is to be written instead of a value; `None`: it stays.
    fn new_value(&self, row: &Row, value: &Value, form: Form) -> Result<Option<Cell>, Stays> {
        let (spec, version) = (self.source.spec(), value.version());
        let stays = version == self.service.primary && self.task != Task::Release;
        // Only a dry run looks into values that are to stay.
        if stays && !self.dry_run {
            return Ok(None);
        }
        if !self.service.ring.holds(version) {
            return Err(absent(&self.service, version).into());
        }
        let associated_data = self.associated_data(row)?;
        if stays {
            let checked = self.service.ring.check(&spec.key, value, &associated_data);
            return checked.map(|()| None).map_err(|error| self.not_opened(error));
        }
        if self.task == Task::Release {
            return self.released(&row.cell, value, &associated_data).map(Some);
        }
        let new = self.service.ring.rekey(&spec.key, value, &associated_data);
        let new = new.map_err(|error| self.not_rekeyed(error))?;
        Ok(Some(row.cell.with_bytes(new.to_bytes(form))))
    }

    pub(crate) fn associated_data(&self, row: &Row) -> Result<Vec<u8>, Stays> {
        let column =
            |name: &str| row.columns.iter().find(|(column, _)| column == name).map(|(_, value)| value.clone());
        self.source.spec().associated_data.fill(column).map_err(|_| Reason::AssociatedDataNull.into())
    }

    pub(crate) fn not_opened(&self, error: OpenError) -> Stays {
        match error {
            OpenError::NotLoaded(version) => absent(&self.service, version).into(),
            OpenError::WrongKind => Reason::MalformedCiphertext.into(),
            OpenError::Authentication => Reason::AuthenticationFailed.into(),
            OpenError::UnknownKey(key) => undeclared(&key),
        }
    }

    pub(crate) fn not_rekeyed(&self, error: RekeyError) -> Stays {
        match error {
            RekeyError::Open(error) => self.not_opened(error),
            RekeyError::SelfCheck => Reason::SelfCheckFailed.into(),
            RekeyError::Seal(SealError::TooLarge) => Reason::TooLarge.into(),
            RekeyError::Seal(SealError::UnknownKey(key)) => undeclared(&key),
            RekeyError::Seal(error @ (SealError::NoPrimary | SealError::Random(_))) => {
                Stays::Unjudged(Unjudged::Later(error.to_string()))
            }
        }
    }
}

fn written(row: Row, version: Option<KeyVersion>, new: Result<Cell, Stays>) -> Result<Judged, Unjudged> {
    match new {
        Ok(new) => Ok(Judged::Old(Box::new(Swap { id: row.id, old: row.cell, new, columns: row.columns }))),
        Err(Stays::Unreadable(reason)) => Ok(Judged::Unreadable(Unreadable { id: row.id, version, reason })),
        Err(Stays::Unjudged(unjudged)) => Err(unjudged),
    }
}

fn absent(service: &Service, version: KeyVersion) -> Reason {
    if service.knows(version) { Reason::KeyVersionUnavailable } else { Reason::UnknownKeyVersion }
}

fn undeclared(key: &KeyName) -> Stays {
    Stays::Unjudged(Unjudged::Mistaken(format!("its key {key} is not declared")))
}

/// The version that bytes name which are otherwise no value.
fn version_claimed(bytes: &[u8]) -> Option<KeyVersion> {
    if let Some(rest) = bytes.strip_prefix(BINARY_PREFIX) {
        return KeyVersion::new(u32::from_be_bytes(*rest.first_chunk::<4>()?)).ok();
    }
    let rest = bytes.strip_prefix(TEXT_PREFIX.as_bytes())?;
    let version = rest.split(|byte| *byte == b':').next()?;
    std::str::from_utf8(version).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_value_still_names_its_version() {
        assert_eq!(version_claimed(b"km:v9:!!").map(KeyVersion::get), Some(9));
        assert_eq!(version_claimed(b"KM\x01\0\0\0\x0arest").map(KeyVersion::get), Some(10));
        for none in [&b"km:v09:AA"[..], b"km:v:", b"KM\x01\0\0", b"KM\x01\0\0\0\0", b"x"] {
            assert_eq!(version_claimed(none), None);
        }
    }
}
