//! How busy the server is, asked for beside the batches.

use sqlx::AssertSqlSafe;

use super::{
    fault::Fault,
    pool::{STATEMENT, Session},
};
use crate::source::{Load, NO_NUMBER, THROTTLE_QUERY};

/// Statements of other accounts, and those of their transactions that wait for a lock.
const OTHERS: &str = "
    SELECT CAST(SUM(p.COMMAND IN ('Query', 'Execute')) AS SIGNED), CAST(SUM(t.trx_state <=> 'LOCK WAIT') AS SIGNED)
    FROM information_schema.PROCESSLIST AS p
    LEFT JOIN information_schema.INNODB_TRX AS t ON t.trx_mysql_thread_id = p.ID
    WHERE p.USER <> SUBSTRING_INDEX(USER(), '@', 1)";

/// All but what concerns other servers.
pub(super) async fn load(session: &mut Session, throttle_query: Option<&str>) -> Result<Load, Fault> {
    let others: Result<(Option<i64>, Option<i64>), Fault> =
        sqlx::query_as(OTHERS).fetch_one(&mut session.connection).await.map_err(Fault::from);
    let (active, lock_waits) = match others {
        // No row: nobody else is there.
        Ok((active, waits)) => (Some(active.unwrap_or(0).unsigned_abs()), Some(waits.unwrap_or(0).unsigned_abs())),
        // Without the right to see others nothing is said of them.
        Err(Fault::Mistaken(_)) => (None, None),
        Err(fault) => return Err(fault),
    };
    let throttle_query = match throttle_query {
        Some(sql) => Some(number(session, sql).await?),
        None => None,
    };
    Ok(Load { replica_lag: None, active, lock_waits, throttle_query })
}

/// The one number of a user's own query, which can change nothing and is ended after two seconds.
async fn number(session: &mut Session, sql: &str) -> Result<f64, Fault> {
    session.limit_statements(THROTTLE_QUERY).await?;
    sqlx::raw_sql("START TRANSACTION READ ONLY").execute(&mut session.connection).await?;
    // The administrator's own statement, from the configuration; one, as a prepared statement is no more.
    let sql = format!("SELECT ({}) + 0e0", sql.trim().trim_end_matches(';'));
    let asked = sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&mut session.connection);
    let (number,): (Option<f64>,) = asked.await?;
    sqlx::raw_sql("COMMIT").execute(&mut session.connection).await?;
    session.limit_statements(STATEMENT).await?;
    number.ok_or_else(|| Fault::Mistaken(NO_NUMBER.into()))
}
