use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::TryStreamExt as _;
use keymoot_types::associated_data::ColumnValue;
use sqlx::{AssertSqlSafe, Row as _, mysql::MySqlArguments};

use super::{
    bind, census,
    fault::Fault,
    galera_manners::{self, Pauses},
    load, options,
    pool::{Pool, STATEMENT, Session, Work},
    preflight::{self, triggers},
    replicas::{self, Replicas},
    sql::Sql,
};
use crate::{
    behind_prefix,
    read_back::{altered, refuse_unaccepted},
    source::{
        Ahead, CHUNK_BYTES_MAX, Cell, Chunk, Load, Most, Preflight, Row, RowId, Selection, Snapshot, Source,
        SourceError, SourceSpec, Swap, Swapped, Total, Visit,
    },
};

/// The longest that a call takes which knows its rows.
const LIMIT: Duration = Duration::from_secs(120);

/// The longest that a call takes which may have to look at the whole table; the server stops it a little earlier.
pub(super) const LIMIT_SCAN: Duration = Duration::from_secs(1800);

/// How long to wait for a connection that other chunks use: more may be in flight than there are connections, and each
/// may wait for locks as long as a call takes.
const TURN: Duration = Duration::from_secs(60);

/// How many rows one statement writes or finds by their ids. MariaDB makes a join of longer lists.
///
/// Just so many, that few statements differ: each that the driver no longer remembers it tells the server to forget, which
/// does not answer; and as the driver leaves Nagle's algorithm on, what it says next waits 40 ms for that to be
/// acknowledged.
const STATEMENT_ROWS: [usize; 7] = [900, 300, 100, 30, 10, 3, 1];

/// The most rows that are written by a list of ids, which is gone through for each of them.
const LIST_ROWS_MAX: usize = 100;

/// Up to here rows are counted; above, the server's estimate has to do.
const COUNTED_ROWS_MAX: u64 = 200_000;

/// A column of a table in MariaDB or MySQL, InnoDB only.
///
/// A batch is one transaction: it locks its rows, compares them here by their bytes, and writes those that are still as
/// they were, once more by comparison. So what is done and what is lost never hangs on how a server, or a proxy before
/// it, counts the rows that a statement changed. After a failed commit nobody knows: read the rows again.
///
/// Each batch looks first at what the table is like, which nobody can alter until its commit: a column may have come that
/// moves with updates. Reads look again once a second.
pub struct MySqlSource {
    spec: Arc<SourceSpec>,
    pool: Pool,
    pauses: Arc<Pauses>,
    replicas: Arc<Replicas>,
}

impl MySqlSource {
    /// The source that `spec` declares, at `mysql://user:password@host/database`. It is connected to at its first use.
    ///
    /// # Errors
    /// [`SourceError::Mistaken`] for an address that can't be understood and for an empty id.
    pub fn open(spec: SourceSpec) -> Result<Self, SourceError> {
        let mistaken = |reason: String| SourceError::Mistaken { name: spec.name.clone(), reason };
        let address = options::parse(&spec.url).map_err(|error| mistaken(error.to_string()))?;
        if spec.id.is_empty() {
            return Err(mistaken("it has no id; name the columns of its primary key".into()));
        }
        let pool = Pool::new(address, TURN);
        Ok(Self { spec: Arc::new(spec), pool, pauses: Arc::default(), replicas: Arc::default() })
    }

    async fn run<T, F>(&self, limit: Duration, work: F) -> Result<T, SourceError>
    where
        T: Send + 'static,
        F: for<'s> FnOnce(&'s mut Session, Arc<SourceSpec>) -> Work<'s, T> + Send + 'static,
    {
        let spec = Arc::clone(&self.spec);
        let done = self.pool.run(limit, |session| work(session, spec)).await;
        done.map_err(|fault| fault.for_source(&self.spec.name))
    }

    /// The same for what may have to look at the whole table.
    async fn scan<T, F>(&self, work: F) -> Result<T, SourceError>
    where
        T: Send + 'static,
        F: for<'s> FnOnce(&'s mut Session, Arc<SourceSpec>) -> Work<'s, T> + Send + 'static,
    {
        self.run(LIMIT_SCAN, |session, spec| {
            Box::pin(async move {
                session.limit_statements(LIMIT_SCAN - STATEMENT).await?;
                let done = work(session, spec).await?;
                session.limit_statements(STATEMENT).await?;
                Ok(done)
            })
        })
        .await
    }
}

