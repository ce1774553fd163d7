//! Transactions that began before a census and may still write: what they wrote, its snapshot would not show.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use backon::{BackoffBuilder as _, ConstantBuilder};
use sqlx::{AssertSqlSafe, Row as _};
use tokio::time::{Instant, sleep};

use super::{fault::Fault, pool::Session};

/// How long to wait for those that end by themselves.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long between two looks, and at most as long again: the server renews its list of transactions only when nobody
/// has read it for 100 ms, and others may be looking too.
const BETWEEN: Duration = Duration::from_millis(200);

/// The most that are named.
const NAMED_MAX: usize = 5;

/// Why an old list tells nothing.
const OLD_LIST: &str = "whether older transactions can still store old values is not known: others read information_schema.INNODB_TRX more \
     often than ten times a second, which keeps the server from renewing it; stop them and count again";

/// What may still write: a transaction, or a statement that has none yet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Open {
    /// Which. `None`: a prepared transaction, of which nothing tells when it began, and that a moment ago may have been
    /// another's.
    key: Option<String>,
    thread: String,
    /// The engine knows nothing of it until it comes to its first row, and before that it may wait for a lock.
    is_statement: bool,
    /// How a person knows it.
    shown: String,
}

/// What was open at the first look.
struct First {
    keys: HashSet<String>,
    /// Threads with a statement that had no transaction: the one that it came into since, once it was seen, or none yet.
    threads: HashMap<String, Option<String>>,
}

impl First {
    fn of(open: &[Open]) -> Self {
        let statements = open.iter().filter(|open| open.is_statement);
        Self {
            keys: open.iter().filter_map(|open| open.key.clone()).collect(),
            threads: statements.map(|open| (open.thread.clone(), None)).collect(),
        }
    }

    /// Those of them that are left.
    fn left(&mut self, mut open: Vec<Open>) -> Vec<Open> {
        let Self { keys, threads } = self;
        // The same text may be run again: what was not there once has ended.
        keys.retain(|key| open.iter().any(|open| open.key.as_ref() == Some(key)));
        let known = |open: &Open| open.key.as_ref().is_none_or(|key| keys.contains(key));
        threads.retain(|thread, came_into| {
            let mut of_thread = open.iter().filter(|open| open.thread == *thread);
            if of_thread.clone().any(|open| open.is_statement && known(open)) {
                return true;
            }
            let Some(now) = of_thread.find(|open| !open.is_statement).and_then(|open| open.key.as_ref()) else {
                return false;
            };
            // Another one than at the last look: its own has ended.
            came_into.get_or_insert_with(|| now.clone()) == now
        });
        open.retain(|open| known(open) || (!open.is_statement && threads.contains_key(&open.thread)));
        open
    }
}

/// Waits until every transaction that is open now has ended. Says why a snapshot taken then proves nothing, if one did
/// not end, or if nobody may see them.
pub(super) async fn still_running(session: &mut Session) -> Result<Option<String>, Fault> {
    let end = Instant::now() + PATIENCE;
    let mut waits = ConstantBuilder::default().with_delay(BETWEEN).with_jitter().without_max_times().build();
    let mut first: Option<First> = None;
    loop {
        let why = match open(session).await {
            Ok(Some(open)) => {
                let left = first.get_or_insert_with(|| First::of(&open)).left(open);
                if left.is_empty() {
                    return Ok(None);
                }
                named(&left)
            }
            Ok(None) => OLD_LIST.to_owned(),
            Err(Fault::Mistaken(reason)) => return Ok(Some(unseen(session, &reason))),
            Err(fault) => return Err(fault),
        };
        if Instant::now() >= end {
            return Ok(Some(why));
        }
        sleep(waits.next().unwrap_or(BETWEEN)).await;
    }
}

fn unseen(session: &Session, reason: &str) -> String {
    format!(
        "whether older transactions can still store old values is not known: {reason}. {} and count again",
        right(session)
    )
}

/// The right that is needed to see them.
pub(super) fn right(session: &Session) -> &'static str {
    if session.server.mariadb { "GRANT PROCESS ON *.*" } else { "GRANT PROCESS, XA_RECOVER_ADMIN ON *.*" }
}

fn named(left: &[Open]) -> String {
    let shown: Vec<&str> = left.iter().take(NAMED_MAX).map(|open| open.shown.as_str()).collect();
    let others = left.len().saturating_sub(NAMED_MAX);
    let others = if others > 0 { format!(" and {others} more") } else { String::new() };
    format!(
        "transactions that are older than the census could still store old values: {}{others}; end them and count again",
        shown.join(", ")
    )
}

