//! A census of a cluster: rows are counted on one node, and all the others must agree with it.
//!
//! A healthy cluster can have nodes that differ, and a paused one answers from yesterday. So a count is conclusive only
//! if every node is there, takes part, has no older transaction left, and counts the same in each class that an old key
//! could be needed for.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{AssertSqlSafe, Row as _};
use tokio::time::{sleep, timeout};

use super::{
    fault::Fault,
    galera::State,
    older,
    pool::{Pool, Session},
    replicas,
    source::LIMIT_SCAN,
    sql::Sql,
};

/// How long a node may take to say how it is.
const ASK: Duration = Duration::from_secs(20);

/// How long a node's older transactions may take to end, with what it takes to apply what others committed.
const OLDER: Duration = Duration::from_secs(60);

/// An application's writes may fall between two nodes' counts.
const COUNTS: usize = 3;
const BETWEEN: Duration = Duration::from_millis(200);

/// A node and a connection with it.
struct Node {
    address: String,
    session: Session,
    state: State,
}

/// The nodes of a source's cluster; of a server that is in none, nothing.
pub(super) struct Cluster {
    nodes: Vec<Node>,
    /// Why the count proves nothing: what was found first.
    doubt: Option<String>,
}

/// Rows by class, as [`Sql::by_version`] names them.
type Counts = BTreeMap<String, i64>;

impl Cluster {
    /// Connects with every node of the server's cluster.
    pub(super) async fn of(pool: &Pool, session: &mut Session) -> Result<Self, Fault> {
        let mut cluster = Self { nodes: Vec::new(), doubt: None };
        if session.server.galera {
            let own = State::ask(session).await?;
            if let Err(doubt) = cluster.connect(pool, &own).await {
                cluster.doubt = Some(doubt);
            }
        }
        Ok(cluster)
    }

    async fn connect(&mut self, pool: &Pool, own: &State) -> Result<(), String> {
        for address in &own.addresses {
            let connected = pool.own_at(address);
            let mut session = of_node(address, ASK, connected).await?;
            let state = of_node(address, ASK, State::ask(&mut session)).await?;
            self.nodes.push(Node { address: address.clone(), session, state });
        }
        self.is_one(own)
    }

    /// Every node is here, and they are one cluster.
    fn is_one(&self, own: &State) -> Result<(), String> {
        own.doubt().map_or(Ok(()), |doubt| Err(format!("of the node that was connected to, {doubt}")))?;
        for Node { address, state, .. } in &self.nodes {
            if let Some(doubt) = state.doubt() {
                return Err(format!("node {address}: {doubt}"));
            }
            if (&state.data, &state.view, state.size) != (&own.data, &own.view, own.size) {
                return Err(format!("node {address} is of another cluster, or the cluster is changing"));
            }
        }
        let mut ids: Vec<&str> = self.nodes.iter().map(|node| node.state.node.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.len() != own.size || !ids.contains(&own.node.as_str()) {
            return Err(format!(
                "the cluster has {} nodes and {} were reached: set wsrep_node_incoming_address of each to the host and \
                 port at which Keymoot reaches it",
                own.size,
                ids.len()
            ));
        }
        let configured = self.nodes.iter().map(|node| node.state.configured).max().unwrap_or_default();
        if configured > own.size {
            return Err(format!(
                "the cluster has {} nodes and wsrep_cluster_address names {configured}: let the others join, or take them \
                 out of it if they are gone for good",
                own.size
            ));
        }
        Ok(())
    }

    /// Waits until on every node the transactions have ended that are open there now.
    pub(super) async fn until_older_ended(&mut self) {
        for Node { address, session, .. } in &mut self.nodes {
            let follows = of_node(address, ASK, replicas::replicates(session)).await;
            let doubt = match follows {
                Ok(true) => Some(format!("node {address}: {}", replicas::REPLICA)),
                Ok(false) => {
                    let ended = of_node(address, OLDER, older::still_running(session)).await;
                    ended.map_or_else(Some, |running| running.map(|why| format!("node {address}: {why}")))
                }
                Err(doubt) => Some(doubt),
            };
            self.doubt = self.doubt.take().or(doubt);
        }
    }

    /// Compares every node's count with the one in the snapshot of `session`.
    pub(super) async fn compare(&mut self, session: &mut Session, sql: &Sql) -> Result<(), Fault> {
        if self.nodes.is_empty() || self.doubt.is_some() {
            return Ok(());
        }
        let expected = counts(session, sql).await?;
        for node in &mut self.nodes {
            if let Err(doubt) = node.agrees(&expected, sql).await {
                self.doubt = Some(doubt);
                break;
            }
        }
        Ok(())
    }

    /// Why the count proves nothing; asked for behind it, for the cluster must have stayed as it was.
    pub(super) async fn doubt(mut self) -> Option<String> {
        if self.doubt.is_none() {
            for Node { address, session, state } in &mut self.nodes {
                self.doubt = match of_node(address, ASK, State::ask(session)).await {
                    Ok(now) if now == *state => continue,
                    Ok(_) => Some(format!("node {address}: the cluster changed during the census")),
                    Err(doubt) => Some(doubt),
                };
                break;
            }
        }
        self.doubt.map(|doubt| format!("{doubt}; all nodes must be there, Synced and Primary: then count again"))
    }
}

impl Node {
    async fn agrees(&mut self, expected: &Counts, sql: &Sql) -> Result<(), String> {
        let Self { address, session, .. } = self;
        of_node(address, ASK, session.limit_statements(Duration::ZERO)).await?;
        let mut differs = String::new();
        for again in 0..COUNTS {
            if again > 0 {
                sleep(BETWEEN).await;
            }
            let here = of_node(address, LIMIT_SCAN, counts(session, sql)).await?;
            match difference(expected, &here) {
                None => return Ok(()),
                Some(found) => differs = found,
            }
        }
        Err(format!("node {address} counts otherwise: {differs}"))
    }
}

/// What a node answers within `limit`; else why nothing is known of it.
async fn of_node<T>(
    address: &str,
    limit: Duration,
    answer: impl Future<Output = Result<T, Fault>>,
) -> Result<T, String> {
    match timeout(limit, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(Fault::Unreachable(reason) | Fault::Mistaken(reason))) => Err(format!("node {address}: {reason}")),
        Err(_) => Err(format!("node {address} does not answer within {} s", limit.as_secs())),
    }
}

