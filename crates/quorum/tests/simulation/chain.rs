//! Following the manifest's chain and extending it, as `node/chain.rs` of the daemon does.

use std::sync::Arc;

use keymoot_keyring::Validated;
use keymoot_quorum::{
    adopt::{self, Divergence},
    revise,
};
use keymoot_types::{Digest, Manifest, manifest::VersionRecord};

use crate::{
    node::{Node, Refused},
    store::{Body, Doc, Document, Record, StoreError, Write},
    world::World,
};

const STEPS_MAX: u64 = 1000;

pub(crate) fn key(revision: u64) -> String {
    format!("manifest/{revision:020}")
}

fn parse(record: &Record, revision: u64) -> Result<Doc, Divergence> {
    match &*record.body {
        Body::Manifest(document) if document.revision() == revision => Ok(document.clone()),
        _ => Err(Divergence::Forked { revision }),
    }
}

impl World {
    /// Looks at the store, and takes up what follows.
    pub(crate) fn follow(&mut self, node: &mut Node) {
        let looked_at = self.now;
        match self.read_ahead(node) {
            Ok(found) => {
                node.store_away = false;
                node.looked_at = looked_at;
                match found {
                    Ok(ahead) => {
                        node.diverged = None;
                        node.ahead = ahead;
                    }
                    Err(divergence) => self.diverge(node, divergence),
                }
            }
            Err(_) => node.store_away = true,
        }
        if !node.loaded.is_empty() {
            let before = node.adopted.as_ref().map(|adopted| adopted.revision());
            self.adopt_ahead(node);
            if node.adopted.as_ref().map(|adopted| adopted.revision()) != before {
                self.drop_retired(node);
                self.follow_moments(node);
                self.rebuild(node);
            }
        }
        if !node.store_away {
            self.look_at_numbers(node);
        }
    }

    fn diverge(&mut self, node: &mut Node, divergence: Divergence) {
        if node.diverged.as_ref() != Some(&divergence) {
            self.say(format_args!("{} diverged: {divergence}", node.name));
        }
        node.diverged = Some(divergence);
        node.ahead.clear();
    }

    fn read_ahead(&mut self, node: &Node) -> Result<Result<Vec<Doc>, Divergence>, StoreError> {
        let Some(adopted) = node.adopted.clone() else {
            let confirmed = match node.confirmed {
                Some((revision, digest)) => {
                    let stored = self.get(node, &key(revision))?.and_then(|record| parse_any(&record));
                    stored.filter(|document| document.digest == digest)
                }
                None => None,
            };
            if let Some(document) = confirmed {
                return Ok(Ok(vec![document]));
            }
            let newest = self.list(node, "manifest/")?.pop();
            return Ok(Ok(newest.and_then(|(_, record)| parse_any(&record)).into_iter().collect()));
        };
        let revision = adopted.revision();
        let Some(stored) = self.get(node, &key(revision))? else {
            let stored = self.highest_stored(node)?;
            return Ok(Err(Divergence::WentBack { adopted: revision, stored }));
        };
        match parse(&stored, revision) {
            Ok(document) if document.digest == adopted.digest => {}
            Ok(_) => return Ok(Err(Divergence::Forked { revision })),
            Err(divergence) => return Ok(Err(divergence)),
        }
        let mut ahead: Vec<Doc> = Vec::new();
        for step in 1..=STEPS_MAX {
            let Some(record) = self.get(node, &key(revision + step))? else {
                let in_doubt = node.loaded.is_empty() || matches!(node.diverged, Some(Divergence::Gap { .. }));
                let highest = if in_doubt { self.highest_stored(node)? } else { 0 };
                if highest > revision + step {
                    return Ok(Err(Divergence::Gap { revision: revision + step }));
                }
                break;
            };
            let next = match parse(&record, revision + step) {
                Ok(next) => next,
                Err(divergence) => return Ok(Err(divergence)),
            };
            let before = ahead.last().unwrap_or(&adopted);
            if let Err(divergence) = adopt::follows(&before.document, &next.document) {
                return Ok(Err(divergence));
            }
            ahead.push(next);
        }
        Ok(Ok(ahead))
    }

    fn highest_stored(&mut self, node: &Node) -> Result<u64, StoreError> {
        let newest = self.list(node, "manifest/")?.pop();
        Ok(newest.and_then(|(_, record)| parse_any(&record)).map_or(0, |document| document.revision()))
    }

    pub(crate) fn adopt_ahead(&mut self, node: &mut Node) {
        for next in std::mem::take(&mut node.ahead) {
            let Some(current) = &node.adopted else { return };
            let loaded = &node.loaded;
            let verified =
                adopt::adopt(&current.document, &next.document, |version| loaded.get(&version).map(AsRef::as_ref));
            match verified {
                Ok(()) => self.keep(node, next, false),
                Err(divergence) => {
                    self.diverge(node, divergence);
                    return;
                }
            }
        }
    }

