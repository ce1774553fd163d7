//! The metadata store: linearizable compare-and-swap, and everything that can go wrong on the way to it and back.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use keymoot_quorum::gate;
use keymoot_types::{Digest, KeyId, KeyVersion, heartbeat::Heartbeat, manifest::ManifestDocument};

use crate::node::Proof;

/// A manifest with its digest, which is asked for at every beat.
pub(crate) struct Document {
    pub(crate) document: ManifestDocument,
    pub(crate) digest: Digest,
}

pub(crate) type Doc = Arc<Document>;

impl Document {
    pub(crate) fn new(document: ManifestDocument) -> Doc {
        Arc::new(Self { digest: document.digest(), document })
    }

    pub(crate) fn revision(&self) -> u64 {
        self.document.manifest().revision
    }

    pub(crate) fn identity(&self) -> (u64, Digest) {
        (self.revision(), self.digest)
    }
}

#[allow(clippy::large_enum_variant, reason = "a model's messages: few at a time")]
pub(crate) enum Body {
    Manifest(Doc),
    Heartbeat(Heartbeat),
    Proof(Proof),
    /// When, and the revision that it is about.
    Moment(Duration, Option<u64>),
    Clock {
        total: Duration,
        clean: bool,
        last_use: BTreeMap<KeyVersion, Duration>,
    },
    Census {
        node: usize,
        census: gate::Census,
    },
    Restored,
}

/// What is stored, and the version whose mac it carries; a manifest carries its own.
#[derive(Clone)]
pub(crate) struct Record {
    pub(crate) stamp: u64,
    pub(crate) by: Option<(KeyVersion, KeyId)>,
    pub(crate) body: Arc<Body>,
}

#[derive(Clone)]
pub(crate) enum Write {
    Put(String, Record),
    Swap(String, Option<u64>, Record),
    Remove(String, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreError {
    /// Nothing was reached.
    Away,
    /// It may be done, or be done yet.
    Unknown,
    /// Somebody else was first.
    Changed,
}

/// A write that is still under way: since when, until when, its number, and from whom.
pub(crate) struct Late {
    pub(crate) sent: u64,
    pub(crate) due: u64,
    pub(crate) number: u64,
    pub(crate) from: usize,
    pub(crate) write: Write,
}

#[derive(Default)]
pub(crate) struct Store {
    records: BTreeMap<String, Record>,
    stamps: u64,
    /// Copies of earlier moments, oldest first: for stale reads and for a restore.
    copies: Vec<BTreeMap<String, Record>>,
    pub(crate) late: Vec<Late>,
    writes: u64,
    /// The newest write of each node that arrived.
    arrived: BTreeMap<usize, u64>,
    /// Every call that reached it, of whatever outcome.
    pub(crate) calls: u64,
    pub(crate) away_until: u64,
    pub(crate) restored_at: Option<u64>,
    /// When something last became other than a node may have seen it.
    pub(crate) changed_at: u64,
}

const COPIES_MAX: usize = 24;

impl Store {
    pub(crate) fn records(&self, stale: bool) -> &BTreeMap<String, Record> {
        self.copies.last().filter(|_| stale).unwrap_or(&self.records)
    }

    pub(crate) fn list(&self, stale: bool, prefix: &str) -> Vec<(String, Record)> {
        let from = self.records(stale).range(prefix.to_owned()..);
        let found = from.take_while(|(key, _)| key.starts_with(prefix));
        found.map(|(key, record)| (key.clone(), record.clone())).collect()
    }

    /// Numbers a write, in the order in which its node sends them.
    pub(crate) fn number(&mut self) -> u64 {
        self.writes += 1;
        self.writes
    }

    pub(crate) fn apply(&mut self, from: usize, number: u64, write: Write) -> Result<(), StoreError> {
        let newest = self.arrived.entry(from).or_default();
        *newest = number.max(*newest);
        self.stamps += 1;
        let stamp = self.stamps;
        let stands = |key: &str, stamp: Option<u64>| self.records.get(key).map(|record| record.stamp) == stamp;
        match write {
            Write::Swap(key, expected, _) if !stands(&key, expected) => return Err(StoreError::Changed),
            Write::Remove(key, stamp) if !stands(&key, Some(stamp)) => return Err(StoreError::Changed),
            Write::Put(key, record) | Write::Swap(key, _, record) => {
                self.records.insert(key, Record { stamp, ..record });
            }
            Write::Remove(key, _) => drop(self.records.remove(&key)),
        }
        Ok(())
    }

    /// Whether a later write of the same node has arrived before this one.
    pub(crate) fn is_overtaken(&self, late: &Late) -> bool {
        self.arrived.get(&late.from).is_some_and(|newest| *newest > late.number)
    }

    pub(crate) fn copy(&mut self) {
        if self.copies.len() == COPIES_MAX {
            self.copies.remove(0);
        }
        self.copies.push(self.records.clone());
    }

    /// Becomes what it was so many copies ago; says whether there is such a copy.
    pub(crate) fn restore(&mut self, ago: usize) -> bool {
        let Some(at) = self.copies.len().checked_sub(ago) else { return false };
        let Some(copy) = self.copies.get(at) else { return false };
        self.records = copy.clone();
        self.copies.truncate(at);
        true
    }

    /// The newest manifest that is stored.
    pub(crate) fn head(&self) -> Option<Doc> {
        self.records.range("manifest/".to_owned().."manifest0".to_owned()).next_back().and_then(manifest)
    }
}

fn manifest((_, record): (&String, &Record)) -> Option<Doc> {
    match &*record.body {
        Body::Manifest(document) => Some(document.clone()),
        _ => None,
    }
}
