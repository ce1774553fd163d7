//! New shares of a version whose key stays the same: a set to come waits for its proofs, and then takes the place of
//! the set before. Until then the set before works as ever, so that at no moment there is none.
//!
//! Mathematics takes no share back: a threshold of old ones still rebuilds the key. So what may be in other hands is
//! counted, for each set apart, as shares of two sets never combine.

use std::collections::BTreeSet;

use keymoot_types::{
    HolderName, KeyVersion, Manifest, VersionState,
    manifest::{ExposedSet, ShareSet, VersionRecord},
};

use crate::judge::enough;

/// Why a version gets no new shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReshareRefused {
    /// The manifest has never heard of it.
    #[error("the manifest has never heard of v{0}")]
    Unknown(KeyVersion),
    /// Its state does not allow it.
    #[error("v{version} is {state}: {}", instead(.state))]
    State {
        /// Which version.
        version: KeyVersion,
        /// Its state.
        state: VersionState,
    },
    /// 4294967295 sets were made.
    #[error("there is no number left for a share set of v{0}")]
    NoNumberLeft(KeyVersion),
}

fn instead(state: &VersionState) -> &'static str {
    match state {
        VersionState::Staged => "abort it and stage another, with the holders that it should have",
        VersionState::Activating => "activate it again, or abort it, first",
        _ => "its shares open nothing any longer",
    }
}

/// Whether a version may get new shares, and the number of the set that they would be.
pub fn next_set(manifest: &Manifest, version: KeyVersion) -> Result<u32, ReshareRefused> {
    let record = manifest.version(version).ok_or(ReshareRefused::Unknown(version))?;
    match record.state {
        VersionState::Primary | VersionState::DecryptOnly => {}
        state => return Err(ReshareRefused::State { version, state }),
    }
    let newest = record.share_set.pending.as_ref().map_or(record.share_set.set, |pending| pending.set);
    newest.max(record.share_set.set).checked_add(1).ok_or(ReshareRefused::NoNumberLeft(version))
}

/// Puts a set beside the one in force, where it waits for its proofs. A set that waited before is given up, and its
/// shares are refused by name. `lost` are holders whose share is lost: that is so from now on, whatever becomes of the
/// new set.
pub fn begin(
    manifest: &mut Manifest,
    version: KeyVersion,
    new: ShareSet,
    lost: &[HolderName],
) -> Result<(), ReshareRefused> {
    next_set(manifest, version)?;
    let record = manifest.version_mut(version).ok_or(ReshareRefused::Unknown(version))?;
    let given_up = record.share_set.pending.replace(Box::new(new));
    let in_force = record.share_set.clone();
    for set in [Some(&in_force), given_up.as_deref()].into_iter().flatten() {
        if lost.iter().any(|name| holds(set, name)) {
            expose(record, set, |exposed| {
                exposed.lost.extend(lost.iter().filter(|name| holds(set, name)).cloned());
            });
        }
    }
    // Whoever lost the newest share may have kept the ones before it, beside it.
    for exposed in &mut record.exposed {
        exposed.lost.extend(lost.iter().filter(|name| exposed.replaced.contains(name)).cloned());
        exposed.lost.sort();
        exposed.lost.dedup();
        exposed.left.retain(|name| !exposed.lost.contains(name));
    }
    // Its packages may have been opened: they make the key like those of a set that was in force.
    if let Some(given_up) = given_up {
        supersede(record, &given_up);
    }
    Ok(())
}

/// The versions whose set to come has been proved by enough of its holders, ascending. `proved` tells who has proved
/// a set: exactly this one, as a store that went back may have seen another of the same number.
pub fn complete<'a>(
    manifest: &'a Manifest,
    proved: impl Fn(KeyVersion, &ShareSet) -> BTreeSet<HolderName> + 'a,
) -> impl Iterator<Item = KeyVersion> + 'a {
    manifest.versions.iter().filter_map(move |record| {
        let pending = record.share_set.pending.as_deref()?;
        let proved = proved(record.version, pending);
        let have = pending.holders.iter().filter(|holder| proved.contains(&holder.name)).count();
        (have >= enough(pending)).then_some(record.version)
    })
}

