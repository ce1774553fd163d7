//! Heartbeats and what they say, service time and the moments that waits begin with: as `node/peers.rs`,
//! `node/moment.rs` and `node/highest.rs` of the daemon.

use std::{collections::BTreeMap, time::Duration};

use keymoot_quorum::{gate::MemberFacts, members::Presence, number::Numbers};
use keymoot_types::{
    KeyVersion, NodeName, VersionState,
    heartbeat::{Heartbeat, Validated},
    manifest::VersionRecord,
};

use crate::{
    node::{Node, Refused},
    store::{Body, Record, StoreError, Write},
    world::{World, key_name},
};

/// What a wait begins with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Moment {
    Stopped,
    Retired,
}

impl Moment {
    fn key(self, node: &Node, version: KeyVersion) -> String {
        format!("moment/{self:?}/{:010}/{}", version.get(), node.name)
    }
}

fn problem(error: StoreError) -> Refused {
    format!("the store is {error:?}")
}

impl World {
    pub(crate) fn exchange_heartbeats(&mut self, node: &mut Node) {
        if node.primary().is_ok() && self.tell_and_hear(node).is_err() {
            node.members.interrupted();
        }
    }

    fn tell_and_hear(&mut self, node: &mut Node) -> Result<(), StoreError> {
        let (beat, echoes) = node.members.next_beat();
        let now = self.service_time(node);
        let last_uses = self.last_uses(node, now);
        let Some(adopted) = node.adopted.clone() else { return Ok(()) };
        let validated = node.loaded.values().map(|key| Validated {
            version: key.version(),
            key_id: key.key_id(),
            canaries_failed: self.canaries_lacking(node, key.version()),
            idle_ms: last_uses.get(&key.version()).map(|at| now.saturating_sub(*at).as_millis() as u64),
        });
        let boot = node.members.boot().clone();
        let heartbeat = Heartbeat {
            node: node.name.clone(),
            boot: boot.clone(),
            beat,
            echoes,
            state: node.state(),
            revision: adopted.revision(),
            digest: adopted.digest,
            diverged: node.diverged.as_ref().map(ToString::to_string),
            restored: node.numbers.restored,
            validated: validated.collect(),
            config: vec![],
            peer: None,
            window: None,
        };
        let own = format!("heartbeat/{}/{}", node.name, boot.0);
        let Ok(record) = node.sealed(Body::Heartbeat(heartbeat)) else { return Ok(()) };
        self.send(node, Write::Put(own.clone(), record))?;
        for (key, stored) in self.list(node, "heartbeat/")? {
            let Body::Heartbeat(heard) = &*stored.body else { continue };
            if key == own || !node.believes(&stored) {
                continue;
            }
            let of_earlier_boot = heard.node == node.name;
            node.members.observe(heard.clone());
            if of_earlier_boot && node.members.double().is_none() && beat.is_multiple_of(60) {
                self.send(node, Write::Remove(key, stored.stamp))?;
            }
        }
        let members = adopted.document.manifest().members.clone();
        let same = adopted.identity();
        let in_no_doubt = |heard: &Heartbeat| !heard.restored && (heard.revision, heard.digest) == same;
        if node.numbers.restored && node.members.present(&members).any(in_no_doubt) {
            self.forget_marker(node, false)?;
            self.look_at_numbers(node);
        }
        Ok(())
    }

    fn canaries_lacking(&self, node: &Node, version: KeyVersion) -> Vec<keymoot_types::KeyName> {
        let made =
            node.manifest().is_ok_and(|manifest| manifest.canaries.iter().any(|canary| canary.version == version));
        if made && !node.canaries_failed.contains(&version) { vec![] } else { vec![key_name()] }
    }

    pub(crate) fn facts_of(&self, node: &Node, of: &NodeName, record: &VersionRecord) -> MemberFacts {
        let mut facts = MemberFacts {
            node: of.clone(),
            absent: None,
            loaded: false,
            canaries_failed: vec![],
            config_differs: vec![],
            diverged: None,
        };
        if *of == node.name {
            facts.absent = node.members.double().map(|_| "another lives under its name".into());
            facts.loaded = node.loaded.get(&record.version).is_some_and(|key| key.key_id() == record.key_id);
            facts.canaries_failed = self.canaries_lacking(node, record.version);
            facts.diverged = node.diverged.as_ref().map(ToString::to_string);
            return facts;
        }
        match node.members.presence(of) {
            Presence::Present(heartbeat) => {
                let mut validated = heartbeat.validated.iter();
                let validated = validated.find(|one| (one.version, one.key_id) == (record.version, record.key_id));
                facts.loaded = validated.is_some();
                facts.canaries_failed = validated.map(|one| one.canaries_failed.clone()).unwrap_or_default();
                facts.diverged = heartbeat.diverged.clone();
            }
            _ => facts.absent = Some("absent".into()),
        }
        facts
    }

    pub(crate) fn not_adopted(&self, node: &Node, members: &[NodeName]) -> Vec<(NodeName, String)> {
        let Some((revision, digest)) = node.adopted.as_ref().map(|adopted| adopted.identity()) else {
            return vec![];
        };
        let lacks = |of: &&NodeName| match node.members.presence(of) {
            Presence::Present(heartbeat) => {
                heartbeat.revision <= revision && (heartbeat.revision, heartbeat.digest) != (revision, digest)
            }
            _ => true,
        };
        let others = members.iter().filter(|of| **of != node.name);
        others.filter(lacks).map(|of| (of.clone(), "it has not adopted".into())).collect()
    }