async fn counts(session: &mut Session, sql: &Sql) -> Result<Counts, Fault> {
    let rows = sqlx::raw_sql(AssertSqlSafe(sql.by_version())).fetch_all(&mut session.connection).await?;
    let counts = rows.into_iter().map(|row| Ok((row.try_get_unchecked(0)?, row.try_get_unchecked(1)?)));
    counts.collect::<Result<_, sqlx::Error>>().map_err(Fault::from)
}

/// Where another count differs from the first in a class that an old key may be needed for. What the application writes
/// meanwhile, of the newest version or without a value, is no difference. The newest is that of the first count, which
/// the census shows in any case: one that only the other node has may be old.
fn difference(one: &Counts, other: &Counts) -> Option<String> {
    let newest = one.keys().filter_map(|class| version(class)).max();
    let matters = |class: &&String| {
        !["null", "empty"].contains(&class.as_str()) && (version(class).is_none() || version(class) != newest)
    };
    let differs =
        one.keys().chain(other.keys()).filter(matters).find(|class| one.get(*class) != other.get(*class))?;
    let of = |counts: &Counts| counts.get(differs).copied().unwrap_or_default();
    Some(format!("{} rows of class {differs} instead of {}", of(other), of(one)))
}

fn version(class: &str) -> Option<u32> {
    match class.strip_prefix("KM 0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => class.strip_prefix("km:v")?.trim_end_matches(':').parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(classes: &[(&str, i64)]) -> Counts {
        classes.iter().map(|(class, number)| ((*class).to_owned(), *number)).collect()
    }

    #[test]
    fn an_old_value_on_one_node_only_is_a_difference_and_a_new_one_is_not() {
        let clean = counts(&[("km:v10:", 5), ("null", 1)]);
        for (other, differs) in [
            (counts(&[("km:v10:", 7), ("null", 2), ("empty", 1)]), None),
            (counts(&[("km:v10:", 4), ("km:v9:", 1), ("null", 1)]), Some("1 rows of class km:v9: instead of 0")),
            (counts(&[("KM 0x00000009", 2)]), Some("2 rows of class KM 0x00000009 instead of 0")),
            (counts(&[("foreign", 3)]), Some("3 rows of class foreign instead of 0")),
        ] {
            assert_eq!(difference(&clean, &other).as_deref(), differs);
        }
        let empty = counts(&[("null", 100)]);
        let other = counts(&[("km:v9:", 1), ("null", 99)]);
        assert_eq!(difference(&empty, &other).as_deref(), Some("1 rows of class km:v9: instead of 0"));
        assert_eq!(difference(&empty, &counts(&[("null", 101)])), None);
    }
}
