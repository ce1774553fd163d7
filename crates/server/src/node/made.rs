//! What consents bring about: a version is staged, gets new shares, comes back, or goes without evidence.

use std::{sync::Arc, time::Duration};

use keymoot_api::{
    Problem,
    init::{HolderSpec, Package, PackagesAnswer},
};
use keymoot_keyring::{Validated, stage};
use keymoot_quorum::{Monotonic, reshare, revise};
use keymoot_rekey::Start;
use keymoot_types::{
    ErrorCode, HolderName, KeyVersion, SourceName,
    audit::{Entry, Phase},
    manifest::{Release, VersionRecord},
};

use super::{
    Core, Node,
    asked::{self, NewShares, ReleasedColumn},
    conflict, init, internal, jobs_problem, wall_clock,
};

/// How long packages stay in the maker's memory.
const PACKAGES_FOR: Duration = Duration::from_secs(3600);

/// The packages of one share set, until they were delivered.
pub(super) struct Packages {
    set: u32,
    made: Monotonic,
    packages: Vec<Package>,
}

impl Packages {
    /// A share that was proved needs no package any longer.
    pub(super) fn proved(&mut self, set: u32, holder: &HolderName) {
        if self.set == set {
            self.packages.retain(|package| package.holder != *holder);
        }
    }
}

impl Node {
    /// Makes the version: splits it, encrypts every holder's share, publishes, wipes.
    pub(super) async fn make_staged(
        &self,
        core: &mut Core,
        threshold: u8,
        holders: &[HolderSpec],
        highest: Option<KeyVersion>,
    ) -> Result<KeyVersion, Problem> {
        let config = self.config.load_full();
        let current = core.manifest()?.clone();
        // Another node may have been asked meanwhile.
        asked::none_unfinished(current.manifest())?;
        let version =
            revise::next_version(current.manifest(), highest).map_err(|error| conflict(error.to_string()))?;
        let holders = init::checked_holders(holders, threshold, &config)?;
        let staged = stage::stage(current.manifest().keyring_id, version, threshold, &holders)
            .map_err(|error| internal(&error.to_string()))?;
        let packages = init::packages(&config.keyring, &staged.share_set, &staged.shares)?;
        let mut manifest = revise::next(&current);
        revise::stage(&mut manifest, &staged, wall_clock());
        let with_staged: Vec<_> = core.loaded.values().chain([&staged.validated]).cloned().collect();
        init::canaries(&mut manifest, with_staged.iter(), &config);
        self.publish(core, manifest, std::slice::from_ref(&staged.validated)).await?;
        self.number_taken(core).await;
        core.packages.insert(version, Packages { set: staged.share_set.set, made: self.now(), packages });
        let key_id = staged.validated.key_id();
        drop(staged);
        tracing::info!(version = version.get(), %key_id, "version staged; its root key is wiped");
        Ok(version)
    }

    /// Makes new shares of a version that is loaded. They wait beside those in force until enough were proved.
    pub(super) async fn make_reshared(&self, core: &mut Core, new: &NewShares) -> Result<KeyVersion, Problem> {
        let NewShares { version, threshold, holders, lost } = new;
        let config = self.config.load_full();
        let refused = |error: reshare::ReshareRefused| conflict(error.to_string());
        let current = core.manifest()?.clone();
        let set = reshare::next_set(current.manifest(), *version).map_err(refused)?;
        let key = core.loaded.get(version).cloned();
        let key = key.ok_or_else(|| conflict(format!("v{version} is loaded here no longer")))?;
        let holders = init::checked_holders(holders, *threshold, &config)?;
        let reshared =
            stage::reshare(&key, set, *threshold, &holders).map_err(|error| internal(&error.to_string()))?;
        let packages = init::packages(&config.keyring, &reshared.share_set, &reshared.shares)?;
        let mut manifest = revise::next(&current);
        reshare::begin(&mut manifest, *version, reshared.share_set, lost).map_err(refused)?;
        self.publish(core, manifest, &[]).await?;
        core.packages.insert(*version, Packages { set, made: self.now(), packages });
        tracing::info!(
            version = version.get(),
            set,
            "new shares made; those before count until enough are proved"
        );
        Ok(*version)
    }

