//! Values of a version that are there again, after a census had found none: a source was restored from a backup.
//!
//! A retired version is looked for during its hold, another one from its first clean census on. One member looks at a
//! time. What was found stands in the metadata store, so that every member refuses to destroy the version, until a
//! census that began later has found the source clean.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use keymoot_api::{Missing, Problem};
use keymoot_rekey::walk::Walk;
use keymoot_storage::{
    metadata::{MetadataError, Stamp},
    source::Source,
};
use keymoot_types::{KeyVersion, Manifest, SourceName, VersionState, manifest::VersionRecord};
use tokio::sync::Mutex;

use super::{Core, Node, census::Taken, store_problem};

/// Twice in a minute, and once more where the member that used to look is gone.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// How long one look reads a source: less than two in a hundred of its time.
const STEP: Duration = Duration::from_millis(250);
/// Whose turn it is to look.
const TURN: &str = "look";
const PREFIX: &str = "found-again/";

/// Versions of which sources hold values again, and which sources.
pub(super) type FoundAgain = BTreeMap<KeyVersion, Vec<SourceName>>;

/// One finding, as it is stored: all of it is in the key. Nobody has to vouch for it, as it can do nothing but refuse.
pub(super) struct Restored {
    pub(super) version: KeyVersion,
    pub(super) source: SourceName,
    key: String,
    stamp: Stamp,
}

fn key(version: KeyVersion, source: &SourceName) -> String {
    format!("{PREFIX}{:010}/{source}", version.get())
}

fn parsed(key: &str) -> Option<(KeyVersion, SourceName)> {
    let (version, source) = key.strip_prefix(PREFIX)?.split_once('/')?;
    Some((KeyVersion::new(version.parse().ok()?).ok()?, source.parse().ok()?))
}

/// Retired with evidence, and could still come back.
fn in_its_hold(record: &VersionRecord) -> bool {
    let retirement = record.retirement.as_ref();
    record.state == VersionState::Retired
        && retirement.is_some_and(|retired| retired.hold_ended.is_none() && retired.override_reason.is_none())
}

/// The versions of which this source should have no value.
fn watched(manifest: &Manifest, censuses: &[Taken], source: &SourceName) -> Vec<KeyVersion> {
    let of_source = |taken: &'_ Taken| taken.sources.iter().any(|found| found.name == *source);
    let newest = censuses.iter().filter(|taken| of_source(taken)).max_by_key(|taken| taken.begun_at);
    let newest = newest.and_then(|taken| taken.sources.iter().find(|found| found.name == *source));
    let clean = |version| newest.is_some_and(|found| found.clean_of(version));
    let watched = |record: &&VersionRecord| {
        in_its_hold(record) || (record.state == VersionState::DecryptOnly && clean(record.version))
    };
    manifest.versions.iter().filter(watched).map(|record| record.version).collect()
}

/// Where this member's looks stand.
#[derive(Default)]
struct Looks {
    walks: BTreeMap<SourceName, Arc<Mutex<Walk>>>,
    turn: Option<Stamp>,
}

