//! One model node: what it knows, and what comes round. It holds no decision of its own; the order of looks, checks
//! and writes is that of the daemon.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use keymoot_keyring::{Keyring, Validated};
use keymoot_quorum::{
    Monotonic, Unlock, adopt::Divergence, consent::Consents, elapsed::Elapsed, exclude::Exclusions,
    members::Members, number::Numbers, revise,
};
use keymoot_types::{
    Digest, HolderName, KeyName, KeyVersion, Manifest, NodeName, NodeState, Value, Verdict, VersionState,
    heartbeat::BootId,
    manifest::{Retirement, VersionRecord},
};

use crate::{
    store::{Body, Doc, Record},
    world::{World, key_name},
};

pub(crate) type Loaded = BTreeMap<KeyVersion, Arc<Validated>>;
/// Why something was not done.
pub(crate) type Refused = String;

/// What an operator asks the holders for.
#[derive(Clone)]
pub(crate) enum What {
    Stage { highest: Option<KeyVersion> },
    Reshare { version: KeyVersion, lost: Vec<HolderName> },
}

pub(crate) struct Request {
    pub(crate) what: What,
    pub(crate) primary: KeyVersion,
    pub(crate) consents: Consents,
}

/// An activation between its two swaps.
pub(crate) struct Activation {
    pub(crate) version: KeyVersion,
    pub(crate) started: Monotonic,
}

/// That a holder has shown a share of exactly this set: its number, and its key check.
#[derive(Clone)]
pub(crate) struct Proof {
    pub(crate) version: KeyVersion,
    pub(crate) set: u32,
    pub(crate) key_check: Digest,
    pub(crate) holder: HolderName,
}

pub(crate) struct Packages {
    pub(crate) set: u32,
    pub(crate) parts: Vec<(HolderName, String)>,
}

pub(crate) struct Node {
    pub(crate) at: usize,
    pub(crate) name: NodeName,
    pub(crate) boot_at: u64,
    pub(crate) members: Members,
    pub(crate) adopted: Option<Doc>,
    pub(crate) ahead: Vec<Doc>,
    pub(crate) confirmed: Option<(u64, Digest)>,
    pub(crate) diverged: Option<Divergence>,
    pub(crate) store_away: bool,
    pub(crate) unlock: Unlock,
    pub(crate) loaded: Loaded,
    pub(crate) proved: std::collections::BTreeSet<(KeyVersion, Digest, HolderName)>,
    pub(crate) unwritten: Vec<Proof>,
    pub(crate) packages: BTreeMap<KeyVersion, Packages>,
    pub(crate) request: Option<Request>,
    pub(crate) activation: Option<Activation>,
    pub(crate) censuses_due: u8,
    pub(crate) canaries_failed: Vec<KeyVersion>,
    pub(crate) elapsed: Elapsed,
    pub(crate) exclusions: Exclusions,
    pub(crate) clock_resumed: bool,
    pub(crate) last_use: BTreeMap<KeyVersion, Duration>,
    pub(crate) numbers: Numbers,
    pub(crate) pulses: u64,
    /// When it last saw the store's manifest.
    pub(crate) looked_at: u64,
}

/// What services are answered from: never changed, only replaced. It knows no store.
#[derive(Default)]
pub(crate) struct Serving {
    pub(crate) revision: u64,
    pub(crate) keyring: Option<Keyring>,
    versions: Vec<(KeyVersion, VersionState, Option<Retirement>)>,
    proved: Vec<KeyVersion>,
}

impl Serving {
    /// As the daemon judges a value.
    pub(crate) fn verdict(&self, value: &Value) -> Verdict {
        let Some(keyring) = &self.keyring else { return Verdict::Undetermined };
        let version = value.version();
        let Some((_, state, retirement)) = self.versions.iter().find(|(known, ..)| *known == version) else {
            return Verdict::Undetermined;
        };
        match (state, retirement) {
            (state, _) if state.decrypts() && keyring.holds(version) => {
                match keyring.decrypt(&key_name(), value, b"") {
                    Ok(_) => Verdict::Valid,
                    Err(_) if self.proved.contains(&version) => Verdict::Invalid,
                    Err(_) => Verdict::Undetermined,
                }
            }
            (VersionState::Retired, Some(Retirement { override_reason: None, hold_ended: Some(_), .. })) => {
                Verdict::Invalid
            }
            _ => Verdict::Undetermined,
        }
    }
}

impl Node {
    pub(crate) fn target(&self) -> Option<&Doc> {
        self.ahead.last().or(self.adopted.as_ref())
    }

    pub(crate) fn manifest(&self) -> Result<&Manifest, Refused> {
        self.adopted.as_ref().map(|adopted| adopted.document.manifest()).ok_or_else(|| "no manifest".into())
    }

    pub(crate) fn record(&self, version: KeyVersion) -> Result<&VersionRecord, Refused> {
        self.manifest()?.version(version).ok_or_else(|| format!("no v{version}"))
    }

    pub(crate) fn primary(&self) -> Result<Arc<Validated>, Refused> {
        self.loaded.get(&self.manifest()?.primary).cloned().ok_or_else(|| "sealed".into())
    }

    pub(crate) fn next(&self) -> Result<Manifest, Refused> {
        Ok(revise::next(&self.adopted.as_ref().ok_or("no manifest")?.document))
    }

    pub(crate) fn state(&self) -> NodeState {
        if !self.loaded.is_empty() {
            NodeState::Unlocked
        } else if self.unlock.is_empty() {
            NodeState::Sealed
        } else {
            NodeState::Unlocking
        }
    }

