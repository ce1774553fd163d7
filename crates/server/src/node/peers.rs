//! The other members: heartbeats out and in, and what they say of a member.

use std::time::Duration;

use keymoot_quorum::{
    adopt,
    gate::MemberFacts,
    members::{Members, Presence},
};
use keymoot_storage::metadata::MetadataError;
use keymoot_types::{
    Digest, ErrorCode, KeyName, KeyVersion, Manifest, NodeName,
    heartbeat::{Declared, Heartbeat, Validated},
    manifest::VersionRecord,
};
use sha2::{Digest as _, Sha256};

use super::{Core, Node, exclude, moment::ms, record};
use crate::config::Config;

pub(super) const PREFIX: &str = "heartbeat/";

impl Node {
    pub(super) fn members(&self) -> std::sync::MutexGuard<'_, Members> {
        // Nothing in there is left half changed by a panic.
        self.members.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Writes this node's heartbeat and reads the others'. A keyring of one member has nobody to tell, and a sealed
    /// node no key to vouch with.
    pub(super) async fn exchange_heartbeats(&self, core: &mut Core) {
        let Ok(document) = core.manifest() else { return };
        let alone = document.manifest().members.iter().all(|member| *member == self.name);
        if alone || core.primary().is_err() {
            return;
        }
        if let Err(error) = self.tell_and_hear(core).await {
            self.members().interrupted();
            tracing::debug!(%error, "no heartbeat could be exchanged");
        }
    }

    /// A beat in which nobody could be told or heard.
    pub(super) fn miss_a_beat(&self) {
        let mut members = self.members();
        members.next_beat();
        members.interrupted();
    }

    async fn tell_and_hear(&self, core: &mut Core) -> Result<(), MetadataError> {
        let (beat, echoes) = self.members().next_beat();
        let boot = self.members().boot().clone();
        let Some(heartbeat) = self.heartbeat(core, beat, echoes) else { return Ok(()) };
        let Ok(primary) = core.primary() else { return Ok(()) };
        let own = format!("{PREFIX}{}/{}", self.name, boot.0);
        let Some(bytes) = record::seal(&own, &heartbeat, &primary) else { return Ok(()) };
        self.metadata.put(&own, &bytes).await?;
        for stored in self.metadata.list(PREFIX).await? {
            if stored.key == own {
                continue;
            }
            match record::open::<Heartbeat>(&stored.key, &stored.value, &primary) {
                // The mac is over the key, which names both.
                Ok(heard) if stored.key == format!("{PREFIX}{}/{}", heard.node, heard.boot.0) => {
                    let of_earlier_boot = heard.node == self.name;
                    self.members().observe(heard);
                    if of_earlier_boot && self.members().double().is_none() && beat.is_multiple_of(60) {
                        self.metadata.remove(&stored.key, stored.stamp).await?;
                    }
                }
                Ok(_) => tracing::warn!(key = stored.key, "a heartbeat under another's name is not counted"),
                Err(error) => tracing::debug!(%error, "a heartbeat is not counted"),
            }
        }
        let Ok(document) = core.manifest() else { return Ok(()) };
        let same = adopt::identity(document);
        let in_no_doubt = |heard: &Heartbeat| !heard.restored && (heard.revision, heard.digest) == same;
        if core.numbers.restored && self.members().present(&document.manifest().members).any(in_no_doubt) {
            self.vouched_for_numbers().await?;
            self.look_at_numbers(core).await;
        }
        Ok(())
    }

    fn heartbeat(
        &self,
        core: &mut Core,
        beat: u64,
        echoes: Vec<keymoot_types::heartbeat::Echo>,
    ) -> Option<Heartbeat> {
        let now = core.service_time(self.now());
        let last_uses = self.last_uses(core, now);
        let document = core.adopted.as_ref()?;
        let manifest = document.manifest();
        let validated = core.loaded.values().map(|key| {
            let version = key.version();
            let last = last_uses.iter().find(|(used, _)| *used == version).map(|(_, at)| *at);
            Validated {
                version,
                key_id: key.key_id(),
                canaries_failed: self.canaries_lacking(core, manifest, version),
                // Without the record of earlier boots nobody knows: then as if a moment ago.
                idle_ms: if core.clock_resumed { last.map(|at| ms(now.saturating_sub(at))) } else { Some(0) },
            }
        });
        Some(Heartbeat {
            node: self.name.clone(),
            boot: self.members().boot().clone(),
            beat,
            echoes,
            state: core.state(),
            revision: manifest.revision,
            digest: document.digest(),
            diverged: core.diverged.as_ref().map(ToString::to_string),
            restored: core.numbers.restored,
            validated: validated.collect(),
            config: declared(&self.config.load()),
            peer: self.own_peer(),
            window: core.window.spent(manifest.window.as_ref()),
        })
    }

