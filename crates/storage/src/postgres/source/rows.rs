//! Rows: read by key, read again, written by compare-and-swap.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures::TryStreamExt as _;
use sqlx::{PgConnection, Row as _};

use super::{
    super::{
        fault::{Fault, took_too_long},
        pool::Pool,
        transaction::transact,
    },
    LIMIT,
    bind::{self, Array, Element, unfit},
    preflight::triggers,
    shape::{Column, Kind, Shape},
    sql::{Statement, query},
};
use crate::{
    read_back::{altered, is_held, last_written, refuse_unaccepted},
    source::{CHUNK_BYTES_MAX, Chunk, Most, Preflight, Row, RowId, Selection, Swap, Swapped, Total},
};

/// Up to so many rows are counted, lest an estimate of a small table be far off.
const COUNTED_MAX: f32 = 100_000.0;

/// A chunk, and whether it ended early, with an answer that was not read to its end.
pub(super) async fn chunk(
    connection: &mut PgConnection,
    shape: &Shape,
    after: Option<&RowId>,
    most: Most,
    select: &Selection,
) -> Result<(Chunk, bool), Fault> {
    let Selection::Prefixes(prefixes) = select else {
        let rows = most.rows.min(most.looked_at);
        let (rows, unread) = read(connection, shape, after, rows).await?;
        return Ok((Chunk::of_every(rows), unread));
    };
    find(connection, shape, after, most, prefixes).await
}

async fn read(
    connection: &mut PgConnection,
    shape: &Shape,
    after: Option<&RowId>,
    rows_max: usize,
) -> Result<(Vec<Row>, bool), Fault> {
    let mut statement = query(shape.read(after.is_some(), rows_max)).persistent(false);
    if let Some(after) = after {
        statement = bind::bind_id(statement, after, shape)?;
    }
    let (mut rows, mut bytes) = (Vec::new(), 0);
    let mut found = statement.fetch(connection);
    while let Some(row) = found.try_next().await? {
        let row = bind::to_row(&row, shape)?;
        bytes += row.cell.bytes().map_or(0, <[u8]>::len);
        rows.push(row);
        if bytes >= CHUNK_BYTES_MAX && rows.len() < rows_max {
            return Ok((rows, true));
        }
    }
    Ok((rows, false))
}

/// The selected ones of the next rows.
async fn find(
    connection: &mut PgConnection,
    shape: &Shape,
    after: Option<&RowId>,
    most: Most,
    prefixes: &[Vec<u8>],
) -> Result<(Chunk, bool), Fault> {
    let find = shape.find(after.is_some(), (most.rows, most.looked_at), prefixes);
    let mut statement = query(find.sql).persistent(false);
    if let Some(after) = after {
        statement = bind::bind_id(statement, after, shape)?;
    }
    statement = find.bounds.into_iter().fold(statement, |statement, bound| bound.bind(statement));
    let (mut rows, mut bytes, mut end) = (Vec::new(), 0, None);
    let mut found = statement.fetch(connection);
    while let Some(row) = found.try_next().await? {
        if row.try_get(row.len().saturating_sub(1))? {
            end = Some(bind::to_row_id(&row, shape)?);
            continue;
        }
        let row = bind::to_row(&row, shape)?;
        bytes += row.cell.bytes().map_or(0, <[u8]>::len);
        rows.push(row);
        if bytes >= CHUNK_BYTES_MAX {
            return Ok((Chunk::of_every(rows), true));
        }
    }
    Ok((end.map_or(Chunk::of_every(Vec::new()), |end| Chunk::up_to(end, rows, most.rows)), false))
}

pub(super) async fn read_again(
    connection: &mut PgConnection,
    shape: &Shape,
    ids: &[RowId],
) -> Result<Vec<Option<Row>>, Fault> {
    let mut statement = query(shape.read_again());
    for array in bind::ids(ids.iter(), shape)? {
        statement = array.bind(statement);
    }
    let mut rows = vec![None; ids.len()];
    for found in statement.fetch_all(connection).await? {
        let number: i64 = found.try_get(found.len().saturating_sub(1))?;
        let place = position(number).and_then(|at| rows.get_mut(at));
        let place = place.ok_or_else(|| Fault::Damaged("an answer to no question".into()))?;
        if place.replace(bind::to_row(&found, shape)?).is_some() {
            return Err(twice(shape));
        }
    }
    Ok(rows)
}

fn position(number: i64) -> Option<usize> {
    usize::try_from(number).ok()?.checked_sub(1)
}

