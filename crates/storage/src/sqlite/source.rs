use std::{fs, io, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use rusqlite::{Connection, OpenFlags, TransactionBehavior, params_from_iter, types::ValueRef};

use super::{
    BUSY_TIMEOUT,
    bind::{self, Parameter},
    census,
    fault::Fault,
    preflight,
    session::{History, Session},
    sql::Sql,
};
use crate::{
    behind_prefix,
    open::source_path,
    read_back::{altered, is_held, last_written, refuse_unaccepted},
    source::{
        CHUNK_BYTES_MAX, Chunk, Load, Most, NO_NUMBER, Preflight, Row, RowId, Selection, Snapshot, Source,
        SourceError, SourceSpec, Swap, Swapped, THROTTLE_QUERY, Total, Visit,
    },
};

/// The longest that a call takes which knows its rows.
const LIMIT: Duration = Duration::from_secs(60);

/// The longest that a call takes which may have to look at the whole table.
pub(super) const LIMIT_SCAN: Duration = Duration::from_secs(1800);

/// A column of a user's SQLite file.
///
/// The file is opened at the first use, and anew after an error or when it was replaced. It is never made, and
/// its journal mode and schema are never changed.
///
/// A row whose id is NULL, REAL or no UTF-8 stops a read with [`SourceError::Mistaken`]. A column of the associated
/// data that holds a REAL, or text that is no UTF-8, is left out of [`Row::columns`].
pub struct SqliteSource {
    declared: Arc<Declared>,
    session: Session,
    /// Chunks are read beside: else no reading would go on while others write.
    reading: Session,
    /// The administrator's query is asked beside both, and can change nothing.
    asking: Arc<Session>,
}

struct Declared {
    spec: SourceSpec,
    sql: Sql,
}

impl SqliteSource {
    /// The source that `spec` declares, at `sqlite:///absolute/path`.
    ///
    /// # Errors
    /// [`SourceError::Mistaken`] for another address and for an empty id. Whether the file is there, only its use
    /// can tell.
    pub fn open(spec: SourceSpec) -> Result<Self, SourceError> {
        let mistaken = |reason: String| SourceError::Mistaken { name: spec.name.clone(), reason };
        let path = source_path(&spec.url).map_err(|error| mistaken(error.to_string()))?;
        if spec.id.is_empty() {
            return Err(mistaken("it has no id; name the columns of its primary key".into()));
        }
        let sql = Sql::new(&spec);
        let [session, reading, asking] = [(); 3].map(|()| Session::new(path.clone(), open_existing));
        Ok(Self { declared: Arc::new(Declared { spec, sql }), session, reading, asking: Arc::new(asking) })
    }

    async fn run<T, F>(&self, limit: Duration, work: F) -> Result<T, SourceError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection, &Declared) -> Result<T, Fault> + Send + 'static,
    {
        self.run_in(&self.session, limit, work).await
    }

    async fn run_in<T, F>(&self, session: &Session, limit: Duration, work: F) -> Result<T, SourceError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection, &Declared) -> Result<T, Fault> + Send + 'static,
    {
        let declared = Arc::clone(&self.declared);
        let done = session.run(limit, move |connection| work(connection, &declared)).await;
        done.map_err(|fault| fault.for_source(&self.declared.spec.name))
    }
}

/// Opens a file that is there. A commit is on disk when it returns, whatever the file's default is.
pub(super) fn open_existing(path: &Path, _: History) -> Result<Connection, Fault> {
    match fs::metadata(path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Fault::Unreachable(format!("there is no file {}", path.display())));
        }
        Err(error) => return Err(Fault::io("look at", path, &error)),
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.execute_batch("PRAGMA synchronous = FULL")?;
    Ok(connection)
}

/// As in `SQLite 3.51.3`.
pub(super) fn server() -> String {
    format!("SQLite {}", rusqlite::version())
}

fn chunk(
    connection: &Connection,
    declared: &Declared,
    after: Option<&RowId>,
    most: Most,
    select: &Selection,
) -> Result<Chunk, Fault> {
    if *select == Selection::Every {
        let rows = most.rows.min(most.looked_at);
        return read(connection, declared, (after, None), rows, select).map(Chunk::of_every);
    }
    let Some(end) = end(connection, declared, after, most.looked_at)? else {
        return Ok(Chunk::of_every(Vec::new()));
    };
    let rows = read(connection, declared, (after, Some(&end)), most.rows, select)?;
    Ok(Chunk::up_to(end, rows, most.rows))
}

/// The last of the next so many rows.
fn end(
    connection: &Connection,
    Declared { spec, sql }: &Declared,
    after: Option<&RowId>,
    rows: usize,
) -> Result<Option<RowId>, Fault> {
    let mut parameters = Vec::new();
    if let Some(after) = after {
        parameters.extend(bind::id(after, spec)?);
    }
    parameters.push(number(rows));
    let mut statement = connection.prepare_cached(&sql.end(after.is_some()))?;
    let mut found = statement.query(params_from_iter(parameters))?;
    found.next()?.map(|row| bind::to_row_id(row, spec)).transpose()
}

