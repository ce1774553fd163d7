//! Galera: several servers that are one database as long as most of them hear each other.
//!
//! A node answers from what it has applied, which may be less than what others have committed. So every read of ours
//! waits until the node has applied all that was committed before it, and no node that lost the others is read at all.

use std::collections::BTreeMap;

use sqlx::{MySqlConnection, Row as _};

use super::{fault::Fault, pool::Session};

/// Reads and beginnings of transactions wait for what was committed before, on any node.
const CAUSAL: &str = "SET SESSION wsrep_sync_wait = 1";

/// Makes a new session read what was committed before; `false` where the server is no node of a cluster.
pub(super) async fn join(connection: &mut MySqlConnection) -> Result<bool, Fault> {
    let settings = shown(connection, "SHOW GLOBAL VARIABLES LIKE 'wsrep%'").await?;
    let setting = |name: &str| settings.get(name).map(String::as_str).unwrap_or_default();
    if ["", "none"].contains(&setting("wsrep_provider")) {
        return Ok(false);
    }
    if setting("wsrep_on") != "ON" {
        // Of a server that was taken out of its cluster the provider is named and not loaded.
        let loaded = shown(connection, "SHOW GLOBAL STATUS LIKE 'wsrep_provider_name'").await?;
        if loaded.values().all(String::is_empty) {
            return Ok(false);
        }
        return Err(Fault::Unreachable(
            "wsrep_on is OFF: this node of a cluster keeps for itself what is written, and what others write from us".into(),
        ));
    }
    // A node that lost the others must not answer from what it had, whatever its administrator allows.
    if settings.contains_key("wsrep_dirty_reads") {
        sqlx::raw_sql("SET SESSION wsrep_dirty_reads = OFF").execute(&mut *connection).await?;
    }
    sqlx::raw_sql(CAUSAL).execute(connection).await?;
    Ok(true)
}

/// What `SHOW` answers, by names in small letters.
pub(super) async fn shown(
    connection: &mut MySqlConnection,
    show: &'static str,
) -> Result<BTreeMap<String, String>, Fault> {
    let rows = sqlx::raw_sql(show).fetch_all(connection).await?;
    let pairs = rows.into_iter().map(|row| {
        let name: String = row.try_get_unchecked(0)?;
        Ok((name.to_lowercase(), row.try_get_unchecked(1)?))
    });
    pairs.collect::<Result<_, sqlx::Error>>().map_err(Fault::from)
}

/// A node, as it sees itself and the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    /// Itself; another one after every start.
    pub(super) node: String,
    /// The data that the cluster shares.
    pub(super) data: String,
    /// Which nodes are in it is counted from one change to the next.
    pub(super) view: String,
    /// How many they are.
    pub(super) size: usize,
    /// How many the node is set to look for: one that went away is missing in all the rest.
    pub(super) configured: usize,
    /// `Synced`, or why it does not take part.
    pub(super) state: String,
    /// `Primary`, if it hears most of the others.
    pub(super) status: String,
    /// Where clients reach each node, as the nodes themselves say.
    pub(super) addresses: Vec<String>,
}

impl State {
    /// Asks without waiting for what was committed before: a node that is behind is to say so.
    pub(super) async fn ask(session: &mut Session) -> Result<Self, Fault> {
        sqlx::raw_sql("SET SESSION wsrep_sync_wait = 0").execute(&mut session.connection).await?;
        let status = shown(&mut session.connection, "SHOW GLOBAL STATUS LIKE 'wsrep%'").await?;
        let settings =
            shown(&mut session.connection, "SHOW GLOBAL VARIABLES LIKE 'wsrep_cluster_address'").await?;
        sqlx::raw_sql(CAUSAL).execute(&mut session.connection).await?;
        let configured = settings.values().filter_map(|address| address.split(['?']).next()?.split_once("://"));
        let configured = configured.flat_map(|(_, nodes)| nodes.split(',')).filter(|node| !node.is_empty());
        let configured = configured.count();
        let text = |name: &str| status.get(name).cloned().unwrap_or_default();
        let addresses = text("wsrep_incoming_addresses");
        let addresses = addresses.split(',').filter(|address| !["", "AUTO"].contains(address));
        Ok(Self {
            node: text("wsrep_gcomm_uuid"),
            data: text("wsrep_cluster_state_uuid"),
            view: text("wsrep_cluster_conf_id"),
            size: text("wsrep_cluster_size").parse().unwrap_or_default(),
            configured,
            state: text("wsrep_local_state_comment"),
            status: text("wsrep_cluster_status"),
            addresses: addresses.map(str::to_owned).collect(),
        })
    }

    /// Why this node's answers prove nothing of the cluster.
    pub(super) fn doubt(&self) -> Option<String> {
        match (self.state.as_str(), self.status.as_str()) {
            ("Synced", "Primary") => None,
            (state, "Primary") => Some(format!("it is {state}, not Synced")),
            (_, status) => Some(format!("its part of the cluster is {status}, not Primary")),
        }
    }
}
