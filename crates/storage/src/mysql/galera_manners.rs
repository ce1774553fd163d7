//! What an administrator of a cluster should know before a job, and how busy the cluster is during it.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    fault::Fault,
    galera::shown,
    galera_census::Cluster,
    pool::{Pool, Session},
};
use crate::source::Preflight;

/// Over how long the cluster's pauses are added up.
const WINDOW: Duration = Duration::from_secs(10);

/// What the preflight says of a cluster; of a server that is in none, nothing.
pub(super) async fn preflight(pool: &Pool, session: &mut Session, found: &mut Preflight) -> Result<(), Fault> {
    if !session.server.galera {
        return Ok(());
    }
    if let Some(doubt) = Cluster::of(pool, session).await?.doubt().await {
        found.warnings.push(format!("a census of this Galera cluster would not be conclusive now: {doubt}"));
    }
    let settings = shown(&mut session.connection, "SHOW GLOBAL VARIABLES LIKE 'wsrep%'").await?;
    if let Some(rows) = settings.get("wsrep_max_ws_rows").filter(|rows| *rows != "0") {
        found.blockers.push(format!(
            "wsrep_max_ws_rows is {rows}, so that the cluster refuses larger batches; set it to 0, its default"
        ));
    }
    if settings.get("wsrep_osu_method").is_some_and(|method| method == "RSU") {
        let warning = "wsrep_OSU_method is RSU: let nobody alter the table on one node alone during the job";
        found.warnings.push(warning.into());
    }
    Ok(())
}

/// How long the cluster stood still for its slowest node, who asks its writers to wait when it is behind.
#[derive(Default)]
pub(super) struct Pauses(Mutex<VecDeque<(Instant, u64)>>);

impl Pauses {
    /// How far behind that node is, as far as one can know: the pauses of the last ten seconds, added up.
    pub(super) async fn lag(&self, session: &mut Session) -> Result<Option<Duration>, Fault> {
        if !session.server.galera {
            return Ok(None);
        }
        let status =
            shown(&mut session.connection, "SHOW GLOBAL STATUS LIKE 'wsrep_flow_control_paused_ns'").await?;
        let paused = status.values().next().and_then(|nanoseconds| nanoseconds.parse().ok());
        Ok(paused.map(|paused| self.add(Instant::now(), paused)))
    }

    fn add(&self, now: Instant, paused: u64) -> Duration {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = |(then, _): &(Instant, u64)| now.saturating_duration_since(*then) <= WINDOW;
        // A node that was started anew, or another one, counts from nothing.
        seen.retain(|earlier| recent(earlier) && earlier.1 <= paused);
        seen.push_back((now, paused));
        let since = seen.front().map_or(paused, |(_, earlier)| *earlier);
        Duration::from_nanos(paused.saturating_sub(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_is_what_the_cluster_stood_still_in_the_last_ten_seconds() {
        let (pauses, start) = (Pauses::default(), Instant::now());
        let at = |seconds: u64, paused_ms: u64| {
            pauses.add(start + Duration::from_secs(seconds), paused_ms * 1_000_000).as_millis()
        };
        assert_eq!([at(0, 5000), at(1, 5500), at(9, 7000), at(11, 7000), at(19, 7100)], [0, 500, 2000, 1500, 100]);
        assert_eq!([at(20, 50), at(21, 80)], [0, 30]);
    }
}
