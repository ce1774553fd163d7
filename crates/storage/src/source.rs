//! A source: one column of a user's table, read in primary-key order and written by compare-and-swap.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use keymoot_types::{
    Digest, KeyName, KeyVersion, SourceName,
    associated_data::{ColumnValue, Template},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A chunk ends when it holds this much, however many rows were asked for.
pub(crate) const CHUNK_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Rows that one statement looks at where nobody says how long it may take.
const LOOKED_AT: usize = 10_000;

/// Where a column is and what is in it, as the configuration declares it.
#[derive(Clone)]
pub struct SourceSpec {
    /// Its name, such as `customers.ssn`.
    pub name: SourceName,
    /// `sqlite:///absolute/path`, `mysql://…`, later `postgres://…`. May hold a password: never printed.
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
    /// What is no value is plaintext, to be encrypted: a column that is taken over.
    pub adopt: bool,
    /// The user's own SQL of one number; above 0 the worker waits.
    pub throttle_query: Option<String>,
}

/// The longest that a `throttle_query` takes.
pub(crate) const THROTTLE_QUERY: Duration = Duration::from_secs(2);

/// What is said of a `throttle_query` that answers NULL, whatever the server.
pub(crate) const NO_NUMBER: &str = "throttle_query answers NULL; it must answer one number";

impl SourceSpec {
    /// Names what is declared, without a secret: of the address neither user nor password nor options. What is found or
    /// allowed of one column is not taken for another that was given its name.
    pub fn digest(&self) -> Digest {
        let address = self.url.split(['?', '#']).next().unwrap_or_default();
        let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
        let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
        let text = format!(
            "{scheme:?} {place:?} {:?} {:?} {:?} {} {:?}",
            self.table, self.id, self.column, self.key, self.associated_data
        );
        Digest::new(Sha256::digest(text).into())
    }
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

/// How much one statement may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Most {
    /// Rows that are answered.
    pub rows: usize,
    /// Rows that are looked at for it. Where every row is selected the two are the same, and the smaller counts.
    pub looked_at: usize,
}

/// What one statement read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The selected rows among those that were looked at, in primary-key order.
    pub rows: Vec<Row>,
    /// The last row that was looked at, behind which the next chunk begins. `None`: there was no row, so this is the
    /// end of the table.
    pub last: Option<RowId>,
}

impl Chunk {
    /// Of rows that are all selected.
    pub(crate) fn of_every(rows: Vec<Row>) -> Self {
        Self { last: rows.last().map(|row| row.id.clone()), rows }
    }

    /// Of the rows up to `end`, of which some may not have been answered any more.
    pub(crate) fn up_to(end: RowId, rows: Vec<Row>, rows_max: usize) -> Self {
        let bytes: usize = rows.iter().filter_map(|row| row.cell.bytes()).map(<[u8]>::len).sum();
        let is_full = rows.len() >= rows_max || bytes >= CHUNK_BYTES_MAX;
        let last = rows.last().filter(|_| is_full).map_or(end, |row| row.id.clone());
        Self { rows, last: Some(last) }
    }
}

/// What becomes of the rows of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Values become the primary's.
    Rekey,
    /// So does plaintext.
    Adopt,
    /// Values become plaintext.
    Release,
}

/// What is about to be written, which a preflight finds room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ahead {
    /// What becomes of the rows.
    pub task: Task,
    /// The version of the new values; `None`: nobody knows yet, and it is the one behind the column's newest.
    pub version: Option<KeyVersion>,
}

impl Ahead {
    /// As far as a declaration tells.
    pub fn of(spec: &SourceSpec) -> Self {
        Self { task: if spec.adopt { Task::Adopt } else { Task::Rekey }, version: None }
    }

    /// The version of values that must find room, if the column's newest is `newest`. Where nobody knows it, at least two
    /// digits: whoever skips a version comes to v10 sooner than by one.
    pub(crate) fn version_after(self, newest: Option<u64>) -> u64 {
        match self.version {
            Some(version) => version.get().into(),
            None => newest.unwrap_or(0).saturating_add(1).max(10),
        }
    }

    /// The same for what comes behind it: of a version that nobody knows yet.
    pub(crate) fn later(self) -> Self {
        Self { version: None, ..self }
    }
}

/// A warning of what will be a reason not to start, once there is a later version.
pub(crate) fn before_next(blocker: String) -> String {
    format!("before the next rotation: {blocker}")
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

/// How busy a source's server is. `None`: it does not say, or has no such thing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// How far its slowest replica is behind.
    pub replica_lag: Option<Duration>,
    /// Statements that others run at this moment.
    pub active: Option<u64>,
    /// Others that wait for a lock.
    pub lock_waits: Option<u64>,
    /// What [`SourceSpec::throttle_query`] answered.
    pub throttle_query: Option<f64>,
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

    /// The same by one who knows what is to be written.
    async fn preflight_for(&self, _ahead: Ahead) -> Result<Preflight, SourceError> {
        self.preflight().await
    }

    /// How many rows there are.
    async fn total(&self) -> Result<Total, SourceError>;

    /// Looks at the next rows behind `after` in primary-key order, as many as `most` says, whatever they hold: so a
    /// statement takes no longer where few rows are selected. The end of the table never stands for an error.
    async fn chunk(&self, after: Option<&RowId>, most: Most, select: &Selection) -> Result<Chunk, SourceError>;

    /// The next selected rows behind `after`, up to `rows_max`, in as many chunks as it takes to find one. An empty
    /// answer is the end of the table.
    async fn read(
        &self,
        after: Option<&RowId>,
        rows_max: usize,
        select: &Selection,
    ) -> Result<Vec<Row>, SourceError> {
        let most = Most { rows: rows_max, looked_at: rows_max.max(LOOKED_AT) };
        let mut found = self.chunk(after, most, select).await?;
        while let (true, Some(last)) = (found.rows.is_empty(), &found.last) {
            found = self.chunk(Some(last), most, select).await?;
        }
        Ok(found.rows)
    }

    /// The rows with these ids as they are now; `None` for those that are gone. Same order and number.
    async fn read_again(&self, ids: &[RowId]) -> Result<Vec<Option<Row>>, SourceError>;

    /// Writes a batch in one transaction, each row only if it is still as it was read. Same order and number.
    /// After an error none of the batch may be taken as written, nor as not written.
    async fn swap(&self, batch: &[Swap]) -> Result<Vec<Swapped>, SourceError>;

    /// How busy the server is, asked for beside the batches.
    async fn load(&self) -> Result<Load, SourceError> {
        Ok(Load::default())
    }

    /// Shows every row to `visit`, in one snapshot.
    async fn census(&self, visit: Visit<'_>) -> Result<Snapshot, SourceError>;
}
