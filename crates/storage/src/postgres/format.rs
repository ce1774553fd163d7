//! The tables of the metadata store: made, checked and brought to the newest format.

use sqlx::PgConnection;

use super::{fault::Fault, pool::Work};

/// Each file makes one format out of the one before it, and only ever adds.
const MIGRATIONS: [&str; 1] = [include_str!("migrations/0001_records.sql")];

/// The format that this build writes.
const NEWEST: i32 = MIGRATIONS.len() as i32;

/// Names the lock under which tables are made: one of ours among all advisory locks of the database.
const LOCK: i64 = 0x6b65_796d_6f6f_7401;

/// Checks the tables, and makes or extends them where they are missing or older.
pub(super) fn open(connection: &mut PgConnection, used: bool) -> Work<'_, ()> {
    Box::pin(async move {
        match format(connection).await? {
            Some(format) if format >= NEWEST => Ok(()),
            // An empty store in its place would look like a keyring that never was.
            None if used => Err(Fault::Damaged("its tables were removed while they were in use".into())),
            _ => migrate(connection).await,
        }
    })
}

/// The same, and tables that are not there are not made.
pub(super) fn open_existing(connection: &mut PgConnection, used: bool) -> Work<'_, ()> {
    Box::pin(async move {
        if format(connection).await?.is_none() {
            return Err(Fault::Unreachable("the database holds no metadata of Keymoot".into()));
        }
        open(connection, used).await
    })
}

/// The format of the tables, `None` where there are none. One that this build can't work with is refused before
/// any record is read.
async fn format(connection: &mut PgConnection) -> Result<Option<i32>, Fault> {
    // Not by `to_regclass`, which may remember from before another node's commit that there is none.
    let (encoding, there): (String, bool) = sqlx::query_as(
        "SELECT current_setting('server_encoding'), EXISTS (SELECT FROM pg_class \
         WHERE relname = 'keymoot_format' AND pg_table_is_visible(oid))",
    )
    .fetch_one(&mut *connection)
    .await?;
    if encoding != "UTF8" {
        return Err(Fault::Unreachable(format!("the database has the encoding {encoding}; make one with UTF8")));
    }
    if !there {
        return Ok(None);
    }
    let found: Option<(i32, i32)> =
        sqlx::query_as("SELECT format, oldest_build FROM keymoot_format WHERE one = 1")
            .fetch_optional(connection)
            .await?;
    match found {
        None => Err(Fault::Damaged("the table keymoot_format is empty".into())),
        Some((format, oldest)) if oldest > NEWEST => Err(Fault::Damaged(format!(
            "it has format {format}, for builds that know {oldest}, and this one knows {NEWEST}; use a newer build"
        ))),
        Some((format, _)) => Ok(Some(format)),
    }
}

async fn migrate(connection: &mut PgConnection) -> Result<(), Fault> {
    sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *connection).await?;
    // Again, under the lock: another node may have been faster.
    let done = format(connection).await?.unwrap_or(0);
    for (number, sql) in (1..).zip(MIGRATIONS) {
        if number > done {
            sqlx::raw_sql(sql).execute(&mut *connection).await?;
            sqlx::query("UPDATE keymoot_format SET format = $1").bind(number).execute(&mut *connection).await?;
        }
    }
    sqlx::raw_sql("COMMIT").execute(connection).await?;
    Ok(())
}
