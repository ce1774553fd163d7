//! How a connection to a user's database is set up: it waits for others and never makes them wait for long.

use sqlx::PgConnection;

use super::super::{fault::Fault, pool::Work};

/// Time-outs hold on the server too, so that nothing of ours outlives the node that began it. A chunk goes by the
/// index of the ids, whatever the statistics say of the table: other plans would sort all of it.
const SETTINGS: &str = "
    SET statement_timeout = '30s'; SET lock_timeout = '2s'; SET idle_in_transaction_session_timeout = '30s';
    SET default_transaction_isolation = 'read committed'; SET row_security = off;
    SET standard_conforming_strings = on; SET jit = off; SET max_parallel_workers_per_gather = 0;
    SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off";

/// For one transaction that looks at a whole table, of which no policy may hide a row.
pub(super) const WHOLE_TABLE: &str =
    "SET LOCAL enable_seqscan = on; SET LOCAL enable_bitmapscan = on; SET LOCAL row_security = off";

/// Sets a new connection up.
pub(super) fn prepare(connection: &mut PgConnection, _used: bool) -> Work<'_, ()> {
    Box::pin(async move {
        sqlx::raw_sql(SETTINGS).execute(&mut *connection).await?;
        let (version, number): (String, i32) = sqlx::query_as(
            "SELECT current_setting('server_version'), current_setting('server_version_num')::int4",
        )
        .fetch_one(&mut *connection)
        .await?;
        // `pg_current_xact_id` and `pg_xact_status` of 64 bits.
        if number < 130_000 {
            return Err(Fault::Mistaken(format!("PostgreSQL 13 or later is needed; this is {version}")));
        }
        // A role's own limit would end a census of a large table; ours are on statements.
        if number >= 170_000 {
            sqlx::raw_sql("SET transaction_timeout = 0").execute(connection).await?;
        }
        Ok(())
    })
}

/// As in `PostgreSQL 15.14`.
pub(super) async fn server(connection: &mut PgConnection) -> Result<String, Fault> {
    let (version,): (String,) =
        sqlx::query_as("SELECT current_setting('server_version')").fetch_one(connection).await?;
    Ok(format!("PostgreSQL {version}"))
}

/// Whether others on the way can't read along.
pub(super) async fn is_encrypted(connection: &mut PgConnection) -> Result<bool, Fault> {
    let (encrypted,): (Option<bool>,) =
        sqlx::query_as("SELECT (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid())")
            .fetch_one(connection)
            .await?;
    Ok(encrypted == Some(true))
}