    /// Makes a verified manifest this node's own. `by_word` says that an operator vouched for it.
    pub(crate) fn keep(&mut self, node: &mut Node, document: Doc, by_word: bool) {
        if self.dies_here(node.at) {
            return;
        }
        self.check_kept(node, &document, by_word);
        self.say(format_args!("{} adopts {}", node.name, document.revision()));
        if !self.disk_is_full(node.at) {
            self.slots[node.at].disk = Some(document.clone());
        }
        node.adopted = Some(document);
    }

    pub(crate) fn publish(
        &mut self,
        node: &mut Node,
        manifest: Manifest,
        more: &[Arc<Validated>],
    ) -> Result<(), Refused> {
        node.gates_open()?;
        self.may_write(node)?;
        self.is_at_the_head(node)?;
        self.write_revision(node, manifest, more)
    }

    fn may_write(&self, node: &Node) -> Result<(), Refused> {
        if node.members.double().is_some() {
            return Err("another lives under its name".into());
        }
        node.primary()?;
        let holds = |record: &VersionRecord| {
            node.loaded.get(&record.version).is_some_and(|key| key.key_id() == record.key_id)
        };
        if let Some(version) = adopt::silent(node.manifest()?, holds) {
            return Err(format!("v{version} is required and not loaded here"));
        }
        Ok(())
    }

    fn is_at_the_head(&mut self, node: &mut Node) -> Result<(), Refused> {
        let newest = self.list(node, "manifest/").map_err(|error| format!("the store is {error:?}"))?.pop();
        let newest = newest.and_then(|(_, record)| parse_any(&record)).map(|newest| newest.digest);
        if newest.is_some() && newest == node.adopted.as_ref().map(|adopted| adopted.digest) {
            return Ok(());
        }
        let revision = node.manifest()?.revision + 1;
        node.diverged = Some(Divergence::Gap { revision });
        self.follow(node);
        Err("the store's newest revision is another".into())
    }

    fn write_revision(
        &mut self,
        node: &mut Node,
        manifest: Manifest,
        more: &[Arc<Validated>],
    ) -> Result<(), Refused> {
        let vouching: Vec<_> = node.loaded.values().chain(more).cloned().collect();
        let document = revise::seal(manifest, &vouching).map_err(|error| error.to_string())?;
        let document = Document::new(document);
        self.append(node, &document)?;
        node.ahead.clear();
        self.keep(node, document, false);
        self.rebuild(node);
        Ok(())
    }

    fn append(&mut self, node: &mut Node, document: &Doc) -> Result<(), Refused> {
        let key = key(document.revision());
        let body = Arc::new(Body::Manifest(document.clone()));
        let record = Record { stamp: 0, by: None, body };
        let Err(error) = self.send(node, Write::Swap(key.clone(), None, record)) else { return Ok(()) };
        match self.get(node, &key) {
            Ok(Some(record)) if parse_any(&record).is_some_and(|stored| stored.digest == document.digest) => {
                Ok(())
            }
            Ok(Some(_)) => {
                self.follow(node);
                Err("another node wrote the next revision first".into())
            }
            Ok(None) | Err(_) => Err(format!("the store is {error:?}")),
        }
    }

    pub(crate) fn confirm(&mut self, node: &mut Node, revision: u64, digest: Digest) -> Result<(), Refused> {
        let record = self.get(node, &key(revision)).map_err(|error| format!("{error:?}"))?;
        let document = record.and_then(|record| parse_any(&record)).ok_or("no such revision")?;
        if document.digest != digest {
            return Err("another digest".into());
        }
        let is_adopted = node.adopted.as_ref().is_some_and(|adopted| adopted.digest == digest);
        if node.adopted.is_some() && !is_adopted && node.diverged.is_none() {
            return Err("it follows the store's manifest".into());
        }
        if !is_adopted {
            self.note_restored(node)?;
        }
        if node.loaded.is_empty() {
            node.confirmed = Some((revision, digest));
            node.adopted = None;
            node.diverged = None;
            node.ahead = vec![document];
            self.enter_service(node);
            return Ok(());
        }
        let loaded = &node.loaded;
        adopt::stands(&document.document, |version| loaded.get(&version).map(AsRef::as_ref))
            .map_err(|divergence| divergence.to_string())?;
        node.ahead.clear();
        self.keep(node, document, true);
        self.follow(node);
        self.drop_retired(node);
        self.rebuild(node);
        Ok(())
    }

    pub(crate) fn republish(&mut self, node: &mut Node) -> Result<(), Refused> {
        node.primary()?;
        let revision = node.manifest()?.revision;
        let stored = self.highest_stored(node).map_err(|error| format!("{error:?}"))?;
        if node.diverged.is_none() && stored == revision {
            return Ok(());
        }
        self.note_restored(node)?;
        let mut manifest = node.next()?;
        manifest.revision = manifest.revision.max(stored + 1);
        self.may_write(node)?;
        self.write_revision(node, manifest, &[])?;
        node.diverged = None;
        Ok(())
    }
}

pub(crate) fn parse_any(record: &Record) -> Option<Doc> {
    match &*record.body {
        Body::Manifest(document) => Some(document.clone()),
        _ => None,
    }
}