    /// Puts new shares into force that were proved by enough of their holders.
    pub(super) async fn finish_reshares(&self, core: &mut Core) -> Result<(), Problem> {
        let current = core.manifest()?.clone();
        let proved: Vec<_> =
            reshare::complete(current.manifest(), |version, set| core.proofs.of_set(version, set)).collect();
        if proved.is_empty() {
            return Ok(());
        }
        self.may_publish(core)?;
        // Which shares count from now on: not without a line in the audit log before it.
        let versions: Vec<_> = proved.iter().map(|version| version.get()).collect();
        let entry = |phase| Entry::new("share-sets-come-into-force", phase).fact("versions", versions.clone());
        let intent = self.audit.require(entry(Phase::Intent)).await.map_err(|cause| {
            let detail = format!("new shares do not come into force while that can't be recorded: {cause}");
            Problem::new(ErrorCode::AuditUnavailable, detail)
        })?;
        let mut manifest = revise::next(&current);
        for version in &proved {
            reshare::finish(&mut manifest, *version).map_err(|error| conflict(error.to_string()))?;
        }
        let outcome = self.publish(core, manifest, &[]).await;
        let phase = if outcome.is_ok() { Phase::Done } else { Phase::Failed };
        self.audit.note(entry(phase).fact("intent", intent));
        outcome?;
        for version in proved {
            let set = core.record(version)?.share_set.set;
            tracing::info!(version = version.get(), set, "new shares are in force; those before are refused");
        }
        Ok(())
    }

    /// Records that a source is released, and starts the job that writes its values in clear. The manifest says it and
    /// the job only does it: without that record no job decrypts anything.
    pub(super) async fn release(&self, core: &mut Core, asked: &ReleasedColumn) -> Result<(), Problem> {
        let ReleasedColumn { source, declaration, .. } = asked;
        self.not_busy_with(source).await?;
        let mut manifest = revise::next(core.manifest()?);
        let release = Release { at: wall_clock(), declaration: *declaration };
        if revise::release(&mut manifest, source, release) {
            self.publish(core, manifest, &[]).await?;
        }
        tracing::warn!(%source, "released: its values become plaintext again, by the holders' consent");
        let wish = Start { sources: Some(vec![source.clone()]), ..Start::default() };
        if let Err(error) = self.jobs.start(wish).await {
            // What was consented to stands; a job that is asked for later does it.
            tracing::error!(%source, %error, "the job of a release could not be started; `keymoot rekey start` does");
        }
        Ok(())
    }

    /// Whoever works on a source now works on it for something else.
    pub(super) async fn not_busy_with(&self, source: &SourceName) -> Result<(), Problem> {
        self.jobs.not_busy_with(source).await.map_err(jobs_problem)
    }

    /// Takes up a version that was brought back.
    pub(super) async fn take_up(
        &self,
        core: &mut Core,
        key: Arc<Validated>,
        record: VersionRecord,
    ) -> Result<KeyVersion, Problem> {
        let (version, set) = (record.version, record.share_set.set);
        let holders: Vec<_> = record.share_set.holders.iter().map(|holder| holder.name.clone()).collect();
        let mut manifest = revise::next(core.manifest()?);
        revise::import(&mut manifest, record).map_err(|error| conflict(error.to_string()))?;
        let with_imported: Vec<_> = core.loaded.values().chain([&key]).cloned().collect();
        init::canaries(&mut manifest, with_imported.iter(), &self.config.load());
        self.publish(core, manifest, std::slice::from_ref(&key)).await?;
        tracing::warn!(version = version.get(), key_id = %key.key_id(), "version imported: it decrypts");
        core.loaded.insert(version, key);
        self.rebuild(core);
        let manifest = core.manifest()?.manifest().clone();
        for holder in holders {
            core.proofs.note(&manifest, version, &holder, set);
        }
        if let Err(problem) = self.write_proofs(core).await {
            tracing::warn!(%problem, "the proofs of an import wait to be recorded");
        }
        Ok(version)
    }

    /// `GET versions/{n}/packages`.
    pub(crate) async fn packages(&self, version: KeyVersion) -> Result<PackagesAnswer, Problem> {
        let mut core = self.core.lock().await;
        core.record(version)?;
        self.expire_packages(&mut core);
        let packages = core.packages.get(&version).map(|made| made.packages.clone()).ok_or_else(|| {
            Problem::new(
                ErrorCode::NotFound,
                format!("the packages of v{version} are no longer here: they stay for an hour, in the node that made them"),
            )
        })?;
        Ok(PackagesAnswer { version, packages })
    }

    pub(super) fn expire_packages(&self, core: &mut Core) {
        let now = self.now();
        core.packages.retain(|_, made| now.saturating_sub(made.made) < PACKAGES_FOR);
    }
}
