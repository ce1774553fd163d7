//! Following the manifest's chain in the store, and extending it.

use keymoot_api::{Problem, upkeep::ManifestAnswer};
use keymoot_keyring::Validated;
use keymoot_quorum::{
    adopt::{self, Divergence},
    revise,
};
use keymoot_storage::metadata::{MetadataError, Record};
use keymoot_types::{
    Digest, ErrorCode, Manifest,
    manifest::{ManifestDocument, VersionRecord},
};
use std::sync::Arc;

use super::{Core, Node, conflict, files::LastGood, internal, sealed, store_problem};

pub(super) const PREFIX: &str = "manifest/";

/// Revisions are read one by one; more than these at once are left for the next look.
const STEPS_MAX: usize = 1000;

pub(super) fn key(revision: u64) -> String {
    format!("{PREFIX}{revision:020}")
}

fn parse(record: &Record, revision: u64) -> Result<ManifestDocument, Divergence> {
    ManifestDocument::parse(&record.value)
        .map_err(|error| Divergence::Damaged { revision, reason: error.to_string() })
        .and_then(|document| {
            if document.manifest().revision == revision {
                Ok(document)
            } else {
                Err(Divergence::Forked { revision })
            }
        })
}

impl Core {
    /// Whether the keys that were brought could not verify a manifest that this sealed node still looks at.
    fn unverified(&self, ahead: &[ManifestDocument]) -> bool {
        let of = match &self.diverged {
            Some(Divergence::KeyGone { revision, .. } | Divergence::NotVouched { revision, .. }) => *revision,
            _ => return false,
        };
        let mut looked_at = self.adopted.iter().chain(ahead);
        self.loaded.is_empty() && looked_at.any(|document| document.manifest().revision == of)
    }
}

impl Node {
    /// Takes the last good manifest from its file.
    pub(super) fn load_last_good(&self, core: &mut Core) {
        match self.files.last_good() {
            LastGood::Absent => {}
            LastGood::Good(document) if document.manifest().keyring != self.config.load().keyring => {
                core.last_good_damaged = Some(format!(
                    "the last good manifest is of keyring {}, the configuration of {}",
                    document.manifest().keyring,
                    self.config.load().keyring
                ));
            }
            LastGood::Good(document) => core.adopted = Some(*document),
            LastGood::Damaged(why) => {
                tracing::error!(why, "the last good manifest can't be read");
                core.last_good_damaged = Some(why);
            }
        }
    }

    /// Looks at the store, and takes up what follows.
    pub(super) async fn follow(&self, core: &mut Core) {
        let before = core.adopted.as_ref().map(|document| document.manifest().revision);
        self.look_ahead(core).await;
        if core.adopted.as_ref().map(|document| document.manifest().revision) != before {
            self.drop_retired(core);
            self.follow_moments(core).await;
            self.rebuild(core);
        }
    }

    /// Looks at the store: is what was adopted still there, and does anything follow it?
    async fn look_ahead(&self, core: &mut Core) {
        match self.read_ahead(core).await {
            Ok(found) => {
                core.store_away = None;
                match found {
                    Ok(ahead) => {
                        // With keys it is they that say whether what follows is adopted, and what they said
                        // outlives them: a sealed node waits for others.
                        if !core.unverified(&ahead) && (ahead.is_empty() || core.loaded.is_empty()) {
                            core.diverged = None;
                        }
                        core.ahead = ahead;
                    }
                    Err(divergence) => {
                        if core.diverged.as_ref() != Some(&divergence) {
                            tracing::error!(%divergence, "the store's manifest is not followed: gates are shut");
                        }
                        core.diverged = Some(divergence);
                        core.ahead.clear();
                    }
                }
            }
            Err(error) => {
                if core.store_away.is_none() {
                    tracing::warn!(%error, "the metadata store is away: going on with the last good manifest");
                }
                core.store_away = Some(error.to_string());
            }
        }
        if !core.loaded.is_empty() {
            self.adopt_ahead(core);
        }
        if core.store_away.is_none() {
            self.look_at_numbers(core).await;
        }
    }

