use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use super::{
    Fault, Trouble,
    address::Address,
    gateway::Gateway,
    keyspace::Keyspace,
    message::{KeyValue, delete, put, read, read_from, read_past, unchanged_since},
};
use crate::{
    OpenError, away, behind_prefix,
    metadata::{Existing, Metadata, MetadataError, Record, Stamp, within_limit},
};

/// How long to go on with a write that meets other writers, or whose outcome is not known.
const SETTLE: Duration = Duration::from_secs(8);

/// Records of one page of a list.
const PAGE: usize = 40;

/// How often to begin a list again, where its moment was compacted away.
const LIST_TRIES: usize = 3;

/// How far to go back in a record's past to find our own write.
const PAST_MAX: usize = 100;

/// A stamp in hex and a line end stand before every value.
const STAMP_BYTES: usize = 16;

/// The metadata store in an etcd cluster.
///
/// The stamp is drawn at random by the writer and stored with the value. So a write whose answer was lost is found
/// again by its stamp, and a restored backup never gives one out that was there before.
pub struct EtcdMetadata {
    pub(super) keyspace: Keyspace,
}

/// A record, and the revision of the whole store that made it what it is.
struct Found {
    record: Record,
    revision: i64,
}

/// What is to become of a record.
#[derive(Clone, Copy)]
struct Change<'a> {
    key: &'a str,
    /// The state that it must be in; `None`: any.
    expected: Option<Option<Stamp>>,
    /// What is written; `None`: it is removed.
    write: Option<(Stamp, &'a [u8])>,
}

impl EtcdMetadata {
    /// The store at this address. It is connected to, and made where there is none, at its first use.
    ///
    /// # Errors
    /// [`OpenError`] for an address that can't be understood, or certificates that can't be read.
    pub fn open(url: &str) -> Result<Self, OpenError> {
        Self::new(url, true)
    }

    /// The same store, which is never made.
    ///
    /// # Errors
    /// As [`EtcdMetadata::open`].
    pub fn open_existing(url: &str) -> Result<Self, OpenError> {
        Self::new(url, false)
    }

    fn new(url: &str, make: bool) -> Result<Self, OpenError> {
        let address = Address::parse(url)?;
        let prefix = address.prefix.clone();
        Ok(Self { keyspace: Keyspace::new(Gateway::new(address)?, prefix, make) })
    }

    async fn find(&self, key: &str) -> Result<Option<Found>, Trouble> {
        let done = self.keyspace.transact(false, |records| (vec![], vec![read(&format!("{records}{key}"))]));
        let Some(mut done) = done.await? else { return Ok(None) };
        Ok(done.found.kvs.pop().map(|found| parse(&done.records, found)).transpose()?)
    }