/// Makes the set to come the one in force. The shares of the set before are refused by name from now on.
pub fn finish(manifest: &mut Manifest, version: KeyVersion) -> Result<(), ReshareRefused> {
    let record = manifest.version_mut(version).ok_or(ReshareRefused::Unknown(version))?;
    let Some(pending) = record.share_set.pending.take() else { return Ok(()) };
    let old = std::mem::replace(&mut record.share_set, *pending);
    record.share_set.replaced = old.replaced.clone();
    supersede(record, &old);
    Ok(())
}

/// From now on the shares of `old` are refused by name, and counted.
fn supersede(record: &mut VersionRecord, old: &ShareSet) {
    let set = &mut record.share_set;
    set.replaced.extend(old.holders.iter().map(|holder| holder.digest));
    let names: Vec<_> = old.holders.iter().map(|holder| holder.name.clone()).collect();
    expose(record, old, |exposed| {
        exposed.replaced = names;
        exposed.plain = plain(old);
    });
    // Whoever leaves may take along every share that they ever had.
    let set = &record.share_set;
    let stays =
        |name: &HolderName| holds(set, name) || set.pending.as_deref().is_some_and(|pending| holds(pending, name));
    for exposed in &mut record.exposed {
        let known = |name: &HolderName| exposed.lost.contains(name) || exposed.left.contains(name);
        let left: Vec<_> = exposed.replaced.iter().filter(|name| !stays(name) && !known(name)).cloned().collect();
        exposed.left.extend(left);
    }
}

fn holds(set: &ShareSet, name: &HolderName) -> bool {
    set.holders.iter().any(|holder| holder.name == *name)
}

/// Notes something about what is exposed of a set.
fn expose(record: &mut VersionRecord, set: &ShareSet, note: impl FnOnce(&mut ExposedSet)) {
    let known = record.exposed.iter().position(|exposed| exposed.set == set.set);
    let mut exposed = known.map_or_else(|| blank(set), |at| record.exposed.remove(at));
    note(&mut exposed);
    record.exposed.push(exposed);
    record.exposed.sort_by_key(|exposed| exposed.set);
}

fn blank(set: &ShareSet) -> ExposedSet {
    ExposedSet {
        set: set.set,
        threshold: set.threshold,
        replaced: vec![],
        lost: vec![],
        left: vec![],
        plain: vec![],
    }
}

fn plain(set: &ShareSet) -> Vec<HolderName> {
    set.holders.iter().filter(|holder| holder.recipient.is_none()).map(|holder| holder.name.clone()).collect()
}

/// What may be in other hands of one version, all its sets together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposure {
    /// Which version.
    pub version: KeyVersion,
    /// Shares that are lost.
    pub lost: usize,
    /// Shares of holders who are holders no longer.
    pub left: usize,
    /// Shares that stood in a package that was not encrypted.
    pub plain: usize,
    /// Shares that were replaced, and should have been destroyed.
    pub replaced: usize,
    /// A set of which enough to rebuild the key may be in other hands: its number, how many, and its threshold.
    pub rebuilds: Option<(u32, usize, u8)>,
}

/// Counts what may be in other hands of a version.
pub fn exposure(record: &VersionRecord) -> Exposure {
    let mut sets: Vec<ExposedSet> = record.exposed.clone();
    for set in [Some(&record.share_set), record.share_set.pending.as_deref()].into_iter().flatten() {
        match sets.iter_mut().find(|exposed| exposed.set == set.set) {
            Some(exposed) => exposed.plain = plain(set),
            None => sets.push(ExposedSet { plain: plain(set), ..blank(set) }),
        }
    }
    let count = |of: fn(&ExposedSet) -> usize| sets.iter().map(of).sum();
    let elsewhere = |exposed: &ExposedSet| {
        exposed.lost.iter().chain(&exposed.left).chain(&exposed.plain).collect::<BTreeSet<_>>().len()
    };
    Exposure {
        version: record.version,
        lost: count(|exposed| exposed.lost.len()),
        left: count(|exposed| exposed.left.len()),
        plain: count(|exposed| exposed.plain.len()),
        replaced: count(|exposed| exposed.replaced.len()),
        rebuilds: sets
            .iter()
            .map(|exposed| (exposed.set, elsewhere(exposed), exposed.threshold))
            .find(|(_, elsewhere, threshold)| *elsewhere >= usize::from(*threshold)),
    }
}
