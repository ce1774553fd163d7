//! A source: one column of a user's table, read in primary-key order and written by compare-and-swap.

use std::fmt;

use async_trait::async_trait;
use keymoot_types::{
    KeyName, SourceName,
    associated_data::{ColumnValue, Template},
};
use serde::{Deserialize, Serialize};

/// Where a column is and what is in it, as the configuration declares it.
#[derive(Clone)]
pub struct SourceSpec {
    /// Its name, such as `customers.ssn`.
    pub name: SourceName,
    /// `sqlite:///absolute/path`, later `postgres://…`, `mysql://…`. May hold a password: never printed.
    pub url: String,
    /// `customers`, or `schema.table`.
    pub table: String,
    /// The columns of the primary key, in order; never empty.
    pub id: Vec<String>,
    /// The column that holds values.
    pub column: String,
    /// The key of its values.
    pub key: KeyName,
    /// What binds a value to its row.
    pub associated_data: Template,
    /// Names of update triggers whose effects the operator accepts.
    pub accept_triggers: Vec<String>,
}

impl fmt::Debug for SourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceSpec({}: {}.{})", self.name, self.table, self.column)
    }
}

/// One column of a primary key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdPart {
    /// An integer.
    Integer(i64),
    /// Text, as stored.
    Text(String),
    /// A UUID, lower-case with hyphens.
    Uuid(String),
    /// Bytes.
    Bytes(#[serde(with = "hex_bytes")] Vec<u8>),
}

mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}", Hex(bytes)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }

    struct Hex<'a>(&'a [u8]);

    impl std::fmt::Display for Hex<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(&hex::encode(self.0))
        }
    }
}

/// A row's primary key: one part a column, in the order of [`SourceSpec::id`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RowId(pub Vec<IdPart>);

/// What the column of one row holds, as bytes and with the type that it is stored in.
#[derive(Clone, PartialEq, Eq)]
pub enum Cell {
    /// SQL's NULL.
    Null,
    /// Text, byte for byte as stored (it need not be UTF-8).
    Text(Vec<u8>),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A number or another type that holds no value; the type's name.
    Other(&'static str),
}

impl Cell {
    /// The bytes; `None` for NULL and for types that hold none.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Text(bytes) | Self::Bytes(bytes) => Some(bytes),
            Self::Null | Self::Other(_) => None,
        }
    }

    /// Other bytes in the type of this cell.
    pub fn with_bytes(&self, bytes: Vec<u8>) -> Self {
        match self {
            Self::Text(_) => Self::Text(bytes),
            _ => Self::Bytes(bytes),
        }
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::Text(bytes) => write!(f, "Text({} bytes)", bytes.len()),
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Self::Other(name) => write!(f, "Other({name})"),
        }
    }
}

/// One row as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its primary key.
    pub id: RowId,
    /// The value's column.
    pub cell: Cell,
    /// The columns that the associated data is made from, by name.
    pub columns: Vec<(String, ColumnValue)>,
}

/// A compare-and-swap of one row's column.
#[derive(Debug, Clone)]
pub struct Swap {
    /// Which row.
    pub id: RowId,
    /// Exactly what was read, compared byte for byte and by type.
    pub old: Cell,
    /// What to write.
    pub new: Cell,
    /// The columns that the new value's associated data was made from: they must still be as they were read.
    pub columns: Vec<(String, ColumnValue)>,
}

/// What became of a [`Swap`], known after the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swapped {
    /// Written and committed.
    Done,
    /// The row is gone or is no longer as it was read: nothing was written. Read it again.
    Lost,
}

/// Which rows a pass visits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All of them.
    Every,
    /// Those that begin with one of these byte strings: later passes look for old values only.
    Prefixes(Vec<Vec<u8>>),
}

/// How many rows a source has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    /// Rows.
    pub rows: u64,
    /// Counted, or a planner's estimate.
    pub exact: bool,
}

/// What the preflight found, before the first write.
#[derive(Debug, Clone, Default)]
pub struct Preflight {
    /// Reasons not to start, each with its remedy. Empty: the source may be rekeyed.
    pub blockers: Vec<String>,
    /// What an administrator should know.
    pub warnings: Vec<String>,
    /// Side effects of an update that were found (triggers accepted by name).
    pub side_effects: Vec<String>,
    /// The index that the primary-key order uses.
    pub index: Option<String>,
    /// The smallest grants that the job needs, to copy; empty where the database has none.
    pub grants: Vec<String>,
    /// Server or library version.
    pub server: String,
}

/// Why a source did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It does not answer, is locked or full. Nothing is known about its rows; try again later.
    #[error("source {name} can't be reached: {reason}")]
    Unreachable {
        /// The source.
        name: SourceName,
        /// Why, without the address's password.
        reason: String,
    },
    /// The table, the column or the primary key is not as declared. Trying again does not help.
    #[error("source {name} is not as declared: {reason}")]
    Mistaken {
        /// The source.
        name: SourceName,
        /// What is missing and what to do.
        reason: String,
    },
}

/// Receives every row of a census. It must not block for long: a snapshot is open meanwhile.
pub type Visit<'a> = &'a mut (dyn FnMut(&Cell) + Send);

/// What a census read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Rows visited.
    pub visited: u64,
    /// `COUNT(*)` in the same snapshot.
    pub counted: u64,
    /// Why older transactions might still write rows that this snapshot did not show; `None`: they can't.
    pub not_conclusive: Option<String>,
    /// The SQL to count again, by hand.
    pub sql: String,
    /// Server or library version.
    pub server: String,
}

/// One column of a user's table. Nothing but [`Source::swap`] ever writes to it.
#[async_trait]
pub trait Source: Send + Sync {
    /// The declaration that it was opened with.
    fn spec(&self) -> &SourceSpec;

    /// Looks for all that is wrong, before the first write. An `Err` is for a source that can't be looked at.
    async fn preflight(&self) -> Result<Preflight, SourceError>;

    /// How many rows there are.
    async fn total(&self) -> Result<Total, SourceError>;

    /// Up to `rows_max` rows behind `after` in primary-key order. An empty answer is the end of the table, and
    /// never stands for an error.
    async fn read(
        &self,
        after: Option<&RowId>,
        rows_max: usize,
        select: &Selection,
    ) -> Result<Vec<Row>, SourceError>;

    /// The rows with these ids as they are now; `None` for those that are gone. Same order and number.
    async fn read_again(&self, ids: &[RowId]) -> Result<Vec<Option<Row>>, SourceError>;

    /// Writes a batch in one transaction, each row only if it is still as it was read. Same order and number.
    /// After an error none of the batch may be taken as written, nor as not written.
    async fn swap(&self, batch: &[Swap]) -> Result<Vec<Swapped>, SourceError>;

    /// Shows every row to `visit`, in one snapshot.
    async fn census(&self, visit: Visit<'_>) -> Result<Snapshot, SourceError>;
}