fn twice(shape: &Shape) -> Fault {
    let ids: Vec<&str> = shape.ids.iter().map(|(id, _)| id.name.as_str()).collect();
    Fault::Mistaken(format!(
        "one id ({}) has several rows; nothing was written. Name the primary key as id",
        ids.join(", ")
    ))
}

pub(super) async fn total(connection: &mut PgConnection, shape: &Shape) -> Result<Total, Fault> {
    // Of all partitions, where it has some. -1: it was never looked at.
    let (rows,): (f32,) = sqlx::query_as(
        "SELECT coalesce(sum(reltuples), -1)::float4 FROM pg_class WHERE oid IN \
         (SELECT to_regclass($1) UNION SELECT relid FROM pg_partition_tree(to_regclass($1))) AND relkind <> 'p'",
    )
    .bind(&shape.table)
    .fetch_one(&mut *connection)
    .await?;
    if rows > COUNTED_MAX {
        return Ok(Total { rows: rows as u64, exact: false });
    }
    sqlx::raw_sql("BEGIN READ ONLY").execute(&mut *connection).await?;
    sqlx::raw_sql(super::session::WHOLE_TABLE).execute(&mut *connection).await?;
    match query(shape.count()).fetch_one(&mut *connection).await {
        Ok(counted) => {
            sqlx::raw_sql("COMMIT").execute(connection).await?;
            Ok(Total { rows: counted.try_get::<i64, _>(0)?.unsigned_abs(), exact: true })
        }
        // Large, and never analysed.
        Err(error) if took_too_long(&error) => {
            sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await?;
            let rows = planned(connection, shape).await?;
            Ok(Total { rows, exact: false })
        }
        Err(error) => Err(error.into()),
    }
}

/// How many rows the planner expects, which goes by the size of the table where it knows no better.
async fn planned(connection: &mut PgConnection, shape: &Shape) -> Result<u64, Fault> {
    let plan = query(shape.explain()).fetch_one(connection).await?;
    let first: String = plan.try_get(0)?;
    let rows = first.split_once("rows=").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    Ok(rows.unwrap_or(0))
}

/// One statement that writes a part of a batch.
struct Round {
    /// Where its swaps stand in the batch.
    numbers: Vec<usize>,
    statement: Statement<'static>,
}

/// Whether the server would take a swap at all: it checks rights, types and publications before the first row, and here
/// there is none.
pub(super) async fn try_swap(
    connection: &mut PgConnection,
    shape: &Shape,
    found: &mut Preflight,
) -> Result<(), Fault> {
    let data: Vec<&(Column, Kind)> = shape.data.iter().collect();
    let mut arrays = bind::ids(std::iter::empty(), shape)?;
    arrays.extend([shape.value, shape.value].map(Array::new));
    arrays.extend(data.iter().map(|(_, kind)| Array::new(*kind)));
    let explain = query(format!("EXPLAIN {}", shape.swap(&data))).persistent(false);
    let explain = arrays.into_iter().fold(explain, |statement, array| array.bind(statement));
    match explain.fetch_all(connection).await.map_err(Fault::from) {
        Ok(_) => Ok(()),
        Err(Fault::Mistaken(reason)) => {
            found.blockers.push(format!(
                "the server would not take a new value: {reason}; change what it names, such as a right, a publication's columns \
                 or the replica identity"
            ));
            Ok(())
        }
        Err(fault) => Err(fault),
    }
}

pub(super) async fn swap(
    pool: &Pool,
    shape: Arc<Shape>,
    accepted: &[String],
    batch: &[Swap],
) -> Result<Vec<Swapped>, Fault> {
    let mut rounds = Vec::new();
    for numbers in each_id_once(batch) {
        rounds.extend(round(&shape, batch, &numbers)?);
    }
    let (batch, accepted): (Arc<[Swap]>, Arc<[String]>) = (batch.into(), accepted.into());
    let done = transact(pool, LIMIT, move |connection| {
        Box::pin(async move {
            let outcomes = write(connection, &shape, rounds, batch.len()).await?;
            check(connection, &shape, &accepted, &batch, &outcomes).await?;
            Ok(Ok::<_, Fault>(outcomes))
        })
    });
    done.await?
}

/// One statement writes a row once; so an id that is there again waits for the next one.
fn each_id_once(batch: &[Swap]) -> Vec<Vec<usize>> {
    let mut times: HashMap<&RowId, usize> = HashMap::with_capacity(batch.len());
    let mut rounds: Vec<Vec<usize>> = Vec::new();
    for (number, swap) in batch.iter().enumerate() {
        let time = times.entry(&swap.id).or_default();
        match rounds.get_mut(*time) {
            Some(round) => round.push(number),
            None => rounds.push(vec![number]),
        }
        *time += 1;
    }
    rounds
}

