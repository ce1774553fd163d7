//! Counting in one snapshot that surely shows every write that was under way before it.

use std::{sync::Arc, time::Duration};

use futures::TryStreamExt as _;
use sqlx::AssertSqlSafe;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use super::{
    beside, bind,
    fault::Fault,
    galera_census::Cluster,
    older,
    pool::{Pool, Session},
    source::LIMIT_SCAN,
};
use crate::source::{Cell, Snapshot, SourceSpec, Visit};

/// How much is handed over at once.
const BATCH_CELLS: usize = 256;
const BATCH_BYTES: usize = 1024 * 1024;

/// The visitor runs here and the reading in a task of its own, on a connection that nobody uses behind it.
pub(super) async fn census(pool: &Pool, spec: Arc<SourceSpec>, visit: Visit<'_>) -> Result<Snapshot, Fault> {
    let late = || Fault::Unreachable(format!("the census got no row for {} s", LIMIT_SCAN.as_secs()));
    let session = pool.own().await?;
    let (give, mut batches) = mpsc::channel(2);
    // Ended with its snapshot where the caller goes away: it writes nothing.
    let mut reading = JoinSet::new();
    reading.spawn(read(pool.clone(), session, spec, give));
    while let Some(batch) = timeout(LIMIT_SCAN, batches.recv()).await.map_err(|_| late())? {
        batch.iter().for_each(&mut *visit);
    }
    match timeout(LIMIT_SCAN, reading.join_next()).await.map_err(|_| late())? {
        Some(Ok(snapshot)) => snapshot,
        _ => Err(Fault::Unreachable("the census ended unexpectedly".into())),
    }
}

async fn read(
    pool: Pool,
    mut session: Session,
    spec: Arc<SourceSpec>,
    give: mpsc::Sender<Vec<Cell>>,
) -> Result<Snapshot, Fault> {
    // First: a causal read would wait until a node that stands still is forgotten by the others.
    let mut cluster = Cluster::of(&pool, &mut session).await?;
    let sql = session.sql(&spec).await?;
    let older = match beside::look(&mut session, &sql).await? {
        Some(why) => Some(why),
        None => older::still_running(&mut session).await?,
    };
    cluster.until_older_ended().await;
    // A statement's limit would end the scan of a large table; whoever waits for its rows has one of its own.
    session.limit_statements(Duration::ZERO).await?;
    // Its snapshot waits while other nodes count.
    session.limit_idle_transactions(Duration::ZERO).await?;
    let begin = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ; \
         START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";
    sqlx::raw_sql(begin).execute(&mut session.connection).await?;
    let (counted,): (i64,) = sqlx::query_as(AssertSqlSafe(sql.count())).fetch_one(&mut session.connection).await?;
    cluster.compare(&mut session, &sql).await?;

    let mut found = sqlx::query(AssertSqlSafe(sql.scan())).fetch(&mut session.connection);
    let (mut visited, mut bytes, mut batch) = (0, 0, Vec::with_capacity(BATCH_CELLS));
    while let Some(row) = found.try_next().await? {
        let cell = bind::to_cell(&row, 0, &sql.cell)?;
        bytes += cell.bytes().map_or(0, <[u8]>::len);
        batch.push(cell);
        visited += 1;
        if batch.len() >= BATCH_CELLS || bytes >= BATCH_BYTES {
            bytes = 0;
            hand_over(&give, std::mem::replace(&mut batch, Vec::with_capacity(BATCH_CELLS))).await?;
        }
    }
    drop(found);
    hand_over(&give, batch).await?;
    Ok(Snapshot {
        visited,
        counted: counted.unsigned_abs(),
        not_conclusive: older.or(cluster.doubt().await),
        sql: sql.by_version(),
        server: session.server.name(),
    })
}

async fn hand_over(give: &mpsc::Sender<Vec<Cell>>, batch: Vec<Cell>) -> Result<(), Fault> {
    let given = give.send(batch).await;
    given.map_err(|_| Fault::Unreachable("nobody waits for the census any more".into()))
}