impl Node {
    /// Looks for as long as the node runs.
    pub(crate) fn look_for_restored(self: &Arc<Self>) {
        let node = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut looks = Looks::default();
            loop {
                tokio::select! {
                    () = node.stop.cancelled() => return,
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
                if let Err(problem) = node.look_once(&mut looks).await {
                    tracing::debug!(%problem, "nobody looked whether a source was restored; tried again later");
                }
            }
        });
    }

    async fn look_once(self: &Arc<Self>, looks: &mut Looks) -> Result<(), Problem> {
        let (manifest, censuses, found) = {
            let core = self.core.lock().await;
            if core.primary().is_err() || core.store_away.is_some() {
                return Ok(());
            }
            (core.manifest()?.manifest().clone(), self.censuses(&core).await?, core.found_again.clone())
        };
        let sources = self.sources.all();
        looks.walks.retain(|name, _| sources.iter().any(|(declared, _)| declared == name));
        let mut wanted = Vec::new();
        for (name, source) in sources.iter() {
            let mut versions = watched(&manifest, &censuses, name);
            versions.retain(|version| !found.get(version).is_some_and(|sources| sources.contains(name)));
            if !versions.is_empty() {
                wanted.push((name.clone(), source.clone(), versions));
            }
        }
        let free =
            !wanted.is_empty() && !self.work_is_forbidden().await && self.take_turn(&mut looks.turn).await?;
        for (name, source, versions) in wanted.into_iter().filter(|_| free) {
            let walk = looks.walks.entry(name).or_default().clone();
            self.step(walk, source, versions);
        }
        Ok(())
    }

    /// Whoever stops all work on the databases stops this too.
    async fn work_is_forbidden(&self) -> bool {
        let looked = tokio::fs::symlink_metadata(self.files.kill_switch()).await;
        !looked.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    }

    /// Whether no other member has looked since this one last asked; then the turn is taken, by one compare-and-swap.
    async fn take_turn(&self, last: &mut Option<Stamp>) -> Result<bool, Problem> {
        let stored = self.metadata.get(TURN).await.map_err(|error| store_problem(&error))?;
        let before = stored.map(|record| record.stamp);
        if before != std::mem::replace(last, before) {
            return Ok(false);
        }
        match self.metadata.swap(TURN, before, self.name.as_str().as_bytes()).await {
            Ok(taken) => {
                *last = Some(taken);
                Ok(true)
            }
            Err(MetadataError::Changed { .. }) => Ok(false),
            Err(error) => Err(store_problem(&error)),
        }
    }

    /// In a task of its own: a source that says nothing holds up no other, and is asked again when it has answered.
    fn step(self: &Arc<Self>, walk: Arc<Mutex<Walk>>, source: Arc<dyn Source>, versions: Vec<KeyVersion>) {
        let node = Arc::clone(self);
        self.tasks.spawn(async move {
            let Ok(mut walk) = walk.try_lock() else { return };
            let name = &source.spec().name;
            let met = tokio::select! {
                () = node.stop.cancelled() => return,
                met = walk.step(source.as_ref(), &versions, STEP) => met,
            };
            match met {
                Ok(met) => {
                    for version in met {
                        node.found_again(version, name).await;
                    }
                }
                Err(error) => tracing::debug!(%error, "whether this source was restored is not known"),
            }
        });
    }

    async fn found_again(&self, version: KeyVersion, source: &SourceName) {
        let mut core = self.core.lock().await;
        self.note_found_again(&mut core, version, source).await;
    }

    /// Says so, and makes every member refuse to destroy the version.
    pub(super) async fn note_found_again(&self, core: &mut Core, version: KeyVersion, source: &SourceName) {
        // Whatever the store says, this node knows.
        let sources = core.found_again.entry(version).or_default();
        if sources.contains(source) {
            return;
        }
        sources.push(source.clone());
        tracing::error!(
            version = version.get(), %source,
            "values are there again of which a census had found none: was this source restored from a backup?"
        );
        match self.metadata.swap(&key(version, source), None, self.name.as_str().as_bytes()).await {
            Ok(_) | Err(MetadataError::Changed { .. }) => {}
            Err(error) => tracing::warn!(%error, "the other members do not know yet; looked for again"),
        }
    }

    /// What was found by any member and is not settled.
    pub(super) async fn restored(&self) -> Result<Vec<Restored>, Problem> {
        let stored = self.metadata.list(PREFIX).await.map_err(|error| store_problem(&error))?;
        let found = stored.into_iter().filter_map(|record| {
            let (version, source) = parsed(&record.key)?;
            Some(Restored { version, source, key: record.key, stamp: record.stamp })
        });
        Ok(found.collect())
    }

    /// Takes up what other members found, and what a census has settled.
    pub(super) async fn follow_restored(&self, core: &mut Core) {
        match self.restored().await {
            Ok(restored) => {
                core.found_again.clear();
                for Restored { version, source, .. } in restored {
                    core.found_again.entry(version).or_default().push(source);
                }
            }
            Err(problem) => tracing::debug!(%problem, "what other members found is not known"),
        }
    }

    /// A census that began after these were found shows which of them are gone, and may find more.
    pub(super) async fn settle_restored(&self, core: &mut Core, before: &[Restored], taken: &Taken) {
        for found in before {
            if !taken.sources.iter().any(|one| one.name == found.source && one.clean_of(found.version)) {
                continue;
            }
            match self.metadata.remove(&found.key, found.stamp).await {
                Ok(()) => {
                    tracing::info!(version = found.version.get(), source = %found.source, "its values are gone again");
                }
                Err(error) => tracing::warn!(%error, "a finding stands until the next census"),
            }
        }
        self.follow_restored(core).await;
        let Ok(document) = core.manifest().cloned() else { return };
        for record in document.manifest().versions.iter().filter(|record| in_its_hold(record)) {
            for source in taken.sources.iter().filter(|source| source.rows_of(record.version) > 0) {
                self.note_found_again(core, record.version, &source.name).await;
            }
        }
    }
}

/// Why the version is not to be destroyed, for a gate.
pub(super) fn lacks(found: &FoundAgain, version: KeyVersion) -> Vec<Missing> {
    let lack = |source: &SourceName| {
        let detail = format!(
            "values of v{version} are there again, after a census had found none: was it restored from a backup? Rekey it; a \
             new census has to find none"
        );
        Missing { who: Some(source.to_string()), ..Missing::new("values_left", detail) }
    };
    found.get(&version).into_iter().flatten().map(lack).collect()
}

/// What a person should do about it. Names of sources are for those who showed a token.
pub(super) fn needs(core: &Core, manifest: &Manifest, named: bool) -> Vec<String> {
    let mut needs = Vec::new();
    for (version, sources) in &core.found_again {
        let place = if named {
            sources.iter().map(SourceName::as_str).collect::<Vec<_>>().join(", ")
        } else {
            format!("{} sources", sources.len())
        };
        let again = format!("values of v{version} are there again in {place} (restored from a backup?)");
        match manifest.version(*version).map(|record| record.state) {
            Some(VersionState::Retired) => needs.push(format!(
                "{again}, though v{version} was retired: `keymoot rotate restore v{version}` and its shares bring it back, and \
                 it is not destroyed before they are gone"
            )),
            Some(VersionState::DecryptOnly) => needs.push(format!(
                "{again}: rekey them; v{version} is not retired before a new census finds none"
            )),
            _ => {}
        }
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_read_back_from_its_key_and_nothing_else_is_one() {
        let (version, source) = (KeyVersion::new(9).unwrap(), "customers.ssn".parse().unwrap());
        assert_eq!(parsed(&key(version, &source)), Some((version, source)));
        for other in ["found-again/", "found-again/9", "found-again/0/a.b", "found-again/x/a.b", "moment/9/a.b"] {
            assert_eq!(parsed(other), None, "{other}");
        }
    }
}
