//! Counting in one snapshot that surely shows every write that was under way before it.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use tokio::{sync::mpsc, time::timeout};

use super::{
    bind,
    fault::Fault,
    preflight::unfit_kind,
    session::{History, Identity},
    source::{LIMIT_SCAN, open_existing, server},
    sql::{Sql, quoted, table_name},
};
use crate::source::{Cell, Snapshot, SourceSpec, Visit};

/// How much is handed over at once.
const BATCH_CELLS: usize = 256;
const BATCH_BYTES: usize = 1024 * 1024;

/// The visitor runs here and the reading on a blocking thread, as the one can't leave and the other would block.
pub(super) async fn census(
    path: PathBuf,
    spec: &SourceSpec,
    sql: &Sql,
    visit: Visit<'_>,
) -> Result<Snapshot, Fault> {
    let late = || Fault::Unreachable(format!("the census got no row for {} s", LIMIT_SCAN.as_secs()));
    let (give, mut batches) = mpsc::channel(2);
    let table = table_name(spec).to_owned();
    let statements = Statements { table, count: sql.count(), scan: sql.scan(), by_version: sql.by_version() };
    let (tell, mut handle) = tokio::sync::oneshot::channel();
    let reading = tokio::task::spawn_blocking(move || read(&path, statements, &give, tell));
    let shown = async {
        while let Some(batch) = timeout(LIMIT_SCAN, batches.recv()).await.map_err(|_| late())? {
            batch.iter().for_each(&mut *visit);
        }
        timeout(LIMIT_SCAN, reading).await.map_err(|_| late())
    };
    match shown.await {
        Ok(Ok(snapshot)) => snapshot,
        Ok(Err(_)) => Err(Fault::Unreachable("the census ended unexpectedly".into())),
        Err(fault) => {
            if let Ok(handle) = handle.try_recv() {
                handle.interrupt();
            }
            Err(fault)
        }
    }
}

/// How SQLite says that a row breaks a rule of its table: every row is there.
const RULES: [&str; 4] = ["NULL value in ", "NUMERIC value in ", "TEXT value in ", "non-"];

/// Whether pages of the table are damaged: those can hide rows from a scan and from the count alike.
fn damage(reader: &Connection, table: &str) -> Result<Option<String>, Fault> {
    // What a row may hold is not asked for: it hides nothing, and may need functions that only the application knows.
    reader.pragma_update(None, "ignore_check_constraints", true)?;
    let check = format!("PRAGMA main.quick_check({})", quoted(table));
    // Damage comes before broken rules.
    let found = reader.query_row(&check, [], |row| row.get::<_, String>(0)).map_err(Fault::from);
    match found {
        Ok(found) if found == "ok" || RULES.iter().any(|rule| found.starts_with(rule)) => Ok(None),
        Ok(found) => Ok(Some(format!("the file is damaged ({found}): repair or restore it and count again"))),
        // It opens all indexes, also those by a collation that only the application knows.
        Err(Fault::Mistaken(_)) => Ok(None),
        Err(fault) => Err(fault),
    }
}

struct Statements {
    table: String,
    count: String,
    scan: String,
    by_version: String,
}

fn read(
    path: &Path,
    statements: Statements,
    give: &mpsc::Sender<Vec<Cell>>,
    tell: tokio::sync::oneshot::Sender<rusqlite::InterruptHandle>,
) -> Result<Snapshot, Fault> {
    let identity = Identity::of(path)?;
    // Connections of its own: the worker goes on while the census reads.
    let writer = open_existing(path, History::default())?;
    let reader = open_existing(path, History::default())?;
    // The receiver is gone only where nobody waits for the census.
    let _ = tell.send(reader.get_interrupt_handle());

    // SQLite has one writer. Who holds its lock knows that no other write is under way; a snapshot taken
    // meanwhile shows all that was ever written. Then the lock is given back, and the snapshot stays.
    let locked = writer.execute_batch("BEGIN IMMEDIATE").map_err(Fault::from);
    reader.execute_batch("BEGIN")?;
    reader.query_row("SELECT COUNT(*) FROM main.sqlite_schema", [], |_| Ok(()))?;
    let not_conclusive = match locked {
        Ok(()) => {
            writer.execute_batch("ROLLBACK")?;
            unfit_kind(&reader, &statements.table)?.flatten()
        }
        Err(Fault::Unreachable(reason)) => Some(format!(
            "a write that is under way could still store old values: {reason}; end it and count again"
        )),
        Err(fault) => return Err(fault),
    };
    drop(writer);

    let not_conclusive = damage(&reader, &statements.table)?.or(not_conclusive);
    let counted: i64 = reader.query_row(&statements.count, [], |row| row.get(0))?;
    let mut statement = reader.prepare(&statements.scan)?;
    let mut rows = statement.query([])?;
    let (mut visited, mut bytes, mut batch) = (0, 0, Vec::with_capacity(BATCH_CELLS));
    while let Some(row) = rows.next()? {
        let cell = bind::to_cell(row.get_ref(0)?);
        bytes += cell.bytes().map_or(0, <[u8]>::len);
        batch.push(cell);
        visited += 1;
        if batch.len() >= BATCH_CELLS || bytes >= BATCH_BYTES {
            bytes = 0;
            hand_over(give, std::mem::replace(&mut batch, Vec::with_capacity(BATCH_CELLS)))?;
        }
    }
    hand_over(give, batch)?;
    if Identity::of(path)? != identity {
        return Err(Fault::Unreachable(format!("{} was replaced during the census", path.display())));
    }
    Ok(Snapshot {
        visited,
        counted: counted.unsigned_abs(),
        not_conclusive,
        sql: statements.by_version,
        server: server(),
    })
}

fn hand_over(give: &mpsc::Sender<Vec<Cell>>, batch: Vec<Cell>) -> Result<(), Fault> {
    give.blocking_send(batch).map_err(|_| Fault::Unreachable("nobody waits for the census any more".into()))
}
