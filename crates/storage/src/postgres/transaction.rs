//! A transaction whose outcome is known, also where the answer to its commit was lost.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use sqlx::PgConnection;
use tokio::time::{Instant, sleep};

use super::{
    fault::Fault,
    pool::{Pool, Work},
};
use crate::{away, pool::Failure as _};

/// How long to ask what became of a commit.
const SETTLE: Duration = Duration::from_secs(8);

/// How long that question may take.
const QUESTION: Duration = Duration::from_secs(2);

/// Runs `work` in a transaction, which is committed only if it answers `Ok(Ok)`.
pub(super) async fn transact<T, E, F>(pool: &Pool, limit: Duration, work: F) -> Result<Result<T, E>, Fault>
where
    T: Clone + Send + Sync + 'static,
    E: Send + 'static,
    F: for<'s> FnOnce(&'s mut PgConnection) -> Work<'s, Result<T, E>> + Send + 'static,
{
    // Filled right before the commit is sent: from then on a failure does not say that nothing was done.
    let committing = Arc::new(OnceLock::new());
    let noted = Arc::clone(&committing);
    let done = pool.run(limit, move |connection| {
        Box::pin(async move {
            sqlx::raw_sql("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").execute(&mut *connection).await?;
            let (transaction,): (String,) =
                sqlx::query_as("SELECT pg_current_xact_id()::text").fetch_one(&mut *connection).await?;
            let answer = work(&mut *connection).await?;
            let end = match &answer {
                Ok(done) => {
                    drop(noted.set((transaction, done.clone())));
                    "COMMIT"
                }
                Err(_) => "ROLLBACK",
            };
            sqlx::raw_sql(end).execute(&mut *connection).await?;
            Ok(answer)
        })
    });
    match (done.await, committing.get()) {
        (Err(fault), Some((transaction, done))) => {
            settle(pool, transaction, fault).await.map(|()| Ok(done.clone()))
        }
        (done, _) => done,
    }
}

/// Asks the server for the outcome until it is known; `fault` is why it is not.
async fn settle(pool: &Pool, transaction: &str, fault: Fault) -> Result<(), Fault> {
    let end = Instant::now() + SETTLE;
    for wait in away::waits() {
        let transaction = transaction.to_owned();
        let asked = pool.run(QUESTION, |connection| {
            Box::pin(async move {
                let status: (Option<String>,) = sqlx::query_as("SELECT pg_xact_status($1::text::xid8)")
                    .bind(transaction)
                    .fetch_one(connection)
                    .await?;
                Ok(status.0)
            })
        });
        match asked.await.as_ref().map(Option::as_deref) {
            Ok(Some("committed")) => return Ok(()),
            Ok(Some("aborted")) => return Err(fault),
            // Still under way, or nobody to ask.
            _ => {}
        }
        if Instant::now() + wait >= end {
            break;
        }
        sleep(wait).await;
    }
    Err(Fault::Unreachable(format!("whether a write was done is not known: {}", fault.reason())))
}
