//! The cluster, its clocks and the way of every call: one thread, virtual time, all chance from one seed.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use keymoot_quorum::revise;
use keymoot_types::{HolderName, KeyName, KeyVersion, KeyringId, NodeName, SourceName};

use crate::{
    faults::{Dice, Fault, Faults},
    invariants::Truth,
    node::{Node, Refused, Serving},
    people::Holder,
    services::Values,
    store::{Body, Doc, Document, Late, Record, Store, StoreError, Write},
    unlock,
};

pub(crate) const HOLDERS: usize = 4;
pub(crate) const THRESHOLD: u8 = 2;
pub(crate) const NODES: usize = 3;
pub(crate) const QUIET: Duration = Duration::from_secs(1);
pub(crate) const MAX_WRITE_DELAY: Duration = Duration::from_secs(2);
pub(crate) const MAX_AGE: Duration = Duration::from_secs(8);
pub(crate) const HOLD: Duration = Duration::from_secs(12);
/// How long a run lasts, and how long faults go on in it, in milliseconds.
const RUN: u64 = 110_000;
const FAULTS_UNTIL: u64 = 90_000;
/// A run with a fault that waits for its occasion goes on a little longer.
const RUN_MAX: u64 = 200_000;
const BEAT: u64 = 1_000;

pub(crate) fn holder(index: usize) -> HolderName {
    format!("holder-{index}").parse().unwrap()
}

pub(crate) fn key_name() -> KeyName {
    "token".parse().unwrap()
}

pub(crate) fn source() -> SourceName {
    "rows".parse().unwrap()
}

pub(crate) fn then() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

/// The machine of one node: what outlives a kill, and what services see of it.
pub(crate) struct Slot {
    pub(crate) name: NodeName,
    /// None while it is down, and while it is doing something.
    pub(crate) node: Option<Box<Node>>,
    pub(crate) serving: Arc<Serving>,
    /// The last good manifest.
    pub(crate) disk: Option<Doc>,
    /// When a version last authenticated something for a service.
    pub(crate) used: BTreeMap<KeyVersion, u64>,
    /// It was killed in the middle of what it does.
    pub(crate) killed: bool,
    restart_at: Option<u64>,
    beat_at: u64,
    cut: Vec<(u64, u64)>,
    wall_ahead: SignedDuration,
}

impl Slot {
    pub(crate) fn start(&mut self) {
        self.killed = false;
        self.restart_at = None;
        self.used.clear();
    }

    /// Down, or cut off from the store.
    pub(crate) fn is_gone(&self, now: u64) -> bool {
        self.restart_at.is_some() || self.is_cut(now)
    }

    fn is_cut(&self, now: u64) -> bool {
        self.cut.iter().any(|(from, to)| (*from..*to).contains(&now))
    }
}

pub(crate) struct World {
    pub(crate) dice: Dice,
    pub(crate) now: u64,
    pub(crate) store: Store,
    pub(crate) slots: Vec<Slot>,
    pub(crate) holders: Vec<Holder>,
    pub(crate) values: Values,
    pub(crate) truth: Truth,
    pub(crate) faults: Faults,
    pub(crate) trace: Vec<String>,
    pub(crate) boots: u64,
    pub(crate) census_number: u64,
    inside: bool,
}

impl World {
    /// A keyring of one version that every node has adopted, as after `init`.
    pub(crate) fn new(seed: u64, kinds: &[Fault]) -> Self {
        let mut dice = Dice(seed);
        let faults = Faults::plan(&mut dice, kinds, NODES, 8_000, FAULTS_UNTIL);
        let slots = (0..NODES).map(|at| Slot {
            name: format!("db{}", at + 1).parse().unwrap(),
            node: None,
            serving: Arc::default(),
            disk: None,
            used: BTreeMap::new(),
            killed: false,
            restart_at: None,
            beat_at: 100 * at as u64,
            cut: vec![],
            wall_ahead: SignedDuration::ZERO,
        });
        let mut world = Self {
            dice,
            now: 0,
            store: Store::default(),
            slots: slots.collect(),
            holders: (0..HOLDERS).map(Holder::new).collect(),
            values: Values::default(),
            truth: Truth::default(),
            faults,
            trace: vec![],
            boots: 0,
            census_number: 0,
            inside: false,
        };
        world.init();
        world
    }

    fn init(&mut self) {
        let id = KeyringId::new(*b"keymoot!");
        let staged = keymoot_keyring::stage::stage(id, KeyVersion::new(9).unwrap(), THRESHOLD, &unlock::names());
        let staged = staged.unwrap();
        let members = self.slots.iter().map(|slot| slot.name.clone()).collect();
        let mut manifest = revise::first("prod".parse().unwrap(), id, members, &staged, then());
        unlock::declare(&mut manifest);
        unlock::add_canaries(&mut manifest, std::iter::once(staged.validated.clone()));
        let document = Document::new(revise::seal(manifest, [&staged.validated]).unwrap());
        self.deliver(KeyVersion::new(9).unwrap(), unlock::packages(1, &staged.shares));
        let record = Record { stamp: 0, by: None, body: Arc::new(Body::Manifest(document.clone())) };
        self.arrive(0, 0, Write::Swap(crate::chain::key(1), None, record)).unwrap();
        self.store.copy();
        for at in 0..NODES {
            self.slots[at].disk = Some(document.clone());
            self.boot(at);
        }
    }