/// A chunk, and whether its answer was not read to its end.
async fn chunk(
    session: &mut Session,
    sql: &Sql,
    after: Option<&RowId>,
    most: Most,
    select: &Selection,
) -> Result<(Chunk, bool), Fault> {
    if *select == Selection::Every {
        let rows = most.rows.min(most.looked_at);
        let (rows, unread) = read(session, sql, (after, None), rows, select).await?;
        return Ok((Chunk::of_every(rows), unread));
    }
    let Some(end) = end(session, sql, after, most.looked_at).await? else {
        return Ok((Chunk::of_every(Vec::new()), false));
    };
    let (rows, unread) = read(session, sql, (after, Some(&end)), most.rows, select).await?;
    Ok((Chunk::up_to(end, rows, most.rows), unread))
}

/// The last of the next so many rows.
async fn end(
    session: &mut Session,
    sql: &Sql,
    after: Option<&RowId>,
    rows: usize,
) -> Result<Option<RowId>, Fault> {
    let mut arguments = MySqlArguments::default();
    if let Some(id) = after {
        bind::add_id(&mut arguments, id, sql, sql.bounds().into_iter())?;
    }
    bind::add(&mut arguments, u64::try_from(rows).unwrap_or(u64::MAX))?;
    let statement = AssertSqlSafe(sql.end(after.is_some()));
    let found = sqlx::query_with(statement, arguments).fetch_optional(&mut session.connection).await?;
    found.map(|row| bind::to_row_id(&row, 0, sql)).transpose()
}

/// The selected rows between two ids, the second one with them, and whether the answer was not read to its end.
async fn read(
    session: &mut Session,
    sql: &Sql,
    (after, end): (Option<&RowId>, Option<&RowId>),
    rows_max: usize,
    select: &Selection,
) -> Result<(Vec<Row>, bool), Fault> {
    let mut arguments = MySqlArguments::default();
    for id in [after, end].into_iter().flatten() {
        bind::add_id(&mut arguments, id, sql, sql.bounds().into_iter())?;
    }
    if let Selection::Prefixes(prefixes) = select {
        for prefix in prefixes {
            bind::add(&mut arguments, prefix.as_slice())?;
            if let Some(behind) = behind_prefix(prefix) {
                bind::add(&mut arguments, behind)?;
            }
        }
    }
    bind::add(&mut arguments, u64::try_from(rows_max).unwrap_or(u64::MAX))?;
    let statement = AssertSqlSafe(sql.read(after.is_some(), end.is_some(), select));
    let mut found = sqlx::query_with(statement, arguments).fetch(&mut session.connection);
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while let Some(row) = found.try_next().await? {
        let row = bind::to_row(&row, 0, sql)?;
        bytes += row.cell.bytes().map_or(0, <[u8]>::len);
        rows.push(row);
        if bytes >= CHUNK_BYTES_MAX && rows.len() < rows_max {
            return Ok((rows, true));
        }
    }
    Ok((rows, false))
}

/// Pieces that are each as long as one statement, at most `rows_max`, and with what `bytes` says fit into one packet with
/// room for the rest of it.
fn pieces<T>(all: &[T], rows_max: usize, packet_bytes: u64, bytes: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let bytes_max = usize::try_from(packet_bytes / 2).unwrap_or(usize::MAX);
    let (mut pieces, mut rest) = (Vec::new(), all);
    while !rest.is_empty() {
        let mut sum = 0_usize;
        let fits = |item: &&T| {
            sum = sum.saturating_add(bytes(item));
            sum <= bytes_max
        };
        let length = rest.iter().take(rows_max).take_while(fits).count();
        let length = STATEMENT_ROWS.into_iter().find(|rows| *rows <= length).unwrap_or(1);
        let (piece, others) = rest.split_at(length.min(rest.len()));
        pieces.push(piece);
        rest = others;
    }
    pieces
}

