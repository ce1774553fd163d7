//! What an error of the server means to us.

use keymoot_types::SourceName;
use sqlx::mysql::MySqlDatabaseError;

use crate::{pool::Failure, source::SourceError};

/// Why a piece of work on a database was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Trying again later may help.
    Unreachable(String),
    /// The table or the rights are not as declared.
    Mistaken(String),
}

impl Failure for Fault {
    fn unreachable(reason: String) -> Self {
        Self::Unreachable(reason)
    }

    fn reason(&self) -> &str {
        match self {
            Self::Unreachable(reason) | Self::Mistaken(reason) => reason,
        }
    }
}

impl Fault {
    pub(super) fn for_source(self, name: &SourceName) -> SourceError {
        let name = name.clone();
        match self {
            Self::Unreachable(reason) => SourceError::Unreachable { name, reason },
            Self::Mistaken(reason) => SourceError::Mistaken { name, reason },
        }
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => match error.try_downcast_ref::<MySqlDatabaseError>() {
                Some(error) => said(error.number(), error.code().unwrap_or_default(), error.message()),
                None => Self::Unreachable("the server answered with an error".into()),
            },
            // What could not be decoded may be quoted in it.
            sqlx::Error::ColumnDecode { index, .. } => {
                Self::Mistaken(format!("column {index} of an answer has another type than the table said"))
            }
            error => Self::Unreachable(error.to_string()),
        }
    }
}

/// Messages may quote a row's contents, so that only those are shown that name tables, columns, users or settings. A
/// trigger may raise anything under any number, with a state that is not the server's.
fn said(number: u16, state: &str, message: &str) -> Fault {
    if state.starts_with("45") || matches!(number, 1643 | 1644) {
        return Fault::Mistaken(format!(
            "a trigger refuses the update ({number}); change the trigger or leave the column out"
        ));
    }
    let shown = format!("{message} ({number})");
    match number {
        // No such database, column, table, or one behind a view; rights that are missing.
        1049 | 1054 | 1146 | 1356 => Fault::Mistaken(format!("{shown}; correct the source's declaration")),
        1104 | 1176 => Fault::Mistaken(format!("{shown}; let the index of the id be used, and large joins be run")),
        1038 => Fault::Mistaken(format!("{shown}; make an index that has the rows in the order of their ids")),
        1044 | 1142 | 1143 | 1227 | 1370 => {
            Fault::Mistaken(format!("{shown}; the preflight prints the grants that are needed"))
        }
        1153 => Fault::Mistaken(format!("raise max_allowed_packet above the longest value ({number})")),
        1406 | 1265 => Fault::Mistaken(format!(
            "a new value is too long for its column ({number}); nothing was written. Make the column wider"
        )),
        1366 => Fault::Mistaken(format!(
            "a new value does not fit the column's character set, or a generated column that is made from it ({number}); use \
             utf8mb4, or drop the generated column"
        )),
        1264 | 1292 | 1365 => Fault::Mistaken(format!(
            "a new value does not fit its column, or a generated column that is made from it ({number}); drop the generated \
             column"
        )),
        1118 | 139 | 1713 => Fault::Mistaken(format!(
            "a row or its index would become too long ({number}); make the column TEXT or BLOB in ROW_FORMAT=DYNAMIC, and \
             drop indexes on it"
        )),
        1048 | 1364 | 1442 | 1526 | 1690 | 1748 | 4037 | 4038 => Fault::Mistaken(format!(
            "what hangs on the column, such as a trigger, a generated column or a partition, refuses a new value ({number}); \
             drop it or leave the column out"
        )),
        1062 | 1216 | 1217 | 1451 | 1452 | 3819 | 4025 => {
            Fault::Mistaken(format!("a constraint of the table refuses a new value ({number}); drop it"))
        }
        // A trigger, a constraint or what they call.
        1305 | 1318 | 1449 => Fault::Mistaken(format!("{shown}; mend what names it, or drop it")),
        1172 | 1242 | 1267 | 1270 | 1271 => Fault::Mistaken(format!(
            "what hangs on the column, such as a trigger or a constraint, can't be computed ({number}); mend it, drop it or \
             leave the column out"
        )),
        1064 | 1235 => Fault::Mistaken(format!("the server does not know a statement ({number}); it is too old")),
        1665 => Fault::Mistaken(
            "binlog_format is STATEMENT, which forbids READ COMMITTED; set it to ROW or MIXED (1665)".into(),
        ),
        4165 => Fault::Mistaken(
            "the cluster does not replicate an update of many rows at once: give the table a primary key, and set \
             wsrep_max_ws_rows and wsrep_max_ws_size to their defaults (4165)"
                .into(),
        ),
        1205 | 1213 => Fault::Unreachable(format!("another transaction was in the way ({number})")),
        1290 | 1792 | 1836 => Fault::Unreachable(format!("the server is read-only ({number})")),
        1028 | 1317 | 1927 | 1969 | 3024 => Fault::Unreachable(format!("a statement was stopped ({number})")),
        1461 => Fault::Unreachable("max_prepared_stmt_count is reached; raise it (1461)".into()),
        // Full, refused, not yet prepared, going down, out of connections.
        1021 | 1040 | 1041 | 1045 | 1047 | 1053 | 1114 | 1129 | 1130 | 1158..=1161 | 1203 | 1226 | 2006 | 2013 => {
            Fault::Unreachable(shown)
        }
        _ => Fault::Unreachable(format!("the server answered with error {number}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_may_quote_a_row_is_told_by_its_number_alone() {
        let own = [1062, 1205, 1213, 1265, 1366, 1292, 1406, 1643, 1644, 1690, 1969, 1242, 1267, 9999]
            .map(|number| (number, "HY000"));
        for (number, state) in own.into_iter().chain([1146, 1114, 1205].map(|number| (number, "45000"))) {
            let (Fault::Unreachable(reason) | Fault::Mistaken(reason)) =
                said(number, state, "near 'km:v9:secret'");
            assert!(!reason.contains("secret"), "{number}: {reason}");
        }
        assert!(matches!(said(1213, "40001", "Deadlock found"), Fault::Unreachable(_)));
        assert!(matches!(said(1047, "08S01", "WSREP has not yet prepared node"), Fault::Unreachable(_)));
        let full = said(1461, "42000", "Can't create more than max_prepared_stmt_count statements");
        assert!(matches!(full, Fault::Unreachable(reason) if reason.contains("raise it")));
        assert!(matches!(said(1265, "01000", "Data truncated for column 'c' at row 1"), Fault::Mistaken(_)));
    }
}