    /// Runs to the end, or until an invariant is broken.
    pub(crate) fn run(&mut self) {
        while self.truth.broken.is_none() && (self.now < RUN || (self.faults.total() < 5 && self.now < RUN_MAX)) {
            self.step();
        }
    }

    fn step(&mut self) {
        self.now += self.dice.between(50, 350);
        if self.dice.one_in(16) {
            self.store.copy();
        }
        self.deliver_late();
        while let Some((fault, at)) = self.faults.due(self.now) {
            self.strike(fault, at);
        }
        for at in 0..NODES {
            if self.slots[at].restart_at.is_some_and(|due| due <= self.now) {
                self.boot(at);
            }
            self.go_round(at);
        }
        self.serve();
        if self.dice.one_in(2) {
            self.operate();
        }
        self.check();
    }

    /// What a node does by itself, if its time has come.
    fn go_round(&mut self, at: usize) {
        if self.slots[at].beat_at <= self.now {
            self.slots[at].beat_at = self.now + BEAT;
            self.on(at, |world, node| world.pulse(node));
        }
        let Some(node) = &self.slots[at].node else { return };
        let (waits, counts) = (node.activation.is_some(), node.censuses_due > 0);
        if waits {
            self.told(at, "goes on with an activation", |world, node| world.go_on(node));
        }
        if counts && self.dice.one_in(4) {
            self.told(at, "takes a census", |world, node| world.take_census(node));
        }
    }

    /// Lets a node do something; it is gone afterwards if it was killed over it.
    pub(crate) fn on(
        &mut self,
        at: usize,
        what: impl FnOnce(&mut Self, &mut Node) -> Result<(), Refused>,
    ) -> Option<Result<(), Refused>> {
        let mut node = self.slots[at].node.take()?;
        let done = what(self, &mut node);
        if self.slots[at].killed {
            self.kill(at);
            return None;
        }
        self.slots[at].node = Some(node);
        Some(done)
    }

    /// The same, and the trace tells of it.
    pub(crate) fn told(
        &mut self,
        at: usize,
        what: impl fmt::Display,
        does: impl FnOnce(&mut Self, &mut Node) -> Result<(), Refused>,
    ) -> bool {
        if self.slots[at].node.is_none() {
            return false;
        }
        let name = self.slots[at].name.clone();
        self.say(format_args!("{name} {what}"));
        let outcome = self.on(at, does);
        match &outcome {
            None => self.say(format_args!("{name} died over it")),
            Some(Ok(())) => {}
            Some(Err(refused)) => self.say(format_args!("{name} refused: {refused}")),
        }
        matches!(outcome, Some(Ok(())))
    }

    pub(crate) fn say(&mut self, what: fmt::Arguments<'_>) {
        self.trace.push(format!("{:>7} {what}", self.now));
    }

    pub(crate) fn wall(&self, at: usize) -> Timestamp {
        let now = SignedDuration::from_millis(self.now as i64);
        then().saturating_add(now).unwrap().saturating_add(self.slots[at].wall_ahead).unwrap()
    }

    // --- The way to the store --------------------------------------------------------------------------------

    /// Every call passes here: others act in between, and the node may be killed or cut off.
    fn reach(&mut self, at: usize) -> Result<(), StoreError> {
        if !self.inside && self.dice.one_in(6) {
            self.inside = true;
            let other = (at + 1 + self.dice.below(NODES - 1)) % NODES;
            match self.dice.below(3) {
                0 => self.go_round(other),
                1 => self.operate_at(other),
                _ => self.serve(),
            }
            self.inside = false;
        }
        let cut = self.slots[at].is_cut(self.now);
        if self.dies_here(at) || cut || self.store.away_until > self.now {
            return Err(StoreError::Away);
        }
        self.store.calls += 1;
        Ok(())
    }

    /// Whether the node is dead, or dies now.
    pub(crate) fn dies_here(&mut self, at: usize) -> bool {
        if !self.slots[at].killed && self.dice.one_in(3) {
            self.slots[at].killed = self.faults.occasion(&[Fault::KilledInside], at).is_some();
        }
        self.slots[at].killed
    }

    fn is_stale(&mut self, at: usize) -> bool {
        self.faults.occasion(&[Fault::StaleRead], at).is_some()
    }

