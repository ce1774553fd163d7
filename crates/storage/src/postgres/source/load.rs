//! How busy the server is, asked for beside the batches.

use std::{sync::Arc, time::Duration};

use sqlx::{PgConnection, Row as _};

use super::{super::fault::Fault, beside::STANDBY, sql::one_number};
use crate::{
    behind::Behind,
    source::{Load, NO_NUMBER},
};

/// What replicas have not replayed yet, what others run, and who of them waits for a lock. Columns of others are
/// NULL to a role that may not see them: then nothing is said. `replay_lag` stands still while a replica says nothing, so
/// that positions are compared too; those of subscribers lag behind what does not concern them, and are left out.
const QUESTION: &str = "
    SELECT standby,
        CASE WHEN sees THEN
            (SELECT extract(epoch FROM max(coalesce(replay_lag, interval '0')))::float8 FROM pg_stat_replication) END,
        CASE WHEN NOT standby THEN (pg_current_wal_flush_lsn() - '0/0')::int8 END,
        CASE WHEN sees THEN (SELECT (min(replay_lsn) - '0/0')::int8 FROM pg_stat_replication
            WHERE pid NOT IN (SELECT active_pid FROM pg_replication_slots
                WHERE slot_type = 'logical' AND active_pid IS NOT NULL)) END,
        CASE WHEN sees THEN (SELECT count(*) FROM pg_stat_activity
            WHERE state = 'active' AND backend_type = 'client backend' AND application_name <> 'keymoot') END,
        (SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted AND pid NOT IN
            (SELECT pid FROM pg_stat_activity WHERE application_name = 'keymoot' AND usename = session_user))
    FROM (SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees, pg_is_in_recovery() AS standby) AS here";

pub(super) async fn load(
    connection: &mut PgConnection,
    throttle_query: Option<String>,
    behind: Arc<Behind<i64>>,
) -> Result<Load, Fault> {
    let (standby, lag, written, replayed, active, waits): (
        bool,
        Option<f64>,
        Option<i64>,
        Option<i64>,
        Option<i64>,
        i64,
    ) = sqlx::query_as(QUESTION).fetch_one(&mut *connection).await?;
    if standby {
        return Err(Fault::Unreachable(STANDBY.into()));
    }
    let said = lag.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok());
    let seen = written.zip(replayed).map(|(written, replayed)| {
        // A primary that took over may be where the one before was earlier.
        behind.lag(written, |earlier| *earlier <= replayed || *earlier > written)
    });
    let throttle_query = match throttle_query {
        Some(sql) => Some(number(connection, sql).await?),
        None => None,
    };
    Ok(Load {
        replica_lag: said.max(seen),
        active: active.map(i64::unsigned_abs),
        lock_waits: Some(waits.unsigned_abs()),
        throttle_query,
    })
}

/// The one number of a user's own query, which can change nothing and is ended after two seconds.
async fn number(connection: &mut PgConnection, sql: String) -> Result<f64, Fault> {
    sqlx::raw_sql(
        "BEGIN READ ONLY; SET LOCAL statement_timeout = '2s'; SET LOCAL enable_seqscan = on; \
         SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on; SET LOCAL enable_bitmapscan = on",
    )
    .execute(&mut *connection)
    .await?;
    let row = one_number(&sql).fetch_one(&mut *connection).await?;
    sqlx::raw_sql("COMMIT").execute(connection).await?;
    let number: Option<f64> = row.try_get(0)?;
    number.ok_or_else(|| Fault::Mistaken(NO_NUMBER.into()))
}
