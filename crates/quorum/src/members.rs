//! Which members are there, judged by their heartbeats: positively, in the reader's own beats, and by no clock.
//!
//! A heartbeat counts as recent only if it echoes a recent beat of the reader's own boot. A record that was kept and
//! put back, by a restored store or by somebody who can write to it, does not. A member that comes and goes is held
//! down until it has stayed for a while: no gate opens on a link that flaps.

use std::collections::BTreeMap;

use keymoot_types::{
    NodeName,
    heartbeat::{BootId, Echo, Heartbeat},
};

/// How many own beats an echo may lag behind: reading, writing and being read take a few.
pub const ECHO_LAG_MAX: u64 = 6;
/// Comings back within [`FLAP_WINDOW`] after which a member is held down.
pub const FLAPS_MAX: usize = 3;
/// Own beats in which comings back are counted.
pub const FLAP_WINDOW: u64 = 300;
/// Own beats for which a member that flapped must stay.
pub const HOLD_DOWN: u64 = 30;
/// Own beats after which a boot that is not heard of any longer is forgotten.
const FORGOTTEN_AFTER: u64 = 3_600;
/// More boots than a cluster has in an hour; what comes beyond is not looked at.
const BOOTS_MAX: usize = 1_000;

/// What this node has seen of the others.
pub struct Members {
    me: NodeName,
    boot: BootId,
    beat: u64,
    /// Beats up to here prove nothing any longer: the store was away since.
    void_until: u64,
    seen: BTreeMap<BootId, Seen>,
    nodes: BTreeMap<NodeName, Stay>,
}

struct Seen {
    heartbeat: Heartbeat,
    /// The newest own beat that it has echoed.
    echoed: u64,
    heard_at: u64,
}

/// Since when a member is there, and when it came back before; in own beats.
#[derive(Default)]
struct Stay {
    since: Option<u64>,
    returns: Vec<u64>,
}