/// The rows with these ids, in their order; `lock`ed until the transaction ends.
async fn find(session: &mut Session, sql: &Sql, ids: &[&RowId], lock: bool) -> Result<Vec<Option<Row>>, Fault> {
    let mut rows = Vec::with_capacity(ids.len());
    // Their statements' own text is a hundred bytes or so a row, and ids are short.
    for piece in pieces(ids, usize::MAX, u64::MAX, |_| 0) {
        let mut arguments = MySqlArguments::default();
        for id in piece {
            bind::add_id(&mut arguments, id, sql, 0..sql.ids.len())?;
        }
        let statement = AssertSqlSafe(sql.find(piece.len(), lock));
        let mut found = sqlx::query_with(statement, arguments).fetch(&mut session.connection);
        let (first, by_list) = (rows.len(), sql.by_list());
        rows.resize(first + piece.len(), None);
        let places = if by_list { places(piece) } else { HashMap::new() };
        while let Some(row) = found.try_next().await? {
            let found = bind::to_row(&row, usize::from(!by_list), sql)?;
            let place = match by_list {
                true => places.get(&found.id).copied(),
                false => usize::try_from(row.try_get_unchecked::<i64, _>(0)?).ok(),
            };
            let slot = place.and_then(|place| rows.get_mut(first.saturating_add(place)));
            let slot = slot.ok_or_else(|| Fault::Unreachable("the server named a row nobody asked for".into()))?;
            if slot.replace(found).is_some() {
                return Err(Fault::Mistaken(
                    "one id has several rows; nothing was written. Name the primary key as id".into(),
                ));
            }
        }
        // An id that was asked for twice is found once in a list.
        for (place, id) in piece.iter().enumerate() {
            if let Some(earlier) = places.get(id).filter(|earlier| **earlier != place) {
                let row = rows.get(first + earlier).cloned().flatten();
                rows.iter_mut().skip(first + place).take(1).for_each(|slot| slot.clone_from(&row));
            }
        }
    }
    Ok(rows)
}

/// Where each id stands first.
fn places<'i>(ids: &[&'i RowId]) -> HashMap<&'i RowId, usize> {
    let mut places = HashMap::with_capacity(ids.len());
    for (place, id) in ids.iter().enumerate() {
        places.entry(*id).or_insert(place);
    }
    places
}

/// A row that is locked: what it held before the batch, and what it will hold behind it.
struct Locked {
    was: Cell,
    becomes: Cell,
    columns: Vec<(String, ColumnValue)>,
}

/// What becomes of each swap, one after the other, and what is to be written then.
fn decide(batch: &[Swap], rows: Vec<Option<Row>>) -> (Vec<Swapped>, Vec<(RowId, Locked)>) {
    let mut locked: BTreeMap<RowId, Locked> = BTreeMap::new();
    let mut outcomes = Vec::with_capacity(batch.len());
    for (swap, row) in batch.iter().zip(rows) {
        let Some(Row { id, cell, columns }) = row else {
            outcomes.push(Swapped::Lost);
            continue;
        };
        // The row's own id, for under a collation two spellings can mean the same row.
        let row = locked.entry(id).or_insert_with(|| Locked { was: cell.clone(), becomes: cell, columns });
        let is_as_read = row.becomes == swap.old && swap.columns.iter().all(|column| row.columns.contains(column));
        outcomes.push(if is_as_read { Swapped::Done } else { Swapped::Lost });
        if is_as_read {
            row.becomes = swap.new.clone();
        }
    }
    let written = locked.into_iter().filter(|(_, row)| row.was.bytes() != row.becomes.bytes()).collect();
    (outcomes, written)
}

