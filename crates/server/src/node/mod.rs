//! One node: what it knows, what it has collected, what it serves with.
//!
//! # Layout
//!
//! [`Node`] holds a [`Core`] behind one lock; services never touch it, they read the [`Serving`] snapshot that
//! [`Node::rebuild`] swaps whole. One file a ceremony: `init`, `unlock`, `prove`, `request`, `rotate`, `retire`;
//! `window` and `window_keys` let restarted members in without the holders;
//! `hear` turns wrong parts away before anything waits for them; `restored` looks whether old values come back;
//! `chain` follows and extends the manifest, `pulse` does what comes round, `status` says how things stand.

mod asked;
mod audit;
pub mod backup;
mod backup_file;
mod census;
mod chain;
mod exclude;
mod files;
mod hear;
mod held;
pub(crate) mod highest;
mod import;
mod init;
mod lock;
mod made;
pub(crate) mod meant;
mod members;
mod moment;
mod peers;
mod prove;
mod pulse;
mod record;
mod rekey;
mod reload;
mod request;
mod restored;
mod retire;
mod rotate;
mod status;
mod unlock;
mod window;
mod window_keys;

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use keymoot_api::{Problem, status::Sample};
use keymoot_keyring::Keyring;
use keymoot_quorum::{
    Monotonic, Unlock, adopt::Divergence, elapsed::Elapsed, exclude::Exclusions, members::Members,
    number::Numbers, revise,
};
use keymoot_rekey::{Holder, Jobs, Released, Setup};
use keymoot_storage::{
    bounded::Bounded,
    metadata::{Metadata, MetadataError},
};
use keymoot_types::{
    Digest, ErrorCode, KeyName, KeyVersion, Manifest, NodeName, NodeState, VersionState,
    heartbeat::BootId,
    manifest::{DeclaredSource, ManifestDocument},
};
use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::rekey::jobs_problem;
use self::{
    files::Files, lock::Lock, made::Packages, prove::Proofs, record::Loaded, request::OpenRequest,
    restored::FoundAgain, window::WindowState,
};
use crate::{
    audit::Audit,
    config::Config,
    http::limit::RefusedParts,
    peer::Identity,
    serving::{LastUse, Serving, VersionFacts},
    telemetry::Foreground,
};

/// The daemon's heart. Handlers call its ceremonies; everything it needs from outside comes in here.
pub struct Node {
    pub(crate) name: NodeName,
    pub(crate) config: ArcSwap<Config>,
    metadata: Arc<dyn Metadata>,
    serving: Arc<ArcSwap<Serving>>,
    last_use: Arc<LastUse>,
    core: Lock,
    refused_parts: RefusedParts,
    files: Files,
    pub(crate) audit: Arc<Audit>,
    /// What other members know this one by.
    pub(crate) identity: Option<Identity>,
    /// What is known of the other members.
    members: std::sync::Mutex<Members>,
    started: Instant,
    pub(crate) jobs: Jobs,
    considerate: Arc<rekey::Considerate>,
    sources: Arc<rekey::OpenSources>,
    this: Weak<Self>,
    counting: std::sync::Mutex<census::Counting>,
    /// Where columns are read and written.
    columns: Handle,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// What changes, under one lock.
#[derive(Default)]
pub(crate) struct Core {
    /// The manifest that this node has adopted.
    adopted: Option<ManifestDocument>,
    /// Stored revisions that follow it by their digests and are not verified yet: good for collecting shares.
    ahead: Vec<ManifestDocument>,
    /// A revision and digest that an operator confirmed.
    confirmed: Option<(u64, Digest)>,
    /// Why the store's manifest is not followed.
    diverged: Option<Divergence>,
    /// Why the store does not answer.
    store_away: Option<String>,
    /// That the keyring was unlocked is noted on disk and in the store.
    remembered: bool,
    /// Why the last good manifest could not be read.
    last_good_damaged: Option<String>,
    unlock: Unlock,
    loaded: Loaded,
    /// The versions that an operator named as lost, for this boot.
    missing: Vec<KeyVersion>,
    request: Option<OpenRequest>,
    packages: BTreeMap<KeyVersion, Packages>,
    proofs: Proofs,
    canaries_failed: Vec<(KeyVersion, KeyName)>,
    elapsed: Elapsed,
    /// Members that activations do not wait for; none until they were read.
    exclusions: Option<Exclusions>,
    clock_resumed: bool,
    /// Last uses that were recorded before this boot, in service time.
    last_use: BTreeMap<KeyVersion, Duration>,
    samples: Vec<Sample>,
    seen: audit::Seen,
    /// What is known of numbers beside the manifest.
    numbers: Numbers,
    window: WindowState,
    found_again: FoundAgain,
}

impl Node {
    /// Reads what is known and starts sealed. The store may be away: the last good manifest is enough.
    pub async fn boot(
        config: Config,
        metadata: Arc<dyn Metadata>,
        serving: Arc<ArcSwap<Serving>>,
        last_use: Arc<LastUse>,
        foreground: Arc<Foreground>,
        columns: Handle,
    ) -> Arc<Self> {
        let files = Files::new(&config.data_dir);
        let stop = CancellationToken::new();
        let sources = Arc::new(rekey::OpenSources::default());
        for refused in sources.open(config.source_specs()) {
            tracing::error!(refused, "a source can't be used");
        }
        let considerate = Arc::new(rekey::Considerate::new(&config, foreground));
        let boot = BootId(uuid::Uuid::new_v4().to_string());
        let jobs = Jobs::new(Setup {
            holder: Holder { node: config.cluster.node.clone(), boot: boot.clone() },
            metadata: metadata.clone(),
            keys: Arc::new(rekey::InService(serving.clone())),
            sources: sources.clone(),
            kill_switch: files.kill_switch(),
            brake: Some(considerate.clone()),
            shutdown: stop.clone(),
            runtime: columns.clone(),
        });
        // Under the core's lock nobody waits for a silent store; a worker holds no lock and may.
        let metadata: Arc<dyn Metadata> = Arc::new(Bounded::new(metadata));
        let audit =
            Arc::new(Audit::new(config.data_dir.clone(), config.cluster.node.clone(), config.audit.max_bytes));
        let identity = Identity::load(&config.data_dir);
        let identity =
            identity.inspect_err(|error| tracing::error!(%error, "no part is taken in maintenance windows"));
        let members = std::sync::Mutex::new(Members::new(config.cluster.node.clone(), boot));
        let node = Arc::new_cyclic(|this| Self {
            this: this.clone(),
            identity: identity.ok(),
            members,
            name: config.cluster.node.clone(),
            jobs,
            considerate,
            sources,
            config: ArcSwap::from_pointee(config),
            metadata,
            serving,
            last_use,
            core: Lock::default(),
            refused_parts: RefusedParts::default(),
            files,
            audit,
            started: Instant::now(),
            counting: std::sync::Mutex::default(),
            columns,
            tasks: TaskTracker::new(),
            stop,
        });
        {
            let mut core = node.core.lock().await;
            node.load_last_good(&mut core);
            node.follow(&mut core).await;
            node.rebuild(&mut core);
        }
        node.begin_audit().await;
        node
    }

