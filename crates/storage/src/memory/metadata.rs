use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use crate::metadata::{Existing, Metadata, MetadataError, Record, Stamp, within_limit};

/// Records in memory.
#[derive(Default)]
pub struct MemoryMetadata {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    records: BTreeMap<String, (Vec<u8>, Stamp)>,
    newest: u64,
}

impl State {
    fn write(&mut self, key: &str, value: &[u8]) -> Stamp {
        self.newest += 1;
        let stamp = Stamp(self.newest);
        self.records.insert(key.to_owned(), (value.to_vec(), stamp));
        stamp
    }

    fn stamp(&self, key: &str) -> Option<Stamp> {
        self.records.get(key).map(|(_, stamp)| *stamp)
    }
}

impl MemoryMetadata {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn record(key: &str, (value, stamp): &(Vec<u8>, Stamp)) -> Record {
    Record { key: key.to_owned(), value: value.clone(), stamp: *stamp }
}

#[async_trait]
impl Metadata for MemoryMetadata {
    async fn get(&self, key: &str) -> Result<Option<Record>, MetadataError> {
        Ok(self.state().records.get(key).map(|held| record(key, held)))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Record>, MetadataError> {
        let state = self.state();
        let behind = state.records.range(prefix.to_owned()..);
        Ok(behind.take_while(|(key, _)| key.starts_with(prefix)).map(|(key, held)| record(key, held)).collect())
    }

    async fn put(&self, key: &str, value: &[u8]) -> Result<Stamp, MetadataError> {
        within_limit(key, value)?;
        Ok(self.state().write(key, value))
    }

    async fn swap(&self, key: &str, expected: Option<Stamp>, value: &[u8]) -> Result<Stamp, MetadataError> {
        within_limit(key, value)?;
        let mut state = self.state();
        if state.stamp(key) != expected {
            return Err(MetadataError::Changed { key: key.to_owned() });
        }
        Ok(state.write(key, value))
    }

    async fn remove(&self, key: &str, expected: Stamp) -> Result<(), MetadataError> {
        let mut state = self.state();
        if state.stamp(key) != Some(expected) {
            return Err(MetadataError::Changed { key: key.to_owned() });
        }
        state.records.remove(key);
        Ok(())
    }

    async fn fill(&self, records: Vec<(String, Vec<u8>)>, existing: Existing) -> Result<(), MetadataError> {
        for (key, value) in &records {
            within_limit(key, value)?;
        }
        let mut state = self.state();
        if let (Existing::Refuse, Some(key)) = (existing, state.records.keys().next()) {
            return Err(MetadataError::Changed { key: key.clone() });
        }
        state.records.clear();
        for (key, value) in &records {
            state.write(key, value);
        }
        Ok(())
    }
}