fn number(rows: usize) -> Parameter<'static> {
    Parameter(ValueRef::Integer(i64::try_from(rows).unwrap_or(i64::MAX)))
}

/// The selected rows between two ids, the second one with them.
fn read(
    connection: &Connection,
    Declared { spec, sql }: &Declared,
    (after, end): (Option<&RowId>, Option<&RowId>),
    rows_max: usize,
    select: &Selection,
) -> Result<Vec<Row>, Fault> {
    let mut bounds = Vec::new();
    if let Selection::Prefixes(prefixes) = select {
        for prefix in prefixes {
            bounds.push(prefix.clone());
            bounds.extend(behind_prefix(prefix));
        }
    }
    let mut parameters = Vec::new();
    for id in [after, end].into_iter().flatten() {
        parameters.extend(bind::id(id, spec)?);
    }
    parameters.extend(bounds.iter().map(|bound| Parameter(ValueRef::Blob(bound))));
    parameters.push(number(rows_max));

    let mut statement = connection.prepare_cached(&sql.read(after.is_some(), end.is_some(), select))?;
    let mut found = statement.query(params_from_iter(parameters))?;
    let mut rows = Vec::new();
    let mut bytes = 0;
    while bytes < CHUNK_BYTES_MAX
        && let Some(row) = found.next()?
    {
        let row = bind::to_row(row, spec)?;
        bytes += row.cell.bytes().map_or(0, <[u8]>::len);
        rows.push(row);
    }
    Ok(rows)
}

fn read_again(
    connection: &mut Connection,
    Declared { spec, sql }: &Declared,
    ids: &[RowId],
) -> Result<Vec<Option<Row>>, Fault> {
    let transaction = connection.transaction()?;
    let mut rows = Vec::with_capacity(ids.len());
    {
        let mut statement = transaction.prepare_cached(&sql.read_again())?;
        for id in ids {
            let mut found = statement.query(params_from_iter(bind::id(id, spec)?))?;
            rows.push(found.next()?.map(|row| bind::to_row(row, spec)).transpose()?);
        }
    }
    transaction.commit()?;
    Ok(rows)
}

/// The number that the administrator's query answers.
fn throttle_query(connection: &Connection, Declared { spec, .. }: &Declared) -> Result<Option<f64>, Fault> {
    let Some(query) = &spec.throttle_query else { return Ok(None) };
    connection.pragma_update(None, "query_only", true)?;
    let query = query.trim().trim_end_matches(';');
    let number: Option<f64> = connection.query_row(&format!("SELECT ({query}) + 0.0"), [], |row| row.get(0))?;
    number.map(Some).ok_or_else(|| Fault::Mistaken(NO_NUMBER.into()))
}

fn names(swap: &Swap) -> impl Iterator<Item = &str> {
    swap.columns.iter().map(|(name, _)| name.as_str())
}

fn swap(
    connection: &mut Connection,
    Declared { spec, sql }: &Declared,
    batch: &[Swap],
) -> Result<Vec<Swapped>, Fault> {
    // Immediate: a deferred one would fail at its first write where somebody else wrote since its first read.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut outcomes = Vec::with_capacity(batch.len());
    // A row may lack a column of the associated data, so not all have one statement; nearly all do.
    for alike in batch.chunk_by(|a, b| names(a).eq(names(b))) {
        let Some(first) = alike.first() else { continue };
        let mut statement = transaction.prepare_cached(&sql.swap(names(first)))?;
        for swap in alike {
            let id = bind::id(&swap.id, spec)?;
            let (new, old) = (bind::cell(&swap.new)?, bind::cell(&swap.old)?);
            let columns = swap.columns.iter().map(|(_, value)| bind::column(value));
            let parameters = std::iter::once(new).chain(id).chain([old]).chain(columns);
            let outcome = match statement.execute(params_from_iter(parameters))? {
                0 => Swapped::Lost,
                1 => Swapped::Done,
                rows => {
                    let ids = spec.id.join(", ");
                    return Err(Fault::Mistaken(format!(
                        "one id ({ids}) has {rows} rows; nothing was written. Name the primary key as id"
                    )));
                }
            };
            outcomes.push(outcome);
        }
    }
    check(&transaction, spec, sql, batch, &outcomes)?;
    transaction.commit()?;
    Ok(outcomes)
}

/// A trigger behind the update may have made something else of what was written, and so may the column's affinity, of
/// which one row tells enough.
fn check(
    connection: &Connection,
    spec: &SourceSpec,
    sql: &Sql,
    batch: &[Swap],
    outcomes: &[Swapped],
) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached(&sql.read_again())?;
    // Asked each time: one may have come since the preflight.
    let fired = preflight::fired(connection, spec, sql)?;
    refuse_unaccepted(&fired, |name| preflight::is_accepted(spec, name)).map_err(Fault::Mistaken)?;
    let looked_at = if fired.is_empty() { 1 } else { batch.len() };
    for swap in last_written(batch, outcomes).into_iter().take(looked_at) {
        let mut found = statement.query(params_from_iter(bind::id(&swap.id, spec)?))?;
        let row = found.next()?.map(|row| bind::to_row(row, spec)).transpose()?;
        if !is_held(swap, row.as_ref()) {
            return Err(Fault::Mistaken(altered(&spec.table, &fired)));
        }
    }
    Ok(())
}