    async fn read_ahead(&self, core: &Core) -> Result<Result<Vec<ManifestDocument>, Divergence>, MetadataError> {
        let Some(adopted) = &core.adopted else {
            return match core.confirmed {
                Some((revision, digest)) => self.read_confirmed(revision, digest).await,
                None => self.read_head().await,
            };
        };
        let revision = adopted.manifest().revision;
        let Some(stored) = self.metadata.get(&key(revision)).await? else {
            let stored = self.highest_stored().await?;
            return Ok(Err(Divergence::WentBack { adopted: revision, stored }));
        };
        match parse(&stored, revision) {
            Ok(document) if document.digest() == adopted.digest() => {}
            Ok(_) => return Ok(Err(Divergence::Forked { revision })),
            Err(divergence) => return Ok(Err(divergence)),
        }
        let mut ahead: Vec<ManifestDocument> = Vec::new();
        for step in 1..=STEPS_MAX as u64 {
            let Some(record) = self.metadata.get(&key(revision + step)).await? else {
                // Only at a start, once a gap was seen, and where another member has adopted what is not here: listing
                // all of them is too much for every look.
                let in_doubt = core.loaded.is_empty()
                    || matches!(core.diverged, Some(Divergence::Gap { .. }))
                    || self.another_adopted(&adopted.manifest().members, revision + step);
                let highest = if in_doubt { self.highest_stored().await? } else { 0 };
                if highest > revision + step {
                    return Ok(Err(Divergence::Gap { revision: revision + step }));
                }
                break;
            };
            let next = match parse(&record, revision + step) {
                Ok(next) => next,
                Err(divergence) => return Ok(Err(divergence)),
            };
            if let Err(divergence) = adopt::follows(ahead.last().unwrap_or(adopted), &next) {
                return Ok(Err(divergence));
            }
            ahead.push(next);
        }
        Ok(Ok(ahead))
    }

    /// Without a manifest of one's own: the store's newest, for collecting shares only.
    async fn read_head(&self) -> Result<Result<Vec<ManifestDocument>, Divergence>, MetadataError> {
        let Some(record) = self.metadata.list(PREFIX).await?.pop() else { return Ok(Ok(vec![])) };
        let revision = record.key.strip_prefix(PREFIX).and_then(|text| text.parse().ok()).unwrap_or(0);
        let keyring = self.config.load().keyring.clone();
        Ok(parse(&record, revision).and_then(|document| {
            if document.manifest().keyring == keyring { Ok(vec![document]) } else { Err(Divergence::OtherKeyring) }
        }))
    }

    /// What an operator confirmed stays what shares are collected for.
    async fn read_confirmed(
        &self,
        revision: u64,
        digest: Digest,
    ) -> Result<Result<Vec<ManifestDocument>, Divergence>, MetadataError> {
        let stored = self.metadata.get(&key(revision)).await?;
        let confirmed = stored.and_then(|record| parse(&record, revision).ok());
        match confirmed.filter(|document| document.digest() == digest) {
            Some(document) => Ok(Ok(vec![document])),
            None => self.read_head().await,
        }
    }

    async fn highest_stored(&self) -> Result<u64, MetadataError> {
        let newest = self.metadata.list(PREFIX).await?.pop();
        Ok(newest.and_then(|record| record.key.strip_prefix(PREFIX)?.parse().ok()).unwrap_or(0))
    }

    /// Adopts, step by step, what follows and is vouched for by the keys that are loaded.
    pub(super) fn adopt_ahead(&self, core: &mut Core) {
        for next in std::mem::take(&mut core.ahead) {
            let Some(current) = &core.adopted else { return };
            let verified = adopt::adopt(current, &next, |version| core.loaded.get(&version).map(AsRef::as_ref));
            match verified {
                Ok(()) => {
                    core.diverged = None;
                    self.keep(core, next);
                }
                Err(divergence) => {
                    if core.diverged.as_ref() != Some(&divergence) {
                        tracing::error!(%divergence, "the store's manifest is not adopted: gates are shut");
                    }
                    core.diverged = Some(divergence);
                    return;
                }
            }
        }
    }