/// `None`: nothing of it can be written, as the column can't hold what was read.
fn round(shape: &Shape, batch: &[Swap], numbers: &[usize]) -> Result<Option<Round>, Fault> {
    let all = || numbers.iter().filter_map(|number| Some((*number, batch.get(*number)?)));
    // What the column can't hold is surely not in it.
    let held: Vec<(usize, &Swap, Element<'_>)> = all()
        .filter_map(|(number, swap)| Some((number, swap, Element::of_cell(&swap.old, shape.value)?)))
        .collect();
    let Some((_, first, _)) = held.first() else { return Ok(None) };
    let data = data_of(shape, first)?;
    let mut arrays = bind::ids(held.iter().map(|(_, swap, _)| &swap.id), shape)?;
    let (mut old, mut new) = (Array::new(shape.value), Array::new(shape.value));
    let mut columns: Vec<Array<'_>> = data.iter().map(|(_, kind)| Array::new(*kind)).collect();
    let mut at = Vec::with_capacity(held.len());
    for (number, swap, was) in held {
        let becomes = Element::of_cell(&swap.new, shape.value).ok_or_else(|| unfit(&shape.column))?;
        old.push(was).and_then(|()| new.push(becomes)).ok_or_else(|| unfit(&shape.column))?;
        if swap.columns.len() != data.len() {
            return Err(Fault::Mistaken("a defect: two swaps of a batch have different columns".into()));
        }
        for ((array, (name, value)), (column, _)) in columns.iter_mut().zip(&swap.columns).zip(&data) {
            if *name != column.name {
                return Err(Fault::Mistaken("a defect: two swaps of a batch have different columns".into()));
            }
            array.push(Element::of_column(value)).ok_or_else(|| unfit(column))?;
        }
        at.push(number);
    }
    arrays.extend([old, new]);
    arrays.extend(columns);
    let statement = arrays.into_iter().fold(query(shape.swap(&data)), |statement, array| array.bind(statement));
    Ok(Some(Round { numbers: at, statement }))
}

/// The columns that the swaps name.
fn data_of<'s>(shape: &'s Shape, swap: &Swap) -> Result<Vec<&'s (Column, Kind)>, Fault> {
    let find = |name: &String| {
        let found = shape.data.iter().find(|(column, _)| column.name == *name);
        found.ok_or_else(|| Fault::Mistaken(format!("column {name} is not of the associated data")))
    };
    swap.columns.iter().map(|(name, _)| find(name)).collect()
}

async fn write(
    connection: &mut PgConnection,
    shape: &Shape,
    rounds: Vec<Round>,
    length: usize,
) -> Result<Vec<Swapped>, Fault> {
    let mut outcomes = vec![Swapped::Lost; length];
    for Round { numbers, statement } in rounds {
        let answer = statement.fetch_one(&mut *connection).await?;
        let (written, held): (Option<Vec<i64>>, Option<bool>) = (answer.try_get(0)?, answer.try_get(1)?);
        let mut seen = HashSet::new();
        for number in written.unwrap_or_default() {
            let at = position(number).and_then(|at| numbers.get(at));
            let outcome = at.and_then(|at| outcomes.get_mut(*at));
            *outcome.ok_or_else(|| Fault::Damaged("an answer to no question".into()))? = Swapped::Done;
            if !seen.insert(at) {
                return Err(twice(shape));
            }
        }
        if held == Some(false) {
            let fired = triggers(connection, &shape.table, &shape.column.name).await?;
            return Err(Fault::Mistaken(altered(&shape.table, &fired)));
        }
    }
    Ok(outcomes)
}

/// What a statement answers is from before the triggers behind it: where there are some, the rows are read again. Asked
/// each time, as one may have come since the preflight.
async fn check(
    connection: &mut PgConnection,
    shape: &Shape,
    accepted: &[String],
    batch: &[Swap],
    outcomes: &[Swapped],
) -> Result<(), Fault> {
    let fired = triggers(connection, &shape.table, &shape.column.name).await?;
    if fired.is_empty() {
        return Ok(());
    }
    refuse_unaccepted(&fired, |name| accepted.contains(name)).map_err(Fault::Mistaken)?;
    // Those that wait for the commit fire now.
    sqlx::raw_sql("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *connection).await?;
    let written = last_written(batch, outcomes);
    let ids: Vec<RowId> = written.iter().map(|swap| swap.id.clone()).collect();
    let rows = read_again(connection, shape, &ids).await?;
    let held = written.iter().zip(&rows).all(|(swap, row)| is_held(swap, row.as_ref()));
    if held { Ok(()) } else { Err(Fault::Mistaken(altered(&shape.table, &fired))) }
}
