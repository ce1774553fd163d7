//! The file of the metadata store: made, checked and brought to the newest format.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::{BUSY_TIMEOUT, fault::Fault, session::History};

/// `KMmd`: says that a SQLite file is ours.
const APPLICATION_ID: i64 = 0x4b4d_6d64;

/// Each file makes one format out of the one before it. The format is `PRAGMA user_version`.
const MIGRATIONS: [&str; 1] = [include_str!("migrations/0001_records.sql")];

/// The format that this build writes.
const NEWEST: i64 = MIGRATIONS.len() as i64;

/// Only its owner may read it: it names people.
const FILE_MODE: u32 = 0o600;

/// Opens the file, and makes it where there is none. A file that this process had open and that is gone now is
/// *not* made again: an empty store in its place would look like a keyring that never was.
pub(super) fn open(path: &Path, history: History) -> Result<Connection, Fault> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => {
            fs::set_permissions(path, Permissions::from_mode(FILE_MODE))
                .map_err(|error| Fault::io("take others' rights from", path, &error))?;
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound && history.opened => {
            return Err(Fault::Unreachable(format!(
                "{} was deleted or moved away while it was in use; put it back, or restart to begin an empty store",
                path.display()
            )));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path)?,
        Err(error) => return Err(Fault::io("look at", path, &error)),
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let format = format(&connection)?;
    if format == 0 && history.opened {
        return Err(Fault::Damaged(format!("{} was emptied while it was in use", path.display())));
    }
    durable(&connection, history)?;
    if format == 0 {
        sync_name(path)?;
    }
    if format < NEWEST {
        migrate(&mut connection)?;
    }
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(Fault::Damaged(verdict));
    }
    Ok(connection)
}

/// The same, and a file that is not there is not made.
pub(super) fn open_existing(path: &Path, history: History) -> Result<Connection, Fault> {
    fs::metadata(path).map_err(|error| Fault::io("look at", path, &error))?;
    open(path, history)
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

fn create(path: &Path) -> Result<(), Fault> {
    let parent = parent(path);
    match OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path) {
        Ok(_) => Ok(()),
        // Somebody else made it meanwhile.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Fault::Unreachable(format!("the directory {} does not exist; make it", parent.display())))
        }
        Err(error) => Err(Fault::io("make", path, &error)),
    }
}

/// Else a power cut could take the file's name with it, and every acknowledged record; so too where whoever made the
/// file was killed before this.
fn sync_name(path: &Path) -> Result<(), Fault> {
    let parent = parent(path);
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| Fault::io("sync", parent, &error))
}

/// The format of the file. A newer one, or another program's, is refused before anything else is read.
fn format(connection: &Connection) -> Result<i64, Fault> {
    let pragma = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let application = pragma("PRAGMA application_id")?;
    let format = pragma("PRAGMA user_version")?;
    if application == 0 && format == 0 && pragma("SELECT COUNT(*) FROM sqlite_schema")? == 0 {
        return Ok(0);
    }
    if application != APPLICATION_ID {
        return Err(Fault::Damaged("this SQLite file belongs to another program".into()));
    }
    if !(1..=NEWEST).contains(&format) {
        return Err(Fault::Damaged(format!(
            "it has format {format} and this build knows 1 to {NEWEST}; use the newer build that wrote it"
        )));
    }
    Ok(format)
}

/// A commit is on disk when it returns. After a failed one, everything that can be read is written and synced
/// once more, because the kernel reports a failed fsync once and then shows pages that no disk holds.
fn durable(connection: &Connection, history: History) -> Result<(), Fault> {
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Fault::Unreachable(format!(
            "its file system allows no write-ahead log (journal_mode is {mode})"
        )));
    }
    connection.execute_batch("PRAGMA synchronous = FULL")?;
    if history.failed {
        let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy != 0 {
            return Err(Fault::Unreachable(
                "another connection keeps its log from being synced after an error".into(),
            ));
        }
    }
    Ok(())
}

fn migrate(connection: &mut Connection) -> Result<(), Fault> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Again, under the lock: another process may have been faster.
    let done = format(&transaction)?;
    for (number, sql) in (1..).zip(MIGRATIONS) {
        if number > done {
            transaction.execute_batch(sql)?;
            transaction.pragma_update(None, "user_version", number)?;
        }
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    Ok(transaction.commit()?)
}
