//! Counting every row in one snapshot that shows every write that was under way before it.

use std::{sync::Arc, time::Duration};

use futures::TryStreamExt as _;
use sqlx::{PgConnection, Row as _};
use tokio::{sync::mpsc, time::timeout};

use super::{
    super::{fault::Fault, pool::Pool},
    Declared, LIMIT_SCAN, beside, bind, others,
    session::server,
    shape::{Shape, look_up, refuse_other},
    sql::query,
};
use crate::source::{Cell, Snapshot, SourceSpec, Visit};

/// The longest that a census takes.
const LIMIT: Duration = Duration::from_secs(12 * 3600);

/// A table that is rewritten, emptied and filled, or put in another's place shows nothing to a snapshot from before. So it
/// is locked against that first, and what follows takes a snapshot of its own. And it is the table that is read and no
/// index: a damaged one must not hide rows.
const BEGIN: &str = "
    BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; SET LOCAL statement_timeout = '12h'; SET LOCAL row_security = off;
    SET LOCAL enable_seqscan = on; SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off";

/// How much is handed over at once.
const BATCH_CELLS: usize = 512;
const BATCH_BYTES: usize = 1024 * 1024;

/// The visitor runs here and the reading in the pool's task, which no caller cuts off in the middle.
pub(super) async fn census(pool: &Pool, declared: Arc<Declared>, visit: Visit<'_>) -> Result<Snapshot, Fault> {
    let (give, mut batches) = mpsc::channel(2);
    let pool = pool.clone();
    let reading = tokio::spawn(async move {
        let read = pool.run(LIMIT, move |connection| {
            Box::pin(async move {
                // Looked up anew: a view may stand where the table was.
                let shape = look_up(connection, &declared.spec).await?;
                read(connection, &declared.spec, &shape, &give).await
            })
        });
        read.await
    });
    let late = |_| Fault::Unreachable(format!("the census got no row for {} s", LIMIT_SCAN.as_secs()));
    while let Some(batch) = timeout(LIMIT_SCAN, batches.recv()).await.map_err(late)? {
        let batch: Vec<Cell> = batch;
        batch.iter().for_each(&mut *visit);
    }
    let read = timeout(LIMIT_SCAN, reading).await.map_err(late)?;
    read.unwrap_or_else(|_| Err(Fault::Unreachable("the census ended unexpectedly".into())))
}

async fn read(
    connection: &mut PgConnection,
    declared: &SourceSpec,
    shape: &Shape,
    give: &mpsc::Sender<Vec<Cell>>,
) -> Result<Snapshot, Fault> {
    let server = server(connection).await?;
    // First: what ends meanwhile is shown by the snapshot, which is taken afterwards.
    let older = others::wait(connection).await?;
    sqlx::raw_sql(BEGIN).execute(&mut *connection).await?;
    query(shape.lock()).persistent(false).execute(&mut *connection).await?;
    // A view may have come in the table's place while others were waited for; from now on none can.
    refuse_other(connection, declared).await?;
    let not_conclusive = beside::look(connection, &declared.table, &shape.table).await?.or(older);
    let (mut counted, mut visited, mut bytes) = (None, 0, 0);
    let mut batch = Vec::with_capacity(BATCH_CELLS);
    {
        let mut rows = query(shape.scan()).persistent(false).fetch(&mut *connection);
        while let Some(row) = rows.try_next().await? {
            if let Some(count) = row.try_get::<Option<i64>, _>(1)? {
                counted = Some(count.unsigned_abs());
                continue;
            }
            let cell = bind::to_cell(&row, 0, shape.value)?;
            bytes += cell.bytes().map_or(0, <[u8]>::len);
            batch.push(cell);
            visited += 1;
            if batch.len() >= BATCH_CELLS || bytes >= BATCH_BYTES {
                bytes = 0;
                hand_over(give, std::mem::replace(&mut batch, Vec::with_capacity(BATCH_CELLS))).await?;
            }
        }
    }
    hand_over(give, batch).await?;
    sqlx::raw_sql("COMMIT").execute(connection).await?;
    let counted =
        counted.ok_or_else(|| Fault::Unreachable("the server did not say how many rows there are".into()))?;
    Ok(Snapshot { visited, counted, not_conclusive, sql: shape.by_version(), server })
}

async fn hand_over(give: &mpsc::Sender<Vec<Cell>>, batch: Vec<Cell>) -> Result<(), Fault> {
    let gone = |_| Fault::Unreachable("nobody waits for the census any more".into());
    give.send(batch).await.map_err(gone)
}