    /// Makes a verified manifest this node's own.
    pub(super) fn keep(&self, core: &mut Core, document: ManifestDocument) {
        if let Err(error) = self.files.write_last_good(&document) {
            // The store has it, and the next start verifies the step again.
            tracing::error!(%error, "the last good manifest could not be written");
            core.last_good_damaged = Some(format!("the last good manifest could not be written: {error}"));
        } else {
            core.last_good_damaged = None;
        }
        core.adopted = Some(document);
    }

    /// What could not be written when it was adopted is written as soon as it can be: a start while the store is away
    /// knows no other manifest.
    pub(super) fn keep_again(&self, core: &mut Core) {
        if core.last_good_damaged.is_some()
            && let Some(document) = core.adopted.take()
        {
            self.keep(core, document);
        }
    }

    /// Refuses what changes keys while the manifest is not known to be the newest.
    pub(super) fn gates_open(core: &Core) -> Result<(), Problem> {
        match &core.diverged {
            Some(divergence) => Err(conflict(format!(
                "{divergence}; settle it first with `manifest/republish` or `manifest/confirm`"
            ))),
            None => Ok(()),
        }
    }

    /// Closes the next revision, writes it by compare-and-swap, adopts it and puts it into service.
    /// `more` are versions just made, which vouch too.
    pub(super) async fn publish(
        &self,
        core: &mut Core,
        manifest: Manifest,
        more: &[Arc<Validated>],
    ) -> Result<(), Problem> {
        self.may_publish(core)?;
        self.is_at_the_head(core).await?;
        self.write_revision(core, manifest, more).await
    }

    async fn write_revision(
        &self,
        core: &mut Core,
        manifest: Manifest,
        more: &[Arc<Validated>],
    ) -> Result<(), Problem> {
        let vouching: Vec<_> = core.loaded.values().chain(more).cloned().collect();
        let document = revise::seal(manifest, &vouching)
            .map_err(|error| internal(&format!("the next manifest is not well-formed: {error}")))?;
        self.append(core, &document).await?;
        core.ahead.clear();
        self.keep(core, document);
        self.rebuild(core);
        Ok(())
    }

    /// Whether this node may write a revision at all now.
    pub(super) fn may_publish(&self, core: &Core) -> Result<(), Problem> {
        Self::gates_open(core)?;
        self.alone_under_its_name()?;
        self.may_write(core)
    }

    /// Only a member writes a revision, and only one that every key which others will ask for can vouch for.
    fn may_write(&self, core: &Core) -> Result<(), Problem> {
        if core.loaded.is_empty() {
            return Err(sealed());
        }
        let manifest = core.manifest()?.manifest();
        if !manifest.members.contains(&self.name) {
            return Err(conflict(format!("{} is not a member of this keyring; a member adds it", self.name)));
        }
        let holds = |record: &VersionRecord| {
            core.loaded.get(&record.version).is_some_and(|key| key.key_id() == record.key_id)
                || core.missing.contains(&record.version)
        };
        match adopt::silent(manifest, holds) {
            Some(version) => {
                let detail = format!("v{version} is required and not loaded here: submit its shares first");
                Err(Problem::new(ErrorCode::KeyVersionUnavailable, detail).with_version(version))
            }
            None => Ok(()),
        }
    }

    /// Behind a store that went back there may be nothing before the next revision, or, where it was published again
    /// above that, a gap and more: what this node wrote there would be another past.
    async fn is_at_the_head(&self, core: &mut Core) -> Result<(), Problem> {
        let newest = self.metadata.list(PREFIX).await.map_err(|error| store_problem(&error))?.pop();
        let adopted = core.manifest()?;
        if newest.is_some_and(|newest| newest.value == adopted.canonical()) {
            return Ok(());
        }
        self.look_for_a_gap(core).await;
        Err(conflict("the store's newest revision is another than this node's; look again and repeat"))
    }

    /// Looked at with this in mind, a gap stays one until an operator has settled it.
    async fn look_for_a_gap(&self, core: &mut Core) {
        let Some(adopted) = &core.adopted else { return };
        core.diverged = Some(Divergence::Gap { revision: adopted.manifest().revision.saturating_add(1) });
        self.follow(core).await;
    }

