//! What is to be done with one row. Pure but for the cipher: no store is touched here.

use std::sync::Arc;

use keymoot_keyring::{OpenError, RekeyError, SealError};
use keymoot_storage::source::{Cell, Row, RowId, Source, Swap};
use keymoot_types::{
    KeyName, KeyVersion, Value,
    value::{BINARY_PREFIX, TEXT_PREFIX, ValueError},
};
use serde::{Deserialize, Serialize};

use crate::keys::Service;

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
        }
    }
}

/// What a row is.
#[derive(Debug)]
pub(crate) enum Judged {
    Null,
    Empty,
    Foreign,
    /// Of the primary already.
    Current,
    /// To be rewritten so.
    Old(Box<Swap>),
    Unreadable(Unreadable),
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

/// Judges rows of one source with the keys of one moment.
#[derive(Clone)]
pub(crate) struct Judge {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) service: Service,
    pub(crate) dry_run: bool,
}

impl Judge {
    pub(crate) fn rows(&self, rows: Vec<Row>) -> Result<Vec<(RowId, Judged)>, Unjudged> {
        rows.into_iter().map(|row| Ok((row.id.clone(), self.row(row)?))).collect()
    }

    fn row(&self, row: Row) -> Result<Judged, Unjudged> {
        let bytes = match (&row.cell, row.cell.bytes()) {
            (Cell::Null, _) => return Ok(Judged::Null),
            // A number holds no value, whatever its digits.
            (_, None) => return Ok(Judged::Foreign),
            (_, Some([])) => return Ok(Judged::Empty),
            (_, Some(bytes)) => bytes,
        };
        let unreadable =
            |version, reason| Ok(Judged::Unreadable(Unreadable { id: row.id.clone(), version, reason }));
        let (value, form) = match Value::parse_bytes(bytes) {
            Ok(parsed) => parsed,
            Err(ValueError::NoPrefix) => return Ok(Judged::Foreign),
            Err(ValueError::UnsupportedFormat(_)) => {
                return unreadable(version_claimed(bytes), Reason::UnsupportedFormat);
            }
            Err(ValueError::NotCanonical(_) | ValueError::WrongLength) => {
                return unreadable(version_claimed(bytes), Reason::MalformedCiphertext);
            }
        };
        let version = value.version();
        if version == self.service.primary && !self.dry_run {
            return Ok(Judged::Current);
        }
        if !self.service.ring.holds(version) {
            return unreadable(Some(version), absent(&self.service, version));
        }
        let spec = self.source.spec();
        let column =
            |name: &str| row.columns.iter().find(|(column, _)| column == name).map(|(_, value)| value.clone());
        let Ok(associated_data) = spec.associated_data.fill(column) else {
            return unreadable(Some(version), Reason::AssociatedDataNull);
        };
        if version == self.service.primary {
            // Only a dry run looks into values that are to stay.
            return match self.service.ring.check(&spec.key, &value, &associated_data) {
                Ok(()) => Ok(Judged::Current),
                Err(error) => unreadable(Some(version), refused(&self.service, error)?),
            };
        }
        match self.service.ring.rekey(&spec.key, &value, &associated_data) {
            Ok(new) => {
                let new = row.cell.with_bytes(new.to_bytes(form));
                Ok(Judged::Old(Box::new(Swap { id: row.id, old: row.cell, new, columns: row.columns })))
            }
            Err(RekeyError::Open(error)) => unreadable(Some(version), refused(&self.service, error)?),
            Err(RekeyError::SelfCheck) => unreadable(Some(version), Reason::SelfCheckFailed),
            Err(RekeyError::Seal(SealError::TooLarge)) => unreadable(Some(version), Reason::TooLarge),
            Err(RekeyError::Seal(SealError::UnknownKey(key))) => Err(undeclared(&key)),
            Err(RekeyError::Seal(error @ (SealError::NoPrimary | SealError::Random(_)))) => {
                Err(Unjudged::Later(error.to_string()))
            }
        }
    }
}

fn absent(service: &Service, version: KeyVersion) -> Reason {
    if service.knows(version) { Reason::KeyVersionUnavailable } else { Reason::UnknownKeyVersion }
}

fn refused(service: &Service, error: OpenError) -> Result<Reason, Unjudged> {
    match error {
        OpenError::NotLoaded(version) => Ok(absent(service, version)),
        OpenError::WrongKind => Ok(Reason::MalformedCiphertext),
        OpenError::Authentication => Ok(Reason::AuthenticationFailed),
        OpenError::UnknownKey(key) => Err(undeclared(&key)),
    }
}

fn undeclared(key: &KeyName) -> Unjudged {
    Unjudged::Mistaken(format!("its key {key} is not declared"))
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