/// Whether a member is there.
#[derive(Debug, Clone, PartialEq)]
pub enum Presence<'a> {
    /// It is, under this boot.
    Present(&'a Heartbeat),
    /// It was never heard of.
    Unheard,
    /// It was heard of, and is not any longer.
    Lost(&'a Heartbeat),
    /// It comes and goes, and has not stayed for long enough.
    Flapping {
        /// Comings back that were counted.
        returns: usize,
        /// Own beats that it has still to stay.
        beats_left: u64,
    },
    /// Two boots live under its name.
    Doubled,
}

impl Members {
    /// Of a node that has just started.
    pub fn new(me: NodeName, boot: BootId) -> Self {
        Self { me, boot, beat: 0, void_until: 0, seen: BTreeMap::new(), nodes: BTreeMap::new() }
    }

    /// This boot.
    pub fn boot(&self) -> &BootId {
        &self.boot
    }

    /// The next own beat, with the echoes that go with it.
    pub fn next_beat(&mut self) -> (u64, Vec<Echo>) {
        self.beat += 1;
        let beat = self.beat;
        self.seen.retain(|_, seen| beat.saturating_sub(seen.heard_at) < FORGOTTEN_AFTER);
        self.note_comings_and_goings();
        let recent = |seen: &&Seen| beat.saturating_sub(seen.heard_at) <= ECHO_LAG_MAX;
        let echoes = self.seen.values().filter(recent);
        (beat, echoes.map(|seen| Echo { boot: seen.heartbeat.boot.clone(), beat: seen.heartbeat.beat }).collect())
    }

    /// Takes in a heartbeat whose mac was right. One that is not newer than what was seen of its boot changes nothing.
    pub fn observe(&mut self, heartbeat: Heartbeat) {
        if heartbeat.boot == self.boot {
            return;
        }
        let echoed = heartbeat.echoes.iter().find(|echo| echo.boot == self.boot).map_or(0, |echo| echo.beat);
        // No one can have seen a beat that was not made yet.
        let echoed = if echoed > self.beat { 0 } else { echoed };
        let before = self.seen.get(&heartbeat.boot);
        let stale = before
            .is_some_and(|seen| heartbeat.beat <= seen.heartbeat.beat || heartbeat.node != seen.heartbeat.node);
        if stale || (before.is_none() && self.seen.len() >= BOOTS_MAX) {
            return;
        }
        let echoed = before.map_or(echoed, |seen| seen.echoed.max(echoed));
        self.seen.insert(heartbeat.boot.clone(), Seen { echoed, heard_at: self.beat, heartbeat });
        self.note_comings_and_goings();
    }

    /// A beat could not be made, as the store is away. Nobody is lost by that, but what was heard before is no
    /// evidence any longer: whoever is there echoes a beat that is still to come.
    pub fn interrupted(&mut self) {
        self.void_until = self.beat;
    }

    fn recent(&self, seen: &Seen) -> bool {
        seen.echoed > 0 && self.beat.saturating_sub(seen.echoed) <= ECHO_LAG_MAX
    }

    fn alive(&self, seen: &Seen) -> bool {
        self.recent(seen) && seen.echoed > self.void_until
    }

    fn alive_boots<'a>(&'a self, node: &'a NodeName) -> impl Iterator<Item = &'a Heartbeat> {
        let of_node = self.seen.values().filter(move |seen| seen.heartbeat.node == *node);
        of_node.filter(|seen| self.alive(seen)).map(|seen| &seen.heartbeat)
    }

    fn note_comings_and_goings(&mut self) {
        let (beat, listened) = (self.beat, self.can_tell_silence());
        let names: std::collections::BTreeSet<NodeName> =
            self.seen.values().map(|seen| seen.heartbeat.node.clone()).collect();
        for name in names {
            let here = self.seen.values().any(|seen| seen.heartbeat.node == name && self.recent(seen));
            let stay = self.nodes.entry(name).or_default();
            stay.returns.retain(|at| beat.saturating_sub(*at) < FLAP_WINDOW);
            match (here, stay.since) {
                (true, None) => {
                    stay.since = Some(beat);
                    stay.returns.push(beat);
                    let surplus = stay.returns.len().saturating_sub(FLAPS_MAX + 1);
                    stay.returns.drain(..surplus);
                }
                // Behind an outage of its own a node has not listened for long enough to call anybody gone.
                (false, Some(_)) if listened => stay.since = None,
                _ => {}
            }
        }
    }

    /// Another boot that lives under this node's own name: one of the two must be stopped.
    pub fn double(&self) -> Option<&BootId> {
        self.alive_boots(&self.me).map(|heartbeat| &heartbeat.boot).next()
    }

    /// Whether so many beats were made without a break that whoever is there must have been heard.
    pub fn can_tell_silence(&self) -> bool {
        self.beat.saturating_sub(self.void_until) >= 2 * ECHO_LAG_MAX
    }

    /// Whether another member is there.
    pub fn presence(&self, node: &NodeName) -> Presence<'_> {
        let mut alive = self.seen.values().filter(|seen| seen.heartbeat.node == *node && self.alive(seen));
        let Some(first) = alive.next() else {
            let newest = self.seen.values().filter(|seen| seen.heartbeat.node == *node);
            return newest
                .max_by_key(|seen| seen.heard_at)
                .map_or(Presence::Unheard, |seen| Presence::Lost(&seen.heartbeat));
        };
        if alive.next().is_some() {
            return Presence::Doubled;
        }
        if let Some(stay) = self.nodes.get(node) {
            let stayed = stay.since.map_or(0, |since| self.beat.saturating_sub(since));
            // The first coming is no coming back.
            let returns = stay.returns.len().saturating_sub(1);
            if returns >= FLAPS_MAX && stayed < HOLD_DOWN {
                return Presence::Flapping { returns, beats_left: HOLD_DOWN - stayed };
            }
        }
        Presence::Present(&first.heartbeat)
    }

    /// The heartbeats of those that are there, ascending by name.
    pub fn present<'a>(&'a self, members: &'a [NodeName]) -> impl Iterator<Item = &'a Heartbeat> {
        members.iter().filter_map(|node| match self.presence(node) {
            Presence::Present(heartbeat) => Some(heartbeat),
            _ => None,
        })
    }
}