    /// Appends to the chain. After an error whose outcome is unknown, what is stored decides.
    async fn append(&self, core: &mut Core, document: &ManifestDocument) -> Result<(), Problem> {
        let key = key(document.manifest().revision);
        let error = match self.metadata.swap(&key, None, document.canonical()).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        match self.metadata.get(&key).await {
            Ok(Some(record)) if record.value == document.canonical() => Ok(()),
            Ok(Some(_)) => {
                self.follow(core).await;
                Err(conflict("another node wrote the next revision first; look again and repeat"))
            }
            Ok(None) => Err(store_problem(&error)),
            Err(_) => {
                let detail =
                    format!("it is not known whether it was done: {error}; look at `status` before you repeat it");
                Err(Problem::new(ErrorCode::StoreUnavailable, detail))
            }
        }
    }

    /// `confirm`: an operator vouches for exactly this stored manifest.
    pub(crate) async fn confirm(&self, revision: u64, digest: Digest) -> Result<ManifestAnswer, Problem> {
        let mut core = self.core.lock().await;
        let record = self.metadata.get(&key(revision)).await.map_err(|error| store_problem(&error))?;
        let record = record.ok_or_else(|| conflict(format!("the store has no revision {revision}")))?;
        let document = parse(&record, revision).map_err(|divergence| conflict(divergence.to_string()))?;
        if document.digest() != digest {
            return Err(conflict(format!("the digest of revision {revision} is {}", document.digest())));
        }
        let is_ahead = core.adopted.as_ref().is_some_and(|adopted| adopted.manifest().revision < revision);
        if is_ahead && core.diverged.is_none() {
            // Nobody may have told this node of a gap yet.
            self.look_for_a_gap(&mut core).await;
            if let Some(why) = &core.store_away {
                let detail = format!("the metadata store does not answer ({why}); confirm it again once it does");
                return Err(Problem::new(ErrorCode::StoreUnavailable, detail));
            }
        }
        let adopted = core.adopted.as_ref().map(adopt::identity);
        if adopted.is_some() && adopted != Some((revision, digest)) && core.diverged.is_none() {
            // Going back to an older revision would bring back shares that were replaced.
            return Err(conflict("this node follows the store's manifest: there is nothing to confirm"));
        }
        if adopted != Some((revision, digest)) {
            self.note_restored(&mut core, "a manifest was confirmed").await?;
        }
        if core.loaded.is_empty() {
            // Verified by the keys themselves when they come.
            core.confirmed = Some((revision, digest));
            core.adopted = None;
            core.diverged = None;
            core.ahead = vec![document];
            // The shares may be here already: nobody has to give another for the keys to speak.
            self.enter_service(&mut core).await;
            return Ok(ManifestAnswer { revision, digest });
        }
        let loaded = &core.loaded;
        adopt::stands(&document, |version| loaded.get(&version).map(AsRef::as_ref))
            .map_err(|divergence| conflict(divergence.to_string()))?;
        core.ahead.clear();
        self.keep(&mut core, document);
        self.follow(&mut core).await;
        self.drop_retired(&mut core);
        self.rebuild(&mut core);
        Ok(ManifestAnswer { revision, digest })
    }

    /// `republish`: this unlocked node's manifest, above the highest revision that was seen.
    pub(crate) async fn republish(&self) -> Result<ManifestAnswer, Problem> {
        let mut core = self.core.lock().await;
        core.primary()?;
        let current = core.manifest()?.clone();
        let stored = self.highest_stored().await.map_err(|error| store_problem(&error))?;
        if core.diverged.is_none() && stored == current.manifest().revision {
            return Ok(ManifestAnswer { revision: stored, digest: current.digest() });
        }
        self.note_restored(&mut core, "the manifest was published again").await?;
        let mut manifest = revise::next(&current);
        let above = stored
            .checked_add(1)
            .ok_or_else(|| conflict("the store holds the last revision that there can be"))?;
        manifest.revision = manifest.revision.max(above);
        self.alone_under_its_name()?;
        self.may_write(&core)?;
        self.write_revision(&mut core, manifest, &[]).await?;
        core.diverged = None;
        let (revision, digest) = adopt::identity(core.manifest()?);
        tracing::warn!(revision, "the manifest was published again above everything that was seen");
        Ok(ManifestAnswer { revision, digest })
    }
}