    /// A record of this node's, under the mac of its primary.
    pub(crate) fn sealed(&self, body: Body) -> Result<Record, Refused> {
        let primary = self.primary()?;
        Ok(Record { stamp: 0, by: Some((primary.version(), primary.key_id())), body: Arc::new(body) })
    }

    /// Whether the mac of a record is the primary's.
    pub(crate) fn believes(&self, record: &Record) -> bool {
        self.primary().is_ok_and(|primary| record.by == Some((primary.version(), primary.key_id())))
    }

    pub(crate) fn gates_open(&self) -> Result<(), Refused> {
        self.diverged.as_ref().map_or(Ok(()), |divergence| Err(format!("diverged: {divergence}")))
    }
}

impl World {
    /// Starts sealed, from the last good manifest.
    pub(crate) fn boot(&mut self, at: usize) {
        self.boots += 1;
        let name = self.slots[at].name.clone();
        let boot = BootId(format!("boot-{}", self.boots));
        let adopted = self.slots[at].disk.clone();
        self.say(format_args!("{name} starts at revision {}", adopted.as_ref().map_or(0, |doc| doc.revision())));
        self.slots[at].start();
        self.slots[at].node = Some(Box::new(Node {
            at,
            members: Members::new(name.clone(), boot),
            name,
            boot_at: self.now,
            adopted,
            ahead: vec![],
            confirmed: None,
            diverged: None,
            store_away: false,
            unlock: Unlock::default(),
            loaded: Loaded::new(),
            proved: Default::default(),
            unwritten: vec![],
            packages: BTreeMap::new(),
            request: None,
            activation: None,
            censuses_due: 0,
            canaries_failed: vec![],
            elapsed: Elapsed::default(),
            exclusions: Exclusions::default(),
            clock_resumed: false,
            last_use: BTreeMap::new(),
            numbers: Numbers::default(),
            pulses: 0,
            looked_at: 0,
        }));
        self.on(at, |world, node| {
            world.follow(node);
            world.rebuild(node);
            Ok(())
        });
    }

    pub(crate) fn monotonic(&self, node: &Node) -> Monotonic {
        Duration::from_millis(self.now - node.boot_at)
    }

    pub(crate) fn service_time(&self, node: &mut Node) -> Duration {
        let wall = self.wall(node.at);
        node.elapsed.observe(self.monotonic(node), wall)
    }

    /// What comes round, once a second.
    pub(crate) fn pulse(&mut self, node: &mut Node) -> Result<(), Refused> {
        node.pulses += 1;
        let look = node.pulses.is_multiple_of(5);
        drop(node.unlock.expire(self.monotonic(node)));
        self.service_time(node);
        self.follow(node);
        self.exchange_heartbeats(node);
        if !look || node.loaded.is_empty() || node.store_away {
            return Ok(());
        }
        if !node.clock_resumed {
            self.resume_clock(node);
        }
        self.load_proofs(node);
        self.write_clock(node, false);
        self.catch_up(node);
        self.follow_moments(node);
        self.look_at_holds(node);
        Ok(())
    }

    /// Puts what is loaded into service.
    pub(crate) fn rebuild(&mut self, node: &mut Node) {
        if self.slots[node.at].killed {
            return;
        }
        let Some(adopted) = node.adopted.clone() else { return };
        let manifest = adopted.document.manifest();
        let facts = |record: &VersionRecord| (record.version, record.state, record.retirement.clone());
        let mut serving = Serving {
            revision: manifest.revision,
            versions: manifest.versions.iter().map(facts).collect(),
            ..Serving::default()
        };
        node.canaries_failed.clear();
        if !node.loaded.is_empty() {
            // Left behind by an activation, it makes nothing of an old version.
            let next = |state| matches!(state, VersionState::Activating | VersionState::Primary);
            let mut next = manifest.versions.iter().filter(|record| next(record.state));
            let encrypts = next.all(|record| node.loaded.contains_key(&record.version));
            let primary = Some(manifest.primary).filter(|_| encrypts);
            let keyring = Keyring::new(node.loaded.values().cloned(), primary, &[key_name()]);
            node.canaries_failed = failed_canaries(&keyring, manifest);
            let held = keyring.versions().map(|(version, _)| version);
            serving.proved = held.filter(|version| !node.canaries_failed.contains(version)).collect();
            serving.keyring = Some(keyring);
        }
        self.slots[node.at].serving = Arc::new(serving);
    }

    /// Wipes what the adopted manifest has taken out of use.
    pub(crate) fn drop_retired(&mut self, node: &mut Node) {
        let Some(adopted) = node.adopted.clone() else { return };
        node.loaded.retain(|version, _| {
            let record = adopted.document.manifest().version(*version);
            record.is_some_and(|record| !matches!(record.state, VersionState::Retired | VersionState::Aborted))
        });
    }
}

fn failed_canaries(keyring: &Keyring, manifest: &Manifest) -> Vec<KeyVersion> {
    let key: KeyName = key_name();
    let held = manifest.canaries.iter().filter(|canary| keyring.holds(canary.version));
    let failed = held.filter(|canary| {
        let opened = Value::parse(&canary.value).ok().and_then(|value| keyring.decrypt(&key, &value, b"").ok());
        let text = revise::canary_text(canary.version, &key);
        opened.is_none_or(|opened| opened.as_slice() != text.as_bytes())
    });
    failed.map(|canary| canary.version).collect()
}