async fn write(session: &mut Session, sql: &Sql, rows: &[(RowId, Locked)]) -> Result<(), Fault> {
    let bytes = |(_, row): &(RowId, Locked)| {
        let length = |cell: &Cell| cell.bytes().map_or(0, <[u8]>::len);
        length(&row.was) + length(&row.becomes) + 256
    };
    let packet_bytes = session.server.packet_bytes;
    let rows_max = if sql.by_list() { LIST_ROWS_MAX } else { usize::MAX };
    for piece in pieces(rows, rows_max, packet_bytes, bytes) {
        let mut arguments = MySqlArguments::default();
        let id = |arguments: &mut _, (id, _): &(RowId, Locked)| bind::add_id(arguments, id, sql, 0..sql.ids.len());
        let was = |arguments: &mut _, (_, row): &(RowId, Locked)| bind::add_cell(arguments, &row.was);
        let becomes = |arguments: &mut _, (_, row): &(RowId, Locked)| bind::add_cell(arguments, &row.becomes);
        if sql.by_list() {
            piece.iter().try_for_each(|row| id(&mut arguments, row))?;
            piece.iter().try_for_each(|row| becomes(&mut arguments, row))?;
            piece.iter().try_for_each(|row| id(&mut arguments, row))?;
            piece.iter().try_for_each(|row| id(&mut arguments, row))?;
            piece.iter().try_for_each(|row| was(&mut arguments, row))?;
        } else {
            for row in piece {
                id(&mut arguments, row)?;
                was(&mut arguments, row)?;
                becomes(&mut arguments, row)?;
            }
        }
        let statement = AssertSqlSafe(sql.write(piece.len()));
        let done = sqlx::query_with(statement, arguments).execute(&mut session.connection).await?;
        // All are locked, and all change: found or changed, the number is the same.
        let (changed, expected) = (done.rows_affected(), piece.len());
        if usize::try_from(changed) != Ok(expected) {
            session.refuse_rolled_back().await?;
            return Err(Fault::Mistaken(format!(
                "of {expected} rows that were locked the server wrote {changed}, so nothing was committed; look for a \
                 trigger that undoes the update"
            )));
        }
    }
    Ok(())
}

/// A trigger, or whatever else stands between, may have made something else of what was written. Without a trigger one row
/// stands for the batch.
async fn check(
    session: &mut Session,
    spec: &SourceSpec,
    sql: &Sql,
    written: &[(RowId, Locked)],
) -> Result<(), Fault> {
    // Asked each time: one may have come since the preflight.
    let fired = triggers(session, &sql.schema, &sql.name).await?;
    refuse_unaccepted(&fired, |name| spec.accept_triggers.contains(name)).map_err(Fault::Mistaken)?;
    let looked_at = if fired.is_empty() { 1 } else { written.len() };
    let written = written.get(..looked_at.min(written.len())).unwrap_or_default();
    let ids: Vec<&RowId> = written.iter().map(|(id, _)| id).collect();
    let rows = find(session, sql, &ids, false).await?;
    let held = |(_, locked): &(RowId, Locked), row: &Option<Row>| {
        row.as_ref().is_some_and(|row| row.cell.bytes() == locked.becomes.bytes() && row.columns == locked.columns)
    };
    if written.iter().zip(&rows).all(|(written, row)| held(written, row)) {
        return Ok(());
    }
    session.refuse_rolled_back().await?;
    Err(Fault::Mistaken(altered(&spec.table, &fired)))
}

async fn swap(session: &mut Session, spec: &SourceSpec, batch: &[Swap]) -> Result<Vec<Swapped>, Fault> {
    let sql = session.begin(spec).await?;
    replicas::refuse_read_only(session).await?;
    let ids: Vec<&RowId> = batch.iter().map(|swap| &swap.id).collect();
    let rows = find(session, &sql, &ids, true).await?;
    let (outcomes, written) = decide(batch, rows);
    write(session, &sql, &written).await?;
    check(session, spec, &sql, &written).await?;
    sqlx::raw_sql("COMMIT").execute(&mut session.connection).await?;
    Ok(outcomes)
}