    /// A monotonic reading: time since this boot.
    fn now(&self) -> Monotonic {
        self.started.elapsed()
    }

    /// Puts what is loaded into service: builds the keyring, proves it by its canaries, swaps it in, and only
    /// then says so, from what it holds.
    fn rebuild(&self, core: &mut Core) {
        let config = self.config.load();
        let keys = config.key_names();
        let state = core.state();
        let unlocked = matches!(state, NodeState::Unlocked | NodeState::Degraded);
        let manifest = core.adopted.as_ref().map(|document| document.manifest().clone());
        let Some(manifest) = manifest else {
            self.serving.store(Arc::new(Serving { state, keys, ..Serving::empty(self.last_use.clone()) }));
            return;
        };
        let versions = manifest
            .versions
            .iter()
            .map(|record| VersionFacts {
                version: record.version,
                key_id: record.key_id,
                state: record.state,
                retirement: record.retirement.clone(),
            })
            .collect();
        let mut serving = Serving {
            state,
            keyring_id: Some(manifest.keyring_id),
            revision: manifest.revision,
            primary: Some(manifest.primary),
            versions,
            keys: keys.clone(),
            released: released(&manifest),
            ..Serving::empty(self.last_use.clone())
        };
        core.canaries_failed.clear();
        if unlocked {
            let encrypts = core
                .missing
                .iter()
                .filter_map(|version| manifest.version(*version))
                .all(|record| record.given_up.is_some());
            // Nobody waits for a node that is no member, and so nothing new may come from it.
            let encrypts = encrypts && manifest.members.contains(&self.name);
            // Left behind by an activation, it would go on making values that the others are about to rekey.
            serving.lacking = core.left_behind_by(&manifest);
            let encrypts = encrypts && serving.lacking.is_empty();
            let primary = Some(manifest.primary).filter(|_| encrypts);
            let keyring = Arc::new(Keyring::new(core.loaded.values().cloned(), primary, &keys));
            core.canaries_failed = failed_canaries(&keyring, &manifest, &keys);
            serving.proved = keyring
                .versions()
                .map(|(version, _)| version)
                .filter(|version| !core.canaries_failed.iter().any(|(failed, _)| failed == version))
                .collect();
            serving.keyring = Some(keyring);
        }
        let held: Vec<_> = serving.keyring.iter().flat_map(|keyring| keyring.versions()).collect();
        let primary = serving.keyring.as_ref().and_then(|keyring| keyring.primary());
        let proved = serving.proved.clone();
        self.serving.store(Arc::new(serving));
        if unlocked {
            tracing::info!(
                revision = manifest.revision,
                versions = ?held.iter().map(|(version, key_id)| format!("v{version} {key_id}")).collect::<Vec<_>>(),
                encrypts_with = primary.map(|version| version.get()),
                canaries_decrypt = ?proved,
                "keyring in service"
            );
        }
        for (version, key) in &core.canaries_failed {
            tracing::error!(version = version.get(), %key, "a canary does not decrypt: this version proves nothing");
        }
        self.observe(core);
    }
}

/// The sources that their holders released.
fn released(manifest: &Manifest) -> Vec<Released> {
    let of = |declared: &DeclaredSource| {
        let declaration = declared.released.as_ref()?.declaration;
        Some(Released { source: declared.name.clone(), declaration })
    };
    manifest.declared.sources.iter().filter_map(of).collect()
}

/// Opens every canary through the path that services use.
fn failed_canaries(keyring: &Keyring, manifest: &Manifest, keys: &[KeyName]) -> Vec<(KeyVersion, KeyName)> {
    manifest
        .canaries
        .iter()
        .filter(|canary| keyring.holds(canary.version) && keys.contains(&canary.key))
        .filter(|canary| {
            let text = revise::canary_text(canary.version, &canary.key);
            let opened = keymoot_types::Value::parse(&canary.value)
                .ok()
                .and_then(|value| keyring.decrypt(&canary.key, &value, b"").ok());
            opened.is_none_or(|opened| opened.as_slice() != text.as_bytes())
        })
        .map(|canary| (canary.version, canary.key.clone()))
        .collect()
}

impl Core {
    /// The manifest that parts are judged by: the newest that follows what was adopted.
    fn target(&self) -> Option<&ManifestDocument> {
        self.ahead.last().or(self.adopted.as_ref())
    }

