//! A primary and its replicas: which of them a server is, and how far the replicas are behind.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};

use super::{
    fault::Fault,
    galera::shown,
    pool::{Pool, Session},
};
use crate::behind::Behind;

/// How long all replicas together may take: less than whoever asks for the load waits.
const ASK: Duration = Duration::from_millis(800);

/// What it shows may be older than what was committed, and nothing is written to it.
const READ_ONLY: &str =
    "the server is read-only, as replicas are, and may be behind; name the primary in the source's url";

/// Why no snapshot of a server that replicates from another proves anything of that one.
pub(super) const REPLICA: &str = "the server replicates from another, which may have committed what is not here yet, and \
    does not get what is written here; name the primary in the source's url";

/// A server that takes no writes. Ours may be of an account that is let through: it is not written to all the same.
pub(super) async fn refuse_read_only(session: &mut Session) -> Result<(), Fault> {
    let (read_only,): (i64,) =
        sqlx::query_as("SELECT CAST(@@global.read_only OR @@global.innodb_read_only AS SIGNED)")
            .fetch_one(&mut session.connection)
            .await?;
    if read_only != 0 { Err(Fault::Unreachable(READ_ONLY.into())) } else { Ok(()) }
}

/// Why what a server shows may be older than what was committed elsewhere. Nodes of a Galera cluster are another matter.
pub(super) async fn doubt(session: &mut Session) -> Result<Option<String>, Fault> {
    match refuse_read_only(session).await {
        Err(Fault::Unreachable(reason)) if reason == READ_ONLY => Ok(Some(reason)),
        Err(fault) => Err(fault),
        Ok(()) => Ok(replicates(session).await?.then(|| REPLICA.into())),
    }
}

/// Whether it follows another server; without the right to see that, whether threads of replication run.
pub(super) async fn replicates(session: &mut Session) -> Result<bool, Fault> {
    let status = if session.server.mariadb { "SHOW ALL SLAVES STATUS" } else { "SHOW REPLICA STATUS" };
    match sqlx::raw_sql(status).fetch_all(&mut session.connection).await.map_err(Fault::from) {
        Ok(followed) => Ok(!followed.is_empty()),
        Err(Fault::Mistaken(_)) => {
            let running = shown(&mut session.connection, "SHOW GLOBAL STATUS LIKE 'Slave%running'").await?;
            Ok(running.values().any(|running| !["0", "OFF"].contains(&running.as_str())))
        }
        Err(fault) => Err(fault),
    }
}

/// Up to which number each domain's transactions are there.
type Position = BTreeMap<u32, u64>;

/// The replicas that the address names: connections with them, and how far they are behind.
#[derive(Default)]
pub(super) struct Replicas {
    open: Mutex<BTreeMap<String, Session>>,
    behind: Behind<Position>,
}

impl Replicas {
    /// How far the slowest of them is behind `primary`; `None`: none is named.
    pub(super) async fn lag(&self, pool: &Pool, primary: &mut Session) -> Result<Option<Duration>, Fault> {
        if pool.server().replicas.is_empty() {
            return Ok(None);
        }
        let written = position(primary, "SELECT CAST(@@global.gtid_binlog_pos AS CHAR)").await?;
        let (mut replayed, end) = (Vec::new(), Instant::now() + ASK);
        for address in &pool.server().replicas {
            let why = match timeout_at(end, self.ask(pool, address)).await {
                Ok(Ok(position)) => {
                    replayed.push(position);
                    continue;
                }
                Ok(Err(Fault::Unreachable(reason) | Fault::Mistaken(reason))) => reason,
                Err(_) => "no answer".into(),
            };
            return Err(Fault::Unreachable(format!("replica {address}: {why}")));
        }
        Ok(Some(self.behind.lag(written, |earlier| replayed.iter().all(|replayed| has(replayed, earlier)))))
    }

    async fn ask(&self, pool: &Pool, address: &str) -> Result<Position, Fault> {
        let mut open = self.open.lock().await;
        let mut replica = match open.remove(address) {
            Some(replica) => replica,
            None => pool.own_at(address).await?,
        };
        let position = position(&mut replica, "SELECT CAST(@@global.gtid_slave_pos AS CHAR)").await?;
        // One that failed is connected with anew.
        open.insert(address.to_owned(), replica);
        Ok(position)
    }
}

async fn position(session: &mut Session, question: &'static str) -> Result<Position, Fault> {
    let (text,): (Option<String>,) = sqlx::query_as(question).fetch_one(&mut session.connection).await?;
    Ok(parse(&text.unwrap_or_default()))
}

/// Of `0-1-100,1-7-20`: domain, server and number of each domain's last transaction.
fn parse(text: &str) -> Position {
    let one = |gtid: &str| {
        let mut parts = gtid.trim().split('-');
        Some((parts.next()?.parse().ok()?, parts.nth(1)?.parse().ok()?))
    };
    text.split(',').filter_map(one).collect()
}

fn has(replayed: &Position, position: &Position) -> bool {
    position.iter().all(|(domain, number)| replayed.get(domain).is_some_and(|reached| reached >= number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_has_a_position_when_every_domain_of_it_is_there() {
        let position = parse("0-1-100,1-7-20");
        assert_eq!(position, BTreeMap::from([(0, 100), (1, 20)]));
        for there in ["0-1-100,1-7-20", "1-9-21,0-2-100,5-1-1"] {
            assert!(has(&parse(there), &position), "{there}");
        }
        for not in ["", "0-1-100", "0-1-99,1-7-20"] {
            assert!(!has(&parse(not), &position), "{not}");
        }
        assert!(has(&parse(""), &parse("")));
    }
}
