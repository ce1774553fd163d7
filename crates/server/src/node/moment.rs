//! When something happened, in service time; and the service time itself, which outlives a restart.
//!
//! See [`keymoot_quorum::elapsed`]. A record that is missing or not vouched for makes a wait longer, never
//! shorter.

use std::time::Duration;

use keymoot_quorum::adopt;
use keymoot_types::{KeyVersion, NodeName, VersionState};
use serde::{Deserialize, Serialize};

use super::{Core, Node, census::Taken, record};

/// What a wait begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// The version stopped encrypting on every member.
    Stopped,
    /// The version was retired.
    Retired,
}

pub(super) const PREFIX: &str = "moment/";
pub(super) const CLOCK: &str = "clock/";

#[derive(Serialize, Deserialize)]
struct Stored {
    at_ms: u64,
    /// Since which revision the version is in the state that it is about.
    since: Option<u64>,
}

/// This node's service time and last uses, as of its last pulse.
#[derive(Serialize, Deserialize)]
struct Clock {
    total_ms: u64,
    /// Whether the node stopped in order; else last uses may have been lost.
    clean: bool,
    last_use: Vec<LastUse>,
}

#[derive(Serialize, Deserialize)]
struct LastUse {
    version: KeyVersion,
    at_ms: u64,
}

pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Moment {
    /// Of each node its own: service time is a node's.
    fn key(self, node: &NodeName, version: KeyVersion) -> String {
        let what = match self {
            Self::Stopped => "stopped",
            Self::Retired => "retired",
        };
        format!("{PREFIX}{what}/{:010}/{node}", version.get())
    }
}

impl Node {
    /// Notes that it happened now; not before the clock goes on where it was, or it would lie long ago.
    pub(super) async fn note_moment(&self, core: &mut Core, moment: Moment, version: KeyVersion) {
        let (Ok(primary), true) = (core.primary(), core.clock_resumed) else { return };
        let key = moment.key(&self.name, version);
        let at_ms = ms(core.service_time(self.now()));
        let since = core.record(version).ok().and_then(|record| record.since);
        if let Some(bytes) = record::seal(&key, &Stored { at_ms, since }, &primary)
            && let Err(error) = self.metadata.put(&key, &bytes).await
        {
            // Without the record the wait begins when it is first asked for.
            tracing::warn!(%error, key, "the beginning of a wait could not be recorded");
        }
    }

    /// Begins the waits of what is out of use: any member may have taken it out.
    pub(super) async fn follow_moments(&self, core: &mut Core) {
        let Ok(document) = core.manifest().cloned() else { return };
        for record in &document.manifest().versions {
            match record.state {
                VersionState::DecryptOnly => drop(self.moment(core, Moment::Stopped, record.version).await),
                VersionState::Retired => drop(self.moment(core, Moment::Retired, record.version).await),
                _ => {}
            }
        }
    }

    /// When it happened. Where no record of the version's present state can be believed to say so, now, and noted: as
    /// soon as every member is known to have stopped.
    pub(super) async fn moment(&self, core: &mut Core, moment: Moment, version: KeyVersion) -> Option<Duration> {
        if !core.clock_resumed {
            return None;
        }
        let key = moment.key(&self.name, version);
        let now = core.service_time(self.now());
        let stored = self.metadata.get(&key).await.ok()?;
        let since = core.record(version).ok()?.since;
        let believed = stored
            .and_then(|stored| record::open::<Stored>(&key, &stored.value, &*core.primary().ok()?).ok())
            .filter(|stored| stored.since == since)
            .map(|stored| Duration::from_millis(stored.at_ms));
        if believed.is_some() {
            return believed;
        }
        let document = core.manifest().ok()?;
        let members = &document.manifest().members;
        if moment == Moment::Stopped && !self.not_adopted(members, adopt::identity(document)).is_empty() {
            return None;
        }
        self.note_moment(core, moment, version).await;
        Some(now)
    }

    fn clock_key(&self) -> String {
        format!("{CLOCK}{}", self.name)
    }

    /// Goes on with the service time of earlier boots.
    pub(super) async fn resume_clock(&self, core: &mut Core) {
        // Without it no record is believed, and what was recorded would be replaced by less.
        let Ok(primary) = core.primary() else { return };
        let key = self.clock_key();
        let Ok(stored) = self.metadata.get(&key).await else { return };
        let stored = stored.and_then(|stored| record::open::<Clock>(&key, &stored.value, &primary).ok());
        if !core.clock_resumed {
            let Ok(censuses) = self.censuses(core).await else { return };
            let counted = censuses.iter().filter(|taken| taken.node == self.name).map(Taken::latest).max();
            let before = stored.as_ref().map(|clock| Duration::from_millis(clock.total_ms));
            // Where the record was lost, no census of this node's lies in a time that is still to come.
            let before = before.max(counted).unwrap_or_default();
            // Time of this boot while it was sealed may already be in the record; it is counted once.
            core.elapsed = keymoot_quorum::elapsed::Elapsed::resume(before.max(core.elapsed.total()));
            core.clock_resumed = true;
        }
        let now = core.service_time(self.now());
        // So are those between a backup and its restore.
        let clean = !core.numbers.restored && stored.as_ref().is_some_and(|clock| clock.clean);
        let versions: Vec<_> = core.loaded.keys().copied().collect();
        for version in versions {
            let recorded = stored
                .as_ref()
                .and_then(|clock| clock.last_use.iter().find(|last| last.version == version))
                .map(|last| Duration::from_millis(last.at_ms));
            // After a crash uses of the last minute may be missing: the quiet period counts from here.
            let at = if clean { recorded } else { Some(now) };
            if let Some(at) = at {
                core.last_use.insert(version, at);
            }
        }
        self.write_clock(core, false).await;
    }

    /// Makes the service time and the last uses durable.
    pub(super) async fn write_clock(&self, core: &mut Core, clean: bool) {
        if let Some(bytes) = self.sealed_clock(core, clean) {
            self.put_clock(&bytes).await;
        }
    }

    /// The record of them, as long as there is a key to seal it with.
    pub(super) fn sealed_clock(&self, core: &mut Core, clean: bool) -> Option<Vec<u8>> {
        if !core.clock_resumed {
            return None;
        }
        let primary = core.primary().ok()?;
        let now = core.service_time(self.now());
        let last_use = self.last_uses(core, now);
        let clock = Clock {
            total_ms: ms(now),
            clean,
            last_use: last_use.iter().map(|(version, at)| LastUse { version: *version, at_ms: ms(*at) }).collect(),
        };
        record::seal(&self.clock_key(), &clock, &primary)
    }

    pub(super) async fn put_clock(&self, bytes: &[u8]) {
        if let Err(error) = self.metadata.put(&self.clock_key(), bytes).await {
            tracing::debug!(%error, "the service time could not be recorded");
        }
    }

    /// When each version last authenticated something that a service sent, in service time, ascending.
    pub(super) fn last_uses(&self, core: &Core, now: Duration) -> Vec<(KeyVersion, Duration)> {
        let mut last_uses = core.last_use.clone();
        for (version, instant) in self.last_use.snapshot() {
            let at = now.saturating_sub(instant.elapsed());
            let last = last_uses.entry(version).or_insert(at);
            *last = at.max(*last);
        }
        last_uses.into_iter().collect()
    }
}