#[async_trait]
impl Source for SqliteSource {
    fn spec(&self) -> &SourceSpec {
        &self.declared.spec
    }

    async fn preflight(&self) -> Result<Preflight, SourceError> {
        self.run(LIMIT_SCAN, |connection, Declared { spec, sql }| preflight::preflight(connection, spec, sql))
            .await
    }

    async fn total(&self) -> Result<Total, SourceError> {
        self.run(LIMIT_SCAN, |connection, Declared { sql, .. }| {
            let rows: i64 = connection.query_row(&sql.count(), [], |row| row.get(0))?;
            Ok(Total { rows: rows.unsigned_abs(), exact: true })
        })
        .await
    }

    async fn chunk(&self, after: Option<&RowId>, most: Most, select: &Selection) -> Result<Chunk, SourceError> {
        let (after, select) = (after.cloned(), select.clone());
        self.run_in(&self.reading, LIMIT, move |connection, declared| {
            chunk(connection, declared, after.as_ref(), most, &select)
        })
        .await
    }

    async fn read_again(&self, ids: &[RowId]) -> Result<Vec<Option<Row>>, SourceError> {
        let ids = ids.to_vec();
        self.run(LIMIT, move |connection, declared| read_again(connection, declared, &ids)).await
    }

    async fn swap(&self, batch: &[Swap]) -> Result<Vec<Swapped>, SourceError> {
        let batch = batch.to_vec();
        self.run(LIMIT, move |connection, declared| swap(connection, declared, &batch)).await
    }

    async fn load(&self) -> Result<Load, SourceError> {
        if self.declared.spec.throttle_query.is_none() {
            return Ok(Load::default());
        }
        // In a task of its own: whoever asks may stop waiting sooner, and only who waits interrupts the query.
        let (asking, declared) = (Arc::clone(&self.asking), Arc::clone(&self.declared));
        let asked = tokio::spawn(async move {
            asking.run(THROTTLE_QUERY, move |connection| throttle_query(connection, &declared)).await
        });
        let asked = asked.await.unwrap_or_else(|error| Err(Fault::Unreachable(format!("a defect: {error}"))));
        let throttle_query = asked.map_err(|fault| fault.for_source(&self.declared.spec.name))?;
        Ok(Load { throttle_query, ..Load::default() })
    }

    async fn census(&self, visit: Visit<'_>) -> Result<Snapshot, SourceError> {
        let path = self.session.path().to_owned();
        let census = census::census(path, &self.declared.spec, &self.declared.sql, visit).await;
        census.map_err(|fault| fault.for_source(&self.declared.spec.name))
    }
}

#[cfg(test)]
mod tests {
    use keymoot_types::associated_data::Template;

    use super::*;
    use crate::source::{Cell, IdPart};

    #[tokio::test]
    async fn fault_25_a_full_disk_writes_nothing_of_the_batch_and_the_next_one_works() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.db");
        let application = Connection::open(&path).unwrap();
        application
            .execute_batch(
                "CREATE TABLE a (id INTEGER PRIMARY KEY, c TEXT); INSERT INTO a VALUES (1, 'x'), (2, 'x')",
            )
            .unwrap();
        let source = SqliteSource::open(SourceSpec {
            name: "a.c".parse().unwrap(),
            url: format!("sqlite://{}", path.display()),
            table: "a".into(),
            id: vec!["id".into()],
            column: "c".into(),
            key: "k".parse().unwrap(),
            associated_data: Template::default(),
            accept_triggers: Vec::new(),
            adopt: false,
            throttle_query: None,
        })
        .unwrap();
        let small = source.session.run(LIMIT, |connection| {
            connection.query_row("PRAGMA max_page_count = 2", [], |_| Ok(()))?;
            Ok(())
        });
        small.await.unwrap();
        let batch: Vec<Swap> = [b"y".to_vec(), vec![b'z'; 100_000]]
            .into_iter()
            .zip(1..)
            .map(|(new, id)| Swap {
                id: RowId(vec![IdPart::Integer(id)]),
                old: Cell::Text(b"x".to_vec()),
                new: Cell::Text(new),
                columns: Vec::new(),
            })
            .collect();
        let full = source.swap(&batch).await.unwrap_err();
        assert!(
            matches!(&full, SourceError::Unreachable { reason, .. } if reason == "the disk is full"),
            "{full}"
        );
        let untouched: i64 =
            application.query_row("SELECT COUNT(*) FROM a WHERE c = 'x'", [], |row| row.get(0)).unwrap();
        assert_eq!(untouched, 2);
        assert_eq!(source.swap(&batch).await, Ok(vec![Swapped::Done; 2]));
    }
}
