//! What an error of SQLite means to us.

use std::{io, path::Path};

use keymoot_types::SourceName;
use rusqlite::{ErrorCode, ffi};

use super::BUSY_TIMEOUT;
use crate::{metadata::MetadataError, source::SourceError};

/// Why a piece of work on a database was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Trying again later may help.
    Unreachable(String),
    /// The file is not what SQLite wrote.
    Damaged(String),
    /// The statement does not fit the schema.
    Mistaken(String),
}

impl Fault {
    /// A file that the operating system does not give us.
    pub(super) fn io(doing: &str, path: &Path, error: &io::Error) -> Self {
        Self::Unreachable(format!("can't {doing} {}: {error}", path.display()))
    }

    pub(super) fn for_source(self, name: &SourceName) -> SourceError {
        let name = name.clone();
        match self {
            Self::Unreachable(reason) => SourceError::Unreachable { name, reason },
            Self::Mistaken(reason) => SourceError::Mistaken { name, reason },
            Self::Damaged(reason) => {
                SourceError::Mistaken { name, reason: format!("the file is damaged: {reason}") }
            }
        }
    }
}

impl From<Fault> for MetadataError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unreachable(reason) => Self::Unavailable(reason),
            // The schema is our own: what does not fit it was changed by somebody else.
            Fault::Damaged(reason) | Fault::Mistaken(reason) => Self::Damaged(reason),
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::SqliteFailure(code, message) => failure(code, message.as_deref()),
            // The statement's own text adds nothing to the message.
            rusqlite::Error::SqlInputError { error, msg, .. } => failure(error, Some(&msg)),
            rusqlite::Error::NulError(_) => Self::Mistaken("a name holds a NUL character".into()),
            other => Self::Damaged(other.to_string()),
        }
    }
}

fn failure(code: ffi::Error, message: Option<&str>) -> Fault {
    let message = message.unwrap_or("no message");
    let extended = code.extended_code;
    match code.code {
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Fault::Damaged(format!("{message} ({extended})")),
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
            Fault::Unreachable(format!("another connection held the lock for {} s", BUSY_TIMEOUT.as_secs()))
        }
        ErrorCode::DiskFull => Fault::Unreachable("the disk is full".into()),
        ErrorCode::ReadOnly => Fault::Unreachable(format!("the file or its directory is read-only ({extended})")),
        ErrorCode::OperationInterrupted => Fault::Unreachable("it was stopped, as it took too long".into()),
        // RAISE can put a row's content into its message.
        ErrorCode::ConstraintViolation if extended == ffi::SQLITE_CONSTRAINT_TRIGGER => {
            Fault::Mistaken("a trigger refuses the update; change the trigger or leave the column out".into())
        }
        ErrorCode::ConstraintViolation => {
            Fault::Mistaken(format!("a constraint refuses the new value: {message}"))
        }
        ErrorCode::Unknown => Fault::Mistaken(message.to_owned()),
        _ => Fault::Unreachable(format!("{message} ({extended})")),
    }
}