    pub(crate) fn get(&mut self, node: &Node, key: &str) -> Result<Option<Record>, StoreError> {
        self.reach(node.at)?;
        let stale = self.is_stale(node.at);
        Ok(self.store.records(stale).get(key).cloned())
    }

    pub(crate) fn list(&mut self, node: &Node, prefix: &str) -> Result<Vec<(String, Record)>, StoreError> {
        self.reach(node.at)?;
        let stale = self.is_stale(node.at);
        Ok(self.store.list(stale, prefix))
    }

    pub(crate) fn send(&mut self, node: &Node, write: Write) -> Result<(), StoreError> {
        const OF_A_WRITE: [Fault; 4] =
            [Fault::AnswerLostDone, Fault::AnswerLostUndone, Fault::Late, Fault::Doubled];
        let at = node.at;
        self.reach(at)?;
        let number = self.store.number();
        // A heartbeat more or less proves little: faults wait for what changes something, as a rule.
        let dull =
            matches!(&write, Write::Put(key, _) if key.starts_with("heartbeat/") || key.starts_with("clock/"));
        if dull && !self.dice.one_in(40) {
            return self.arrive(at, number, write);
        }
        let fault = self.faults.occasion(&OF_A_WRITE, at);
        if let Some(fault) = fault {
            let name = self.slots[at].name.clone();
            self.say(format_args!("{name}: {fault:?} of {}", key_of(&write)));
        }
        if matches!(fault, Some(Fault::Late | Fault::Doubled)) {
            let due = self.now + self.dice.between(200, 20_000);
            self.store.late.push(Late { sent: self.now, due, number, from: at, write: write.clone() });
        }
        match fault {
            None | Some(Fault::Doubled) => self.arrive(at, number, write),
            Some(Fault::AnswerLostDone) => {
                let _ = self.arrive(at, number, write);
                Err(StoreError::Unknown)
            }
            Some(_) => Err(StoreError::Unknown),
        }
    }

    fn arrive(&mut self, from: usize, number: u64, write: Write) -> Result<(), StoreError> {
        let manifest = match &write {
            Write::Swap(_, None, record) => crate::chain::parse_any(record),
            _ => None,
        };
        self.store.apply(from, number, write)?;
        if let Some(document) = manifest {
            self.store.changed_at = self.now;
            self.check_stored(&document);
        }
        Ok(())
    }

    fn deliver_late(&mut self) {
        let (due, late): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.store.late).into_iter().partition(|late| late.due <= self.now);
        self.store.late = late;
        for late in due {
            self.faults.overtaken += u64::from(self.store.is_overtaken(&late));
            let key = key_of(&late.write).to_owned();
            // After a restore it may come into a time before it was sent.
            let in_its_time = self.store.restored_at.is_none_or(|restored_at| restored_at < late.sent);
            let before = self.store.head().filter(|_| in_its_time);
            let outcome = self.arrive(late.from, late.number, late.write);
            self.say(format_args!("a late write of {key} comes: {outcome:?}"));
            self.check_late(before, self.store.head());
        }
    }

    // --- Faults ----------------------------------------------------------------------------------------------

    fn strike(&mut self, fault: Fault, at: usize) {
        let name = self.slots[at].name.clone();
        let for_ms = self.dice.between(1_000, 25_000);
        let until = self.now + for_ms;
        match fault {
            Fault::StoreAway => self.store.away_until = until,
            Fault::StoreRestored => {
                let ago = 1 + self.dice.below(6);
                if !self.store.restore(ago) {
                    return;
                }
                self.store.changed_at = self.now;
                self.store.restored_at = Some(self.now);
            }
            Fault::Partition => self.slots[at].cut.push((self.now, until)),
            Fault::Flap => {
                let flaps = (0..6).map(|flap| (self.now + flap * 4_000, self.now + flap * 4_000 + 2_000));
                self.slots[at].cut.extend(flaps);
            }
            Fault::Killed if self.slots[at].node.is_some() => self.kill(at),
            Fault::ClockJump => {
                let seconds = self.dice.between(0, 200_000_000) as i64 - 100_000_000;
                self.slots[at].wall_ahead = SignedDuration::from_secs(seconds);
            }
            Fault::LaptopLost => return self.lose_laptop(),
            Fault::Killed => return,
            _ => return self.faults.arm(fault, at),
        }
        self.faults.count(fault);
        self.say(format_args!("{fault:?} at {name} for {for_ms} ms"));
    }

    fn kill(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        slot.node = None;
        slot.serving = Arc::default();
        slot.killed = false;
        slot.restart_at = Some(self.now + self.dice.between(500, 15_000));
    }

    pub(crate) fn disk_is_full(&mut self, at: usize) -> bool {
        self.faults.occasion(&[Fault::DiskFull], at).is_some()
    }
}

fn key_of(write: &Write) -> &str {
    match write {
        Write::Put(key, _) | Write::Swap(key, ..) | Write::Remove(key, _) => key,
    }
}
