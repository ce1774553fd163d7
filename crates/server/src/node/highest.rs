//! The number of the next version, and what is remembered so that none is given twice. [`keymoot_quorum::number`]
//! decides; here the facts are kept.
//!
//! A record below [`RESTORED`] says that versions may have been forgotten. It carries no mac, as it is written
//! without a key, and can only make the daemon ask more.

use keymoot_api::Problem;
use keymoot_quorum::{
    PartRefusal,
    number::{self, NumberRefused, Numbers},
};
use keymoot_storage::metadata::MetadataError;
use keymoot_types::{KeyVersion, Manifest, RefusalCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Core, Node, bad_request, census, conflict, record, store_problem, wall_clock};

/// Markers of a restore: by whom, or by what.
const RESTORED: &str = "restored/";
/// What a restore leaves behind. No node's name has a slash.
pub(crate) const RESTORED_BACKUP: &str = "restored/by/backup";
/// What every node saw.
pub(super) const SEEN: &str = "seen/";

/// Unknown versions in shares and values, as one node saw them.
#[derive(Serialize, Deserialize)]
struct Seen {
    highest: KeyVersion,
    times: u32,
}

impl Node {
    /// The number for the next version, or why an operator has to name the highest first.
    pub(super) fn next_version(&self, core: &Core, named: Option<KeyVersion>) -> Result<KeyVersion, Problem> {
        core.numbers.next(core.manifest()?.manifest(), named).map_err(|refused| match refused {
            NumberRefused::BelowKnown { .. } | NumberRefused::FarAhead { .. } => bad_request(refused.to_string()),
            NumberRefused::Unnamed { .. } | NumberRefused::NoneLeft(_) => conflict(refused.to_string()),
        })
    }

    /// A share of a version that nobody here knows may be of one that was forgotten.
    pub(super) fn note_seen_in_share(&self, manifest: &Manifest, refusal: &PartRefusal) {
        if let (RefusalCode::UnknownVersion, Some(version), Some(known)) =
            (refusal.code, refusal.version, manifest.highest())
        {
            self.last_use.sightings.saw(version, known);
        }
    }

    /// From now on an operator must name the highest number before a version is made.
    pub(super) async fn note_restored(&self, core: &mut Core, why: &str) -> Result<(), Problem> {
        let marker = json!({"why": why, "node": self.name, "at": wall_clock()}).to_string();
        self.metadata.put(&self.own_marker(), marker.as_bytes()).await.map_err(|error| store_problem(&error))?;
        core.numbers.restored = true;
        tracing::warn!(why, "versions may have been forgotten: an operator must name the highest number");
        Ok(())
    }

    fn own_marker(&self) -> String {
        format!("{RESTORED}{}", self.name)
    }

    /// Another member is there that was never in doubt: it has followed the same chain all the time, and so this node,
    /// which is new, knows as much.
    pub(super) async fn vouched_for_numbers(&self) -> Result<(), MetadataError> {
        let key = self.own_marker();
        if let Some(marker) = self.metadata.get(&key).await? {
            self.metadata.remove(&key, marker.stamp).await?;
            tracing::info!("another member has followed the manifest all the time: no version was forgotten");
        }
        Ok(())
    }

    /// A version was made above all numbers that were named or seen: the manifest itself knows the highest again.
    pub(super) async fn number_taken(&self, core: &mut Core) {
        core.numbers = Numbers::default();
        let forgotten = async {
            for marker in self.metadata.list(RESTORED).await? {
                self.metadata.remove(&marker.key, marker.stamp).await?;
            }
            Ok::<_, MetadataError>(())
        };
        if let Err(error) = forgotten.await {
            tracing::warn!(%error, "the marker of a restore stays: the highest number will be asked for again");
        }
    }

    /// Makes what was seen durable, and learns what is recorded.
    pub(super) async fn look_at_numbers(&self, core: &mut Core) {
        match self.read_numbers(core).await {
            Ok(numbers) => core.numbers = numbers,
            Err(error) => tracing::debug!(%error, "what is known of numbers could not be looked at"),
        }
    }

    async fn read_numbers(&self, core: &Core) -> Result<Numbers, MetadataError> {
        // Another node's own doubt is not this one's, which may have been there all the time.
        let concerns = |key: &str| key == RESTORED_BACKUP || key == self.own_marker();
        let restored = self.metadata.list(RESTORED).await?.iter().any(|marker| concerns(&marker.key));
        let mut numbers = Numbers { restored, ..Numbers::default() };
        // Without a key no record can be believed, and without a manifest no number is unknown.
        let Some(known) = core.adopted.as_ref().and_then(|document| document.manifest().highest()) else {
            return Ok(numbers);
        };
        let Ok(primary) = core.primary() else { return Ok(numbers) };
        self.keep_sightings(core, known).await?;
        for stored in self.metadata.list(SEEN).await? {
            if let Some(seen) = believed(&stored.key, &stored.value, core, known) {
                numbers.sent = numbers.sent.max(Some(seen.highest));
                numbers.times = numbers.times.saturating_add(seen.times);
            }
        }
        let mut newest: Vec<_> = Vec::new();
        for stored in self.metadata.list(census::PREFIX).await?.iter().rev() {
            let Ok(taken) = record::open::<census::Taken>(&stored.key, &stored.value, &primary) else {
                continue;
            };
            for source in taken.sources {
                if newest.contains(&source.name) {
                    continue;
                }
                let plausible = source.unknown.iter().map(|count| count.version);
                let plausible = plausible.filter(|version| number::is_plausible(known, *version)).max();
                numbers.counted = numbers.counted.max(plausible);
                newest.push(source.name);
            }
        }
        Ok(numbers)
    }

    /// Adds what was seen since the last time to this node's record.
    async fn keep_sightings(&self, core: &Core, known: KeyVersion) -> Result<(), MetadataError> {
        let Ok(primary) = core.primary() else { return Ok(()) };
        let Some((highest, times)) = self.last_use.sightings.take() else { return Ok(()) };
        let key = format!("{SEEN}{}", self.name);
        let write = async {
            let before = self.metadata.get(&key).await?;
            let before = before.and_then(|stored| believed(&key, &stored.value, core, known));
            let seen = match before {
                Some(before) => {
                    Seen { highest: highest.max(before.highest), times: times.saturating_add(before.times) }
                }
                None => Seen { highest, times },
            };
            if let Some(bytes) = record::seal(&key, &seen, &primary) {
                self.metadata.put(&key, &bytes).await?;
            }
            Ok(())
        };
        write.await.inspect_err(|_| self.last_use.sightings.add(highest, times))
    }
}

/// A record of sightings that is vouched for and still speaks of a version that is not known.
fn believed(key: &str, bytes: &[u8], core: &Core, known: KeyVersion) -> Option<Seen> {
    let seen = record::open::<Seen>(key, bytes, &*core.primary().ok()?).ok()?;
    number::is_plausible(known, seen.highest).then_some(seen)
}