async fn total(session: &mut Session, spec: &SourceSpec) -> Result<Total, Fault> {
    let sql = session.sql(spec).await?;
    let estimate = sqlx::query_as::<_, (Option<u64>,)>(
        "SELECT CAST(TABLE_ROWS AS UNSIGNED) FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?",
    )
    .bind(&sql.schema)
    .bind(&sql.name)
    .fetch_one(&mut session.connection)
    .await?
    .0
    .unwrap_or(0);
    if estimate > COUNTED_ROWS_MAX {
        return Ok(Total { rows: estimate, exact: false });
    }
    let (rows,): (i64,) = sqlx::query_as(AssertSqlSafe(sql.count())).fetch_one(&mut session.connection).await?;
    Ok(Total { rows: rows.unsigned_abs(), exact: true })
}

#[async_trait]
impl Source for MySqlSource {
    fn spec(&self) -> &SourceSpec {
        &self.spec
    }

    async fn preflight(&self) -> Result<Preflight, SourceError> {
        self.preflight_for(Ahead::of(&self.spec)).await
    }

    async fn preflight_for(&self, ahead: Ahead) -> Result<Preflight, SourceError> {
        let pool = self.pool.clone();
        self.scan(move |session, spec| {
            Box::pin(async move {
                let mut found = preflight::preflight(session, &spec, ahead).await?;
                galera_manners::preflight(&pool, session, &mut found).await?;
                found.warnings.extend(pool.server().tls.warning(session.is_encrypted().await?));
                Ok(found)
            })
        })
        .await
    }

    async fn total(&self) -> Result<Total, SourceError> {
        self.scan(|session, spec| Box::pin(async move { total(session, &spec).await })).await
    }

    async fn chunk(&self, after: Option<&RowId>, most: Most, select: &Selection) -> Result<Chunk, SourceError> {
        let (after, select, spec) = (after.cloned(), select.clone(), Arc::clone(&self.spec));
        let read = self.pool.run_and_keep_if(
            LIMIT,
            |(_, unread): &(Chunk, bool)| !*unread,
            move |session| {
                Box::pin(async move {
                    let sql = session.sql(&spec).await?;
                    let read = chunk(session, &sql, after.as_ref(), most, &select).await;
                    session.unless_altered(&spec, &sql, read).await
                })
            },
        );
        read.await.map(|(chunk, _)| chunk).map_err(|fault| fault.for_source(&self.spec.name))
    }

    async fn read_again(&self, ids: &[RowId]) -> Result<Vec<Option<Row>>, SourceError> {
        let ids = ids.to_vec();
        self.run(LIMIT, move |session, spec| {
            Box::pin(async move {
                let sql = session.sql(&spec).await?;
                let found = find(session, &sql, &ids.iter().collect::<Vec<_>>(), false).await;
                session.unless_altered(&spec, &sql, found).await
            })
        })
        .await
    }

    async fn swap(&self, batch: &[Swap]) -> Result<Vec<Swapped>, SourceError> {
        let batch = batch.to_vec();
        self.run(LIMIT, move |session, spec| Box::pin(async move { swap(session, &spec, &batch).await })).await
    }

    async fn load(&self) -> Result<Load, SourceError> {
        let (pauses, replicas, pool) = (Arc::clone(&self.pauses), Arc::clone(&self.replicas), self.pool.clone());
        self.run(LIMIT, |session, spec| {
            Box::pin(async move {
                replicas::refuse_read_only(session).await?;
                let mut load = load::load(session, spec.throttle_query.as_deref()).await?;
                load.replica_lag = pauses.lag(session).await?.max(replicas.lag(&pool, session).await?);
                Ok(load)
            })
        })
        .await
    }

    async fn census(&self, visit: Visit<'_>) -> Result<Snapshot, SourceError> {
        let census = census::census(&self.pool, Arc::clone(&self.spec), visit).await;
        census.map_err(|fault| fault.for_source(&self.spec.name))
    }
}