    /// Keys whose canary of a version does not decrypt here, or was never made.
    fn canaries_lacking(&self, core: &Core, manifest: &Manifest, version: KeyVersion) -> Vec<KeyName> {
        let failed = core.canaries_failed.iter().filter(|(of, _)| *of == version).map(|(_, key)| key.clone());
        let made =
            |key: &KeyName| manifest.canaries.iter().any(|canary| canary.version == version && canary.key == *key);
        let mut lacking: Vec<_> = failed.collect();
        lacking.extend(self.config.load().key_names().into_iter().filter(|key| !made(key)));
        lacking
    }

    /// What a member says of a version, for the gates.
    pub(super) fn facts_of(
        &self,
        core: &Core,
        manifest: &Manifest,
        node: &NodeName,
        record: &VersionRecord,
    ) -> MemberFacts {
        if *node == self.name {
            let doubled = self.members().double().map(|boot| {
                format!("another daemon lives under the name {node} (boot {}): stop one of the two", boot.0)
            });
            return MemberFacts {
                node: node.clone(),
                absent: doubled,
                loaded: core.loaded.get(&record.version).is_some_and(|key| key.key_id() == record.key_id),
                canaries_failed: self.canaries_lacking(core, manifest, record.version),
                config_differs: vec![],
                diverged: core.diverged.as_ref().map(ToString::to_string),
            };
        }
        let members = self.members();
        let mut facts = MemberFacts {
            node: node.clone(),
            absent: None,
            loaded: false,
            canaries_failed: vec![],
            config_differs: vec![],
            diverged: None,
        };
        match members.presence(node) {
            Presence::Present(heartbeat) => {
                let validated = heartbeat
                    .validated
                    .iter()
                    .find(|one| (one.version, one.key_id) == (record.version, record.key_id));
                facts.loaded = validated.is_some();
                facts.canaries_failed = validated.map(|one| one.canaries_failed.clone()).unwrap_or_default();
                facts.config_differs = differences(&declared(&self.config.load()), &heartbeat.config);
                facts.diverged = heartbeat.diverged.clone();
            }
            absent => facts.absent = Some(why_absent(&absent)),
        }
        facts
    }

    /// The members that have not adopted this revision, each with what it lacks.
    pub(super) fn not_adopted(
        &self,
        members: &[NodeName],
        (revision, digest): (u64, Digest),
    ) -> Vec<(NodeName, String)> {
        let seen = self.members();
        let lacks = |node: &NodeName| match seen.presence(node) {
            Presence::Present(heartbeat) if heartbeat.revision > revision => None,
            Presence::Present(heartbeat) if (heartbeat.revision, heartbeat.digest) == (revision, digest) => None,
            Presence::Present(heartbeat) => {
                Some(format!("it is at revision {}, and {revision} is to be adopted", heartbeat.revision))
            }
            absent => Some(why_absent(&absent)),
        };
        let others = members.iter().filter(|node| **node != self.name);
        others.filter_map(|node| Some((node.clone(), lacks(node)?))).collect()
    }

    /// Whether another member that is there has adopted this revision, or one above it.
    pub(super) fn another_adopted(&self, members: &[NodeName], revision: u64) -> bool {
        self.members().present(members).any(|heard| heard.revision >= revision)
    }

    /// The other members that have not said, under the present revision, that they hold a version no longer.
    pub(super) fn not_wiped(&self, members: &[NodeName], version: KeyVersion) -> Vec<(NodeName, String)> {
        let seen = self.members();
        let holds = |node: &NodeName| match seen.presence(node) {
            Presence::Present(heartbeat) if heartbeat.validated.iter().any(|one| one.version == version) => {
                Some("it has not followed yet".to_owned())
            }
            Presence::Present(_) => None,
            absent => Some(why_absent(&absent)),
        };
        let others = members.iter().filter(|node| **node != self.name);
        others.filter_map(|node| Some((node.clone(), holds(node)?))).collect()
    }

    /// When a version last authenticated something on any other member, in this node's service time; a member that is
    /// not there may be using it now.
    pub(super) fn last_use_elsewhere(&self, core: &Core, now: Duration, version: KeyVersion) -> Option<Duration> {
        let manifest = core.manifest().ok()?.manifest();
        let seen = self.members();
        let others = manifest.members.iter().filter(|node| **node != self.name);
        others
            .filter_map(|node| match seen.presence(node) {
                Presence::Present(heartbeat) => {
                    let validated = heartbeat.validated.iter().find(|one| one.version == version)?;
                    Some(now.saturating_sub(Duration::from_millis(validated.idle_ms?)))
                }
                _ => Some(now),
            })
            .max()
    }

