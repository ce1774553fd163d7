//! Transactions that are older than a census: until they ended, they may write what no snapshot shows yet.

use std::{collections::HashSet, time::Duration};

use sqlx::PgConnection;
use tokio::time::{Instant, sleep};

use super::super::fault::Fault;

/// How long to wait for them.
const PATIENCE: Duration = Duration::from_secs(4);

/// How often to look.
const BEAT: Duration = Duration::from_millis(50);

/// How many are named.
const NAMED_MAX: usize = 10;

/// Those that are open in this database: which, and how a person knows it.
///
/// Every transaction holds a lock on its own number as long as it is open. That tells it from the next one of its process
/// whatever the server's clock does, and also where `track_activities` is off and no beginning is shown.
///
/// Of a prepared transaction nothing tells who it was, and one that was open a moment ago may have become one since:
/// it has no number, and every one counts. They are looked at last, lest one slip through between the two. What only
/// reads is left out where that is known: a vacuum, and our own census beside this one. What serves replicas is not, as it
/// runs any statement. A statement's text is never asked for.
///
/// A procedure that commits goes on in another transaction, with what it read in those before: of those that run,
/// the statement's beginning is a number too.
const OPEN: &str = "
    SELECT virtualtransaction, format('process %s of user %s%s', pid, usename,
        ', open for ' || greatest(extract(epoch FROM clock_timestamp() - xact_start)::int8, 0) || ' s')
    FROM pg_catalog.pg_locks JOIN pg_catalog.pg_stat_activity USING (pid)
    WHERE locktype = 'virtualxid' AND mode = 'ExclusiveLock' AND datname = current_database()
        AND pid <> pg_backend_pid() AND backend_type NOT IN ('autovacuum worker', 'parallel worker')
        AND NOT (application_name = 'keymoot' AND usename = session_user AND backend_xid IS NULL)
    UNION ALL
    SELECT format('%s %s', pid, query_start), format('process %s of user %s, in one statement for %s s', pid, usename,
        greatest(extract(epoch FROM clock_timestamp() - query_start)::int8, 0))
    FROM pg_catalog.pg_stat_activity
    WHERE state = 'active' AND datname = current_database() AND pid <> pg_backend_pid() AND query_start IS NOT NULL
        AND backend_type = 'client backend'
        AND NOT (application_name = 'keymoot' AND usename = session_user AND backend_xid IS NULL)
    UNION ALL
    SELECT NULL, format('prepared transaction %L of user %s, prepared %s s ago', gid, owner,
        greatest(extract(epoch FROM clock_timestamp() - prepared)::int8, 0))
    FROM pg_catalog.pg_prepared_xacts WHERE database = current_database()";

/// Waits for all that is open at this moment; a snapshot that is taken afterwards shows what those wrote. Answers
/// why it may not, where some would not end or can't be seen.
pub(super) async fn wait(connection: &mut PgConnection) -> Result<Option<String>, Fault> {
    let (sees, role): (bool, String) = sqlx::query_as(
        "SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'), quote_ident(current_user)",
    )
    .fetch_one(&mut *connection)
    .await?;
    if !sees {
        return Ok(Some(format!(
            "other transactions that may still write can't be seen; GRANT pg_read_all_stats TO {role}"
        )));
    }
    let end = Instant::now() + PATIENCE;
    let mut first: Option<HashSet<String>> = None;
    loop {
        let open: Vec<(Option<String>, String)> = sqlx::query_as(OPEN).fetch_all(&mut *connection).await?;
        let first = first.get_or_insert_with(|| open.iter().filter_map(|(number, _)| number.clone()).collect());
        let is_older = |number: &Option<String>| number.as_ref().is_none_or(|number| first.contains(number));
        let mut older: Vec<String> =
            open.into_iter().filter(|(number, _)| is_older(number)).map(|(_, other)| other).collect();
        if older.is_empty() {
            return Ok(None);
        }
        if Instant::now() >= end {
            let more = older.len().saturating_sub(NAMED_MAX);
            older.truncate(NAMED_MAX);
            if more > 0 {
                older.push(format!("{more} more"));
            }
            return Ok(Some(format!(
                "transactions that are older than the census may still write: {}; end them and count again",
                older.join("; ")
            )));
        }
        sleep(BEAT).await;
    }
}
