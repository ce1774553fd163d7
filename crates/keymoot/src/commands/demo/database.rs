//! The users' database: one table of tokens, written by the clients and by the worker at the same time.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use keymoot_api::Base64Bytes;
use keymoot_types::KeyVersion;
use rusqlite::{Connection, OptionalExtension as _, params};
use sha2::{Digest as _, Sha256};

/// The worker's transactions are short; a writer waits for them.
const BUSY_TIMEOUT: Duration = Duration::from_secs(20);

/// One row.
pub(crate) struct Row {
    /// Its primary key.
    pub(crate) id: i64,
    /// The value, `km:v9:…`.
    pub(crate) token: String,
}

/// A connection of its own: every writer is another program to SQLite.
pub(crate) struct Database(Connection);

impl Database {
    /// Makes the file and its table.
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let database = Self::open(path)?;
        database
            .0
            .execute_batch("CREATE TABLE tokens (id INTEGER PRIMARY KEY, token TEXT NOT NULL)")
            .context("making the table of tokens")?;
        Ok(database)
    }

    /// Opens the file.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let connection = Connection::open(path).with_context(|| format!("can't open {}", path.display()))?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "normal")?;
        Ok(Self(connection))
    }

    /// Stores many new rows at once.
    pub(crate) fn insert(&mut self, rows: &[Row]) -> rusqlite::Result<()> {
        let transaction = self.0.transaction()?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO tokens (id, token) VALUES (?1, ?2)")?;
            for row in rows {
                insert.execute(params![row.id, row.token])?;
            }
        }
        transaction.commit()
    }

    /// One token.
    pub(crate) fn token(&self, id: i64) -> rusqlite::Result<Option<String>> {
        let mut select = self.0.prepare_cached("SELECT token FROM tokens WHERE id = ?1")?;
        select.query_row([id], |row| row.get(0)).optional()
    }

    /// Compare-and-swap: puts a token in the place of another, if that is still there. Says whether it was.
    pub(crate) fn replace(&self, id: i64, before: &str, after: &str) -> rusqlite::Result<bool> {
        let mut update = self.0.prepare_cached("UPDATE tokens SET token = ?3 WHERE id = ?1 AND token = ?2")?;
        Ok(update.execute(params![id, before, after])? == 1)
    }

    /// The next rows after an id, ascending.
    pub(crate) fn page(&self, after: i64, rows: usize) -> rusqlite::Result<Vec<Row>> {
        let mut select =
            self.0.prepare_cached("SELECT id, token FROM tokens WHERE id > ?1 ORDER BY id LIMIT ?2")?;
        let rows = select.query_map(params![after, i64::try_from(rows).unwrap_or(i64::MAX)], |row| {
            Ok(Row { id: row.get(0)?, token: row.get(1)? })
        })?;
        rows.collect()
    }

    /// All rows.
    pub(crate) fn count(&self) -> rusqlite::Result<u64> {
        self.0.query_row("SELECT count(*) FROM tokens", [], |row| row.get(0)).map(i64::unsigned_abs)
    }

    /// The values of one version, counted by what anybody can see of them.
    pub(crate) fn count_of(&self, version: KeyVersion) -> rusqlite::Result<u64> {
        let pattern = format!("km:v{version}:%");
        self.0
            .query_row("SELECT count(*) FROM tokens WHERE token LIKE ?1", [pattern], |row| row.get(0))
            .map(i64::unsigned_abs)
    }

    /// Moves all that was written into the one file, so that it can be copied as it is.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        self.0.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).context("closing the database")?;
        Ok(())
    }
}

/// What the token of a row holds: known to the demo, so that every answer can be checked.
pub(crate) fn plaintext(id: i64) -> Base64Bytes {
    let digest = Sha256::digest(id.to_be_bytes());
    let session = hex::encode(digest.get(..12).unwrap_or_default());
    Base64Bytes::new(format!("{{\"user\":{},\"session\":\"{session}\"}}", id % 10_007).into_bytes())
}

/// What a token is bound to: as the configuration's `associated_data = "tokens/{id}"` makes it.
pub(crate) fn associated_data(id: i64) -> Base64Bytes {
    Base64Bytes::new(format!("tokens/{id}").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_replaced_only_if_it_is_still_the_one_that_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut database = Database::create(&dir.path().join("app.db")).unwrap();
        database
            .insert(&[Row { id: 1, token: "km:v9:a".into() }, Row { id: 2, token: "km:v10:b".into() }])
            .unwrap();
        assert!(!database.replace(1, "km:v9:x", "km:v10:c").unwrap());
        assert!(database.replace(1, "km:v9:a", "km:v10:c").unwrap());
        let [v9, v10] = [9, 10].map(|number| database.count_of(KeyVersion::new(number).unwrap()).unwrap());
        assert_eq!((v9, v10, database.count().unwrap()), (0, 2, 2));
        assert_eq!(database.page(1, 10).unwrap().len(), 1);
    }
}