/// Those that are open, or `None` where the server's list is an old one. It is a new one if it shows, in a transaction of
/// our own, the very statement that asks for it.
async fn open(session: &mut Session) -> Result<Option<Vec<Open>>, Fault> {
    // First: what comes into its transaction meanwhile is seen there.
    let mut open = statements(session).await?;
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let asked = format!("keymoot asks {}.", ASKED.fetch_add(1, Ordering::Relaxed));
    let begin = "SET SESSION time_zone = 'SYSTEM'; SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; \
         START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";
    sqlx::raw_sql(begin).execute(&mut session.connection).await?;
    // Ages by the server's clock, in which it notes the beginnings. Never others' statements: they may hold values.
    let running = format!(
        "SELECT '{asked}', CAST(trx_mysql_thread_id AS CHAR), CAST(trx_started AS CHAR), \
         CAST(GREATEST(TIMESTAMPDIFF(SECOND, trx_started, NOW()), 0) AS CHAR), \
         IF(trx_mysql_thread_id <> CONNECTION_ID(), 'other', IF(LOCATE('{asked}', trx_query) > 0, 'own', 'earlier')) \
         FROM information_schema.INNODB_TRX \
         WHERE trx_mysql_thread_id = CONNECTION_ID() OR (trx_is_read_only = 0 AND trx_autocommit_non_locking = 0)"
    );
    let mut renewed = false;
    for row in sqlx::raw_sql(AssertSqlSafe(running)).fetch_all(&mut session.connection).await? {
        let text = |at: usize| row.try_get_unchecked::<String, _>(at);
        let (thread, started, seconds) = (text(1)?, text(2)?, text(3)?);
        match text(4)?.as_str() {
            "own" => renewed = true,
            "earlier" => {}
            _ => open.push(Open {
                key: Some(format!("{thread} {started}")),
                shown: format!("thread {thread} ({seconds} s)"),
                thread,
                is_statement: false,
            }),
        }
    }
    sqlx::raw_sql("COMMIT").execute(&mut session.connection).await?;
    // Prepared ones belong to no thread any more once theirs has gone.
    for row in sqlx::raw_sql("XA RECOVER").fetch_all(&mut session.connection).await? {
        let xid = hex::encode(row.try_get_unchecked::<Vec<u8>, _>(3)?);
        open.push(Open {
            key: None,
            thread: String::new(),
            is_statement: false,
            shown: format!("prepared XA transaction 0x{xid}"),
        });
    }
    Ok(renewed.then_some(open))
}

/// What others run and does not by its first word only read, or waits for a lock. Which statement it is the server tells by
/// a number, or by a digest of it. Of a procedure it shows the statement that it is at, so that one which commits on its
/// way is not followed; nor is a function that has not come to its first row.
async fn statements(session: &mut Session) -> Result<Vec<Open>, Fault> {
    let number = if session.server.mariadb { "QUERY_ID" } else { "MD5(INFO)" };
    let running = format!(
        "SELECT CAST(ID AS CHAR), CAST({number} AS CHAR), CAST(TIME AS CHAR) FROM information_schema.PROCESSLIST \
         WHERE ID <> CONNECTION_ID() AND INFO IS NOT NULL AND COMMAND <> 'Daemon' AND USER <> 'system user' \
         AND (COALESCE(STATE, '') LIKE 'Waiting for %lock%' \
             OR REGEXP_REPLACE(LEFT(INFO, 1000), '(?s)^([[:space:](]|/[*]([*]/|[^!M*].*?[*]/|[*][^/].*?[*]/))+', '') \
             NOT REGEXP '(?i)^(SELECT|SHOW|EXPLAIN|DESC)[[:space:]]')"
    );
    let mut open = Vec::new();
    for row in sqlx::raw_sql(AssertSqlSafe(running)).fetch_all(&mut session.connection).await? {
        let text = |at: usize| row.try_get_unchecked::<String, _>(at);
        let (thread, number, seconds) = (text(0)?, text(1)?, text(2)?);
        let shown = format!("a statement of thread {thread} ({seconds} s)");
        open.push(Open { key: Some(format!("{thread}: {number}")), thread, is_statement: true, shown });
    }
    Ok(open)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a thread: a statement by its number, or a transaction by its beginning.
    fn open(thread: &str, statement: Option<u32>, began: Option<u32>) -> Vec<Open> {
        let one =
            |key, is_statement| Open { key: Some(key), thread: thread.into(), is_statement, shown: String::new() };
        let statement = statement.map(|number| one(format!("{thread}: {number}"), true));
        statement.into_iter().chain(began.map(|began| one(format!("{thread} {began}"), false))).collect()
    }

    #[test]
    fn a_statement_without_a_transaction_is_waited_for_with_the_one_that_it_comes_into() {
        // What a thread does from look to look, and whether it is still waited for.
        let waits = (Some(1), None);
        type Look = ((Option<u32>, Option<u32>), bool);
        let stories: [&[Look]; 7] = [
            &[(waits, true), (waits, true), ((None, None), false)],
            // In its transaction, and that goes on behind it.
            &[
                (waits, true),
                ((Some(1), Some(5)), true),
                ((None, Some(5)), true),
                ((Some(2), Some(5)), true),
                ((None, None), false),
            ],
            // It ended, and the thread does other things.
            &[(waits, true), ((Some(2), None), false), ((Some(2), Some(5)), false)],
            &[(waits, true), ((Some(2), Some(5)), true), ((Some(3), Some(6)), false)],
            &[(waits, true), ((None, Some(5)), true), ((None, Some(6)), false), ((None, Some(5)), false)],
            // The same text once more.
            &[(waits, true), ((None, None), false), (waits, false)],
            // What was no statement at the first look is younger.
            &[((None, None), false), (waits, false), ((Some(1), Some(5)), false)],
        ];
        for story in stories {
            let (statement, began) = story[0].0;
            let mut first = First::of(&open("7", statement, began));
            for ((statement, began), waited) in story {
                let left = first.left(open("7", *statement, *began));
                assert_eq!(!left.is_empty(), *waited, "{story:?}: {left:?}");
            }
        }
    }

    #[test]
    fn a_transaction_is_waited_for_until_it_ends_and_a_prepared_one_whenever_it_is_seen() {
        let mut first = First::of(&open("7", None, Some(5)));
        assert_eq!(first.left(open("7", Some(3), Some(5))).len(), 1);
        assert_eq!(first.left(open("7", None, Some(6))), []);
        assert_eq!(first.left(open("8", None, Some(5))), []);
        let prepared = Open { key: None, ..open("", None, Some(0)).remove(0) };
        assert_eq!(first.left(vec![prepared]).len(), 1);
    }
}