    /// The adopted manifest, or why there is none.
    fn manifest(&self) -> Result<&ManifestDocument, Problem> {
        self.adopted.as_ref().ok_or_else(|| match &self.ahead[..] {
            [] => Problem::new(ErrorCode::Conflict, "there is no keyring yet; `keymoot init` makes one"),
            _ => sealed(),
        })
    }

    pub(crate) fn state(&self) -> NodeState {
        if !self.loaded.is_empty() {
            return if self.missing.is_empty() { NodeState::Unlocked } else { NodeState::Degraded };
        }
        if self.target().is_none() {
            NodeState::Uninitialised
        } else if self.unlock.is_empty() {
            NodeState::Sealed
        } else {
            NodeState::Unlocking
        }
    }

    /// The key that encrypts and vouches, or why there is none.
    fn primary(&self) -> Result<Arc<keymoot_keyring::Validated>, Problem> {
        let primary = self.manifest()?.manifest().primary;
        self.loaded.get(&primary).cloned().ok_or_else(|| {
            if self.loaded.is_empty() {
                sealed()
            } else {
                let detail = format!("v{primary} is the primary and is not loaded here");
                Problem::new(ErrorCode::KeyVersionUnavailable, detail).with_version(primary)
            }
        })
    }

    /// The versions that an activation requires by now, and that are neither loaded here nor named as lost.
    fn left_behind_by(&self, manifest: &Manifest) -> Vec<KeyVersion> {
        let next = manifest.versions.iter().filter(|record| {
            matches!(record.state, VersionState::Activating | VersionState::Primary)
                && self.loaded.get(&record.version).is_none_or(|key| key.key_id() != record.key_id)
        });
        next.map(|record| record.version).filter(|version| !self.missing.contains(version)).collect()
    }

    fn record(&self, version: KeyVersion) -> Result<&keymoot_types::manifest::VersionRecord, Problem> {
        self.manifest()?
            .manifest()
            .version(version)
            .ok_or_else(|| Problem::new(ErrorCode::NotFound, format!("this keyring has never had a v{version}")))
    }

    /// The time that destructive waits are measured in.
    fn service_time(&mut self, now: Monotonic) -> Duration {
        self.elapsed.observe(now, wall_clock())
    }
}

/// The one place where the wall clock is read: for people to read, never for a decision alone.
#[expect(clippy::disallowed_methods, reason = "the one place where the wall clock is read")]
pub(crate) fn wall_clock() -> Timestamp {
    Timestamp::now()
}

fn sealed() -> Problem {
    Problem::new(ErrorCode::Sealed, "the node is sealed; keyholders unlock it with `keymoot unlock`")
}

fn store_problem(error: &MetadataError) -> Problem {
    match error {
        MetadataError::Changed { .. } => {
            Problem::new(ErrorCode::Conflict, "somebody else changed it at the same time; look again and repeat")
        }
        _ => Problem::new(ErrorCode::StoreUnavailable, format!("{error}; look at `status` before you repeat it")),
    }
}

fn conflict(detail: impl Into<String>) -> Problem {
    Problem::new(ErrorCode::Conflict, detail)
}

fn bad_request(detail: impl Into<String>) -> Problem {
    Problem::new(ErrorCode::BadRequest, detail)
}

fn internal(what: &str) -> Problem {
    Problem::new(ErrorCode::Internal, format!("{what}; please report it"))
}

/// Whether a version of this state takes part in unlocking at all.
fn may_be_loaded(state: VersionState) -> bool {
    !matches!(state, VersionState::Retired | VersionState::Aborted)
}
