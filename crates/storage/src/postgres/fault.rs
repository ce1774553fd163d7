//! What an error of PostgreSQL means to us.

use crate::metadata::MetadataError;

/// Why a piece of work on a database was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Trying again later may help.
    Unreachable(String),
    /// What the database holds can't be trusted.
    Damaged(String),
}

impl From<Fault> for MetadataError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unreachable(reason) => Self::Unavailable(reason),
            Fault::Damaged(reason) => Self::Damaged(reason),
        }
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => {
                // Its `detail` may quote a row, so that only the message is shown.
                let code = error.code().unwrap_or_default();
                let reason = format!("{} ({code})", error.message());
                if matches!(&*code, "XX001" | "XX002") { Self::Damaged(reason) } else { Self::Unreachable(reason) }
            }
            error @ (sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) => {
                Self::Damaged(error.to_string())
            }
            error => Self::Unreachable(error.to_string()),
        }
    }
}
