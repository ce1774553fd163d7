//! What an error of PostgreSQL means to us.

use keymoot_types::SourceName;
use sqlx::postgres::PgDatabaseError;

use crate::{metadata::MetadataError, pool::Failure, source::SourceError};

/// `query_canceled`
const CANCELLED: &str = "57014";

/// Why a piece of work on a database was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Trying again later may help.
    Unreachable(String),
    /// What the database holds can't be trusted.
    Damaged(String),
    /// The statement does not fit the schema, or the role may not run it.
    Mistaken(String),
}

impl Failure for Fault {
    fn unreachable(reason: String) -> Self {
        Self::Unreachable(reason)
    }

    fn reason(&self) -> &str {
        match self {
            Self::Unreachable(reason) | Self::Damaged(reason) | Self::Mistaken(reason) => reason,
        }
    }
}

impl Fault {
    pub(super) fn for_source(self, name: &SourceName) -> SourceError {
        let name = name.clone();
        match self {
            Self::Unreachable(reason) => SourceError::Unreachable { name, reason },
            Self::Mistaken(reason) => SourceError::Mistaken { name, reason },
            Self::Damaged(reason) => {
                SourceError::Mistaken { name, reason: format!("the database is damaged: {reason}") }
            }
        }
    }
}

impl From<Fault> for MetadataError {
    fn from(fault: Fault) -> Self {
        match fault {
            // The tables are our own, and what an administrator took away can be given back.
            Fault::Unreachable(reason) | Fault::Mistaken(reason) => Self::Unavailable(reason),
            Fault::Damaged(reason) => Self::Damaged(reason),
        }
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => match error.try_downcast_ref::<PgDatabaseError>() {
                Some(error) => said(error),
                None => Self::Unreachable("the server answered with an error".into()),
            },
            error @ (sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) => {
                Self::Damaged(error.to_string())
            }
            error => Self::Unreachable(error.to_string()),
        }
    }
}

/// Whether the server ended a statement, as it took too long or was cancelled.
pub(super) fn took_too_long(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some(CANCELLED))
}

/// The `detail` of an error may quote a row, and so may anything that a function or a trigger says, under whatever code:
/// of those the code alone is shown.
fn said(error: &PgDatabaseError) -> Fault {
    let own = error.r#where().is_none();
    let names = [("constraint", error.constraint()), ("table", error.table())];
    let names = names.into_iter().filter_map(|(what, name)| Some(format!(", {what} {}", name?)));
    let names: String = if own { names.collect() } else { String::new() };
    // The numbers of transactions have run out until a vacuum: it is not this table that is too large.
    if error.code() == "54000" && matches!(error.routine(), Some("GetNewTransactionId" | "GetNewMultiXactId")) {
        return Fault::Unreachable(
            "the server takes no writes until its transaction ids are vacuumed (54000)".into(),
        );
    }
    of_code(error.code(), own.then(|| error.message()), &names)
}

/// What a code means. `message` where it is the server's own, `names` of what refused.
fn of_code(code: &str, message: Option<&str>, names: &str) -> Fault {
    let class = code.get(..2).unwrap_or_default();
    let reason = match message {
        Some(message) => format!("{message} ({code})"),
        None => format!("a function or a trigger fails ({code})"),
    };
    match (class, code) {
        (_, "XX001" | "XX002") => Fault::Damaged(reason),
        (_, "22001") => Fault::Mistaken(format!("the column is too narrow for a new value ({code}); widen it")),
        (_, "42501") => Fault::Mistaken(format!("{reason}: grant what the preflight prints")),
        (_, "25006") => Fault::Unreachable(format!(
            "{reason}: the server is a standby or read-only; name the primary in the url"
        )),
        (_, CANCELLED) => {
            Fault::Unreachable(format!("a statement was ended, as it took too long or was cancelled ({code})"))
        }
        (_, "40001" | "40P01" | "55P03") => {
            Fault::Unreachable(format!("another transaction was in the way ({code})"))
        }
        ("P0", _) => Fault::Mistaken(format!(
            "a trigger refuses the update ({code}); change the trigger or leave the column out"
        )),
        ("22", _) => Fault::Mistaken(format!("a value does not fit its column ({code})")),
        ("23", _) => Fault::Mistaken(format!("a constraint refuses a new value ({code}{names})")),
        // An index row that is too long, and whatever else is too much: waiting makes it no less.
        ("54", _) => Fault::Mistaken(format!("{reason}: drop the index, or leave the column out")),
        (_, "55000") => Fault::Mistaken(format!("the table can't be updated as it is: {reason}")),
        ("27" | "3F" | "42", _) => Fault::Mistaken(reason),
        // Connections, rights, room and the server's own state: these name no more than users, files and settings.
        ("08" | "25" | "28" | "3D" | "53" | "55" | "57" | "58", _) => Fault::Unreachable(reason),
        // What a function says by a code of its own it says again.
        _ if message.is_none() => Fault::Mistaken(format!("{reason}: change it, or leave the column out")),
        _ => Fault::Unreachable(format!("the server answered with error {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_passes_is_waited_for_and_one_that_stays_is_named_with_its_remedy() {
        for code in ["40P01", "55P03", "40001", "57014", "57P01", "25006", "53300", "53100", "08006", "28P01"] {
            assert!(matches!(of_code(code, Some("text"), ""), Fault::Unreachable(_)), "{code}");
        }
        let fault = of_code("A0001", None, "");
        assert!(matches!(&fault, Fault::Mistaken(reason) if reason.contains("change it")), "{fault:?}");
        for (code, remedy) in [("42P01", "text"), ("42703", "text"), ("42501", "grant"), ("22001", "widen")] {
            let fault = of_code(code, Some("text"), "");
            assert!(matches!(fault, Fault::Mistaken(_)) && fault.reason().contains(remedy), "{fault:?}");
        }
    }

    #[test]
    fn an_error_that_may_quote_a_row_is_told_by_its_code_and_names_alone() {
        for code in ["22P02", "22021", "22001", "P0001", "P0004", "23505", "23514", "XX000", "ZZ123", ""] {
            let fault = of_code(code, Some("content"), ", constraint short");
            assert!(!fault.reason().contains("content"), "{code}");
            assert_eq!(fault.reason().contains("constraint short"), code.starts_with("23"), "{code}");
        }
        assert_eq!(
            of_code("42501", None, "").reason(),
            "a function or a trigger fails (42501): grant what the preflight prints"
        );
    }
}