    async fn change(&self, change: Change<'_>) -> Result<(), MetadataError> {
        let end = Instant::now() + SETTLE;
        // The record's revision before the first attempt that may have been done.
        let mut maybe_since = None;
        let mut reason = "other writers change it all the time".to_owned();
        for wait in away::waits() {
            match self.attempt(change, &mut maybe_since).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error @ MetadataError::Unavailable(_)) if maybe_since.is_some() => reason = error.to_string(),
                Err(error) => return Err(error),
            }
            if Instant::now() + wait >= end {
                break;
            }
            sleep(wait).await;
        }
        Err(MetadataError::Unavailable(format!("whether a write was done is not known: {reason}")))
    }

    /// Makes the change, if the record is as expected. `false` to look again.
    async fn attempt(&self, change: Change<'_>, maybe_since: &mut Option<i64>) -> Result<bool, MetadataError> {
        let found = self.find(change.key).await?;
        let stamp = found.as_ref().map(|found| found.record.stamp);
        let revision = found.as_ref().map_or(0, |found| found.revision);
        if let Some(since) = *maybe_since
            && since != revision
            && self.was_done(change, since, found).await?
        {
            return Ok(true);
        }
        if change.expected.is_some_and(|expected| expected != stamp) {
            return Err(MetadataError::Changed { key: change.key.to_owned() });
        }
        let stored = change.write.map(|(stamp, value)| stored(stamp, value));
        let done = self.keyspace.transact(true, |records| {
            let key = format!("{records}{}", change.key);
            let step = stored.as_ref().map_or_else(|| delete(&key), |stored| put(&key, stored));
            (vec![unchanged_since(&key, revision)], vec![step])
        });
        match done.await {
            Ok(done) => {
                if done.as_ref().is_some_and(|done| done.maybe_twice) {
                    maybe_since.get_or_insert(revision);
                }
                Ok(done.is_some_and(|done| done.succeeded))
            }
            Err(trouble) => {
                if trouble.maybe_done {
                    maybe_since.get_or_insert(revision);
                }
                Err(trouble.into())
            }
        }
    }

    /// Whether our change is among those since the revision `since`, from the newest back.
    async fn was_done(
        &self,
        change: Change<'_>,
        since: i64,
        newest: Option<Found>,
    ) -> Result<bool, MetadataError> {
        let ours = change.write.map(|(stamp, _)| stamp);
        let mut state = newest;
        for _ in 0..PAST_MAX {
            let Some(found) = state else {
                // A record that is gone tells nothing of what it was before.
                let unknown = || MetadataError::Unavailable("the record was removed since".into());
                return if ours.is_none() { Ok(true) } else { Err(unknown()) };
            };
            if Some(found.record.stamp) == ours {
                return Ok(true);
            }
            if found.revision <= since {
                return Ok(false);
            }
            let before = found.revision - 1;
            let done = self
                .keyspace
                .transact(false, |records| (vec![], vec![read_past(&format!("{records}{}", change.key), before)]));
            state = match done.await? {
                None => None,
                Some(mut done) => done.found.kvs.pop().map(|found| parse(&done.records, found)).transpose()?,
            };
            if state.is_none() && since == 0 {
                // It was not there before, and the first that made it was not us.
                return Ok(ours.is_none());
            }
        }
        Err(MetadataError::Unavailable("the record was changed too often since".into()))
    }

    /// All records whose key begins with `prefix`, of one revision.
    async fn read_all(&self, prefix: &str) -> Result<Vec<Record>, Trouble> {
        let end_of = |records: &str| behind_prefix(format!("{records}{prefix}").as_bytes()).unwrap_or_default();
        let first = self.keyspace.transact(false, |records| {
            (vec![], vec![read_from(format!("{records}{prefix}").as_bytes(), &end_of(records), PAGE, 0)])
        });
        let Some(first) = first.await? else { return Ok(Vec::new()) };
        let (mut page, mut all) = (first.found, Vec::new());
        loop {
            let (more, last) = (page.more, page.kvs.last().map(|found| found.key.clone()));
            for found in page.kvs {
                all.push(parse(&first.records, found)?.record);
            }
            let Some(mut next) = last.filter(|_| more) else { return Ok(all) };
            next.push(0);
            let read = read_from(&next, &end_of(&first.records), PAGE, first.revision);
            page = self.keyspace.gateway.transact(&[], &[read], &[]).await?.answer.range();
        }
    }
}

fn parse(records: &str, found: KeyValue) -> Result<Found, Fault> {
    let key = String::from_utf8(found.key).ok();
    let Some(key) = key.as_deref().and_then(|key| key.strip_prefix(records)) else {
        return Err(Fault::Damaged("a record's key is not as Keymoot writes it".into()));
    };
    let stored = found.value.split_at_checked(STAMP_BYTES).and_then(|(stamp, rest)| {
        let stamp = u64::from_str_radix(std::str::from_utf8(stamp).ok()?, 16).ok()?;
        Some((Stamp(stamp), rest.strip_prefix(b"\n")?.to_vec()))
    });
    let (stamp, value) =
        stored.ok_or_else(|| Fault::Damaged(format!("the record {key} is not as Keymoot writes it")))?;
    Ok(Found { record: Record { key: key.to_owned(), value, stamp }, revision: found.mod_revision })
}

#[async_trait]
impl Metadata for EtcdMetadata {
    async fn get(&self, key: &str) -> Result<Option<Record>, MetadataError> {
        Ok(self.find(key).await?.map(|found| found.record))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Record>, MetadataError> {
        for _ in 1..LIST_TRIES {
            match self.read_all(prefix).await {
                Err(Trouble { fault: Fault::Compacted, .. }) => {}
                answer => return Ok(answer?),
            }
        }
        Ok(self.read_all(prefix).await?)
    }

    async fn put(&self, key: &str, value: &[u8]) -> Result<Stamp, MetadataError> {
        within_limit(key, value)?;
        let stamp = Stamp::draw()?;
        self.change(Change { key, expected: None, write: Some((stamp, value)) }).await?;
        Ok(stamp)
    }

    async fn swap(&self, key: &str, expected: Option<Stamp>, value: &[u8]) -> Result<Stamp, MetadataError> {
        within_limit(key, value)?;
        let stamp = Stamp::draw()?;
        self.change(Change { key, expected: Some(expected), write: Some((stamp, value)) }).await?;
        Ok(stamp)
    }

    async fn remove(&self, key: &str, expected: Stamp) -> Result<(), MetadataError> {
        self.change(Change { key, expected: Some(Some(expected)), write: None }).await
    }

    async fn fill(&self, records: Vec<(String, Vec<u8>)>, existing: Existing) -> Result<(), MetadataError> {
        for (key, value) in &records {
            within_limit(key, value)?;
        }
        self.fill_generation(records, existing).await
    }
}

/// A value as it is stored.
pub(super) fn stored(stamp: Stamp, value: &[u8]) -> Vec<u8> {
    [format!("{:016x}\n", stamp.0).as_bytes(), value].concat()
}