    /// The other members, as they last reported.
    pub(super) fn peers(&self, manifest: &Manifest) -> Vec<keymoot_api::status::Peer> {
        let seen = self.members();
        let others = manifest.members.iter().filter(|node| **node != self.name);
        others
            .map(|node| {
                let presence = seen.presence(node);
                let heard = match &presence {
                    Presence::Present(heartbeat) | Presence::Lost(heartbeat) => Some(*heartbeat),
                    _ => None,
                };
                let validated = heard.map(|heard| heard.validated.iter().map(|one| one.version).collect());
                let absent = match &presence {
                    Presence::Present(_) => None,
                    absent => Some(why_absent(absent)),
                };
                keymoot_api::status::Peer {
                    node: node.clone(),
                    present: absent.is_none(),
                    absent,
                    state: heard.map(|heard| heard.state),
                    revision: heard.map_or(0, |heard| heard.revision),
                    validated: validated.unwrap_or_default(),
                    address: heard.and_then(|heard| heard.peer.as_ref()?.address.clone()),
                }
            })
            .collect()
    }

    /// Whether it is known that nothing is heard of a member: after an unlock or a pause of the store that takes a while.
    pub(super) fn is_silent(&self, node: &NodeName) -> bool {
        let seen = self.members();
        seen.can_tell_silence() && matches!(seen.presence(node), Presence::Unheard | Presence::Lost(_))
    }

    /// What was heard before a seal proves nothing after it.
    pub(super) fn forget_members(&self) {
        self.members().interrupted();
    }

    /// What is wrong with the members, in sentences; by name only for those who showed a token.
    pub(super) fn needs_of_members(&self, core: &Core, named: bool) -> Vec<String> {
        let Ok(document) = core.manifest() else { return vec![] };
        let mut needs: Vec<_> =
            self.alone_under_its_name().err().map(|problem| problem.detail).into_iter().collect();
        if core.primary().is_err() {
            // A node that is not unlocked hears nobody, which says nothing of them.
            return needs;
        }
        if named {
            needs.extend(exclude::needs(core));
        }
        if core.store_away.is_some() {
            // Nor does one whose store is away.
            return needs;
        }
        let absent: Vec<_> = self.peers(document.manifest()).into_iter().filter(|peer| !peer.present).collect();
        match named {
            true => needs.extend(
                absent
                    .into_iter()
                    .map(|peer| format!("member {} is missing: {}", peer.node, peer.absent.unwrap_or_default())),
            ),
            false if absent.is_empty() => {}
            false => needs.push(format!("other members are missing ({}); a token shows which", absent.len())),
        }
        needs
    }

    /// Refuses what changes keys while two daemons live under one name.
    pub(super) fn alone_under_its_name(&self) -> Result<(), keymoot_api::Problem> {
        match self.members().double() {
            None => Ok(()),
            Some(boot) => {
                let detail = format!(
                    "another daemon lives under the name {} (boot {}): stop one of the two",
                    self.name, boot.0
                );
                Err(keymoot_api::Problem::new(ErrorCode::Conflict, detail))
            }
        }
    }
}

fn why_absent(presence: &Presence<'_>) -> String {
    match presence {
        Presence::Present(_) => String::new(),
        Presence::Unheard => {
            "it has not been heard of: start and unlock it; an activation can exclude it by name and for a time"
                .into()
        }
        Presence::Lost(last) => format!(
            "it was {} at revision {} when it was last heard of: start and unlock it; an activation can exclude it by \
             name and for a time",
            last.state, last.revision
        ),
        Presence::Flapping { returns, beats_left } => {
            format!("it came back {returns} times within minutes: it must stay for {beats_left} more seconds")
        }
        Presence::Doubled => "two daemons live under its name: stop one of the two".into(),
    }
}

/// Keys and sources as they are declared, each by a digest that tells no secret: a source's address may hold one.
fn declared(config: &Config) -> Vec<Declared> {
    let digest = |text: String| Digest::new(Sha256::digest(text).into());
    let keys = config.keys.iter().map(|key| Declared {
        name: format!("key {}", key.name),
        digest: digest(format!("{:?} {}", key.max_age, key.only_in_sources)),
    });
    let sources = config.source_specs().iter().map(|source| Declared {
        name: format!("source {}", source.name),
        digest: digest(format!("{} {}", source.digest(), source.adopt)),
    });
    let mut declared: Vec<_> = keys.chain(sources).collect();
    declared.sort();
    declared
}

/// What one configuration declares and the other does not, or otherwise.
fn differences(here: &[Declared], there: &[Declared]) -> Vec<String> {
    let only = |one: &[Declared], other: &[Declared], how: &'static str| -> Vec<String> {
        let lacks = |declared: &&Declared| !other.iter().any(|same| same.name == declared.name);
        one.iter().filter(lacks).map(|declared| format!("{} {how}", declared.name)).collect()
    };
    let mut differences = only(here, there, "is not declared there");
    differences.extend(only(there, here, "is declared there and not here"));
    differences.extend(
        here.iter()
            .filter(|declared| {
                there.iter().any(|same| same.name == declared.name && same.digest != declared.digest)
            })
            .map(|declared| format!("{} is declared otherwise there", declared.name)),
    );
    differences
}