    pub(crate) fn last_use_elsewhere(&self, node: &Node, now: Duration, version: KeyVersion) -> Option<Duration> {
        let others = node.manifest().ok()?.members.iter().filter(|of| **of != node.name);
        let used = others.filter_map(|of| match node.members.presence(of) {
            Presence::Present(heartbeat) => {
                let validated = heartbeat.validated.iter().find(|one| one.version == version)?;
                Some(now.saturating_sub(Duration::from_millis(validated.idle_ms?)))
            }
            _ => Some(now),
        });
        used.max()
    }

    pub(crate) fn note_moment(&mut self, node: &mut Node, moment: Moment, version: KeyVersion) {
        // Before the clock goes on where it was, a moment would lie long ago.
        if !node.clock_resumed {
            return;
        }
        let now = self.service_time(node);
        let since = node.record(version).ok().and_then(|record| record.since);
        if let Ok(record) = node.sealed(Body::Moment(now, since)) {
            let _ = self.send(node, Write::Put(moment.key(node, version), record));
        }
    }

    /// Begins the waits of what is out of use: others may have taken it out.
    pub(crate) fn follow_moments(&mut self, node: &mut Node) {
        let Some(adopted) = node.adopted.clone() else { return };
        for record in &adopted.document.manifest().versions {
            match record.state {
                VersionState::DecryptOnly => drop(self.moment(node, Moment::Stopped, record.version)),
                VersionState::Retired => drop(self.moment(node, Moment::Retired, record.version)),
                _ => {}
            }
        }
    }

    /// When it happened. Where no record that can be believed says so, now, and noted: if every member is known to
    /// have stopped.
    pub(crate) fn moment(&mut self, node: &mut Node, moment: Moment, version: KeyVersion) -> Option<Duration> {
        if !node.clock_resumed {
            return None;
        }
        let now = self.service_time(node);
        let stored = self.get(node, &moment.key(node, version)).ok()?;
        let since = node.record(version).ok()?.since;
        let believed = stored.filter(|stored| node.believes(stored)).and_then(|stored| match &*stored.body {
            Body::Moment(at, of) if *of == since => Some(*at),
            _ => None,
        });
        if believed.is_some() {
            return believed;
        }
        let members = node.manifest().ok()?.members.clone();
        if matches!(moment, Moment::Stopped) && !self.not_adopted(node, &members).is_empty() {
            return None;
        }
        self.note_moment(node, moment, version);
        Some(now)
    }

    pub(crate) fn resume_clock(&mut self, node: &mut Node) {
        let Ok(stored) = self.get(node, &format!("clock/{}", node.name)) else { return };
        let stored = stored.filter(|stored| node.believes(stored));
        let (before, was_clean, recorded) = match stored.as_ref().map(|stored| &*stored.body) {
            Some(Body::Clock { total, clean, last_use }) => (*total, *clean, last_use.clone()),
            _ => (Duration::ZERO, false, BTreeMap::new()),
        };
        if !node.clock_resumed {
            let total = before.max(node.elapsed.total());
            node.elapsed = keymoot_quorum::elapsed::Elapsed::resume(total);
            node.clock_resumed = true;
        }
        let now = self.service_time(node);
        let clean = !node.numbers.restored && was_clean;
        for version in node.loaded.keys() {
            let at = if clean { recorded.get(version).copied() } else { Some(now) };
            node.last_use.extend(at.map(|at| (*version, at)));
        }
        self.write_clock(node, false);
    }

    pub(crate) fn write_clock(&mut self, node: &mut Node, clean: bool) {
        if let Some(clock) = self.sealed_clock(node, clean) {
            self.put_clock(node, clock);
        }
    }

    pub(crate) fn sealed_clock(&mut self, node: &mut Node, clean: bool) -> Option<Record> {
        if !node.clock_resumed {
            return None;
        }
        let total = self.service_time(node);
        let last_use = self.last_uses(node, total);
        node.sealed(Body::Clock { total, clean, last_use }).ok()
    }

    pub(crate) fn put_clock(&mut self, node: &Node, clock: Record) {
        let _ = self.send(node, Write::Put(format!("clock/{}", node.name), clock));
    }

    /// When each version last authenticated something for a service, in service time.
    pub(crate) fn last_uses(&self, node: &Node, now: Duration) -> BTreeMap<KeyVersion, Duration> {
        let mut last_uses = node.last_use.clone();
        for (version, used_at) in &self.slots[node.at].used {
            let at = now.saturating_sub(Duration::from_millis(self.now - used_at));
            let last = last_uses.entry(*version).or_insert(at);
            *last = at.max(*last);
        }
        last_uses
    }

    pub(crate) fn note_restored(&mut self, node: &mut Node) -> Result<(), Refused> {
        let record = Record { stamp: 0, by: None, body: std::sync::Arc::new(Body::Restored) };
        self.send(node, Write::Put(marker(node), record)).map_err(problem)?;
        node.numbers.restored = true;
        Ok(())
    }

    pub(crate) fn forget_marker(&mut self, node: &mut Node, of_all: bool) -> Result<(), StoreError> {
        let prefix = if of_all { "restored/".into() } else { marker(node) };
        for (key, stored) in self.list(node, &prefix)? {
            self.send(node, Write::Remove(key, stored.stamp))?;
        }
        Ok(())
    }

    pub(crate) fn look_at_numbers(&mut self, node: &mut Node) {
        if let Ok(stored) = self.get(node, &marker(node)) {
            node.numbers = Numbers { restored: stored.is_some(), ..Numbers::default() };
        }
    }
}

fn marker(node: &Node) -> String {
    format!("restored/{}", node.name)
}
