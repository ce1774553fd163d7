use tokio::time::sleep;

use super::{
    EtcdMetadata, Fault,
    keyspace::Head,
    message::{delete_from, has_value, none_from, put, read, read_from},
    metadata::stored,
};
use crate::{
    away, behind_prefix,
    metadata::{Existing, MetadataError, Stamp},
};

/// What one transaction of etcd holds by default: 128 steps, and 1.5 MiB.
const CHUNK_RECORDS: usize = 100;
const CHUNK_BYTES: usize = 1024 * 1024;

/// How often to ask whether the new records are in use.
const TRIES: usize = 5;

impl EtcdMetadata {
    /// Writes the records where nobody looks, and then, in one step, lets everybody look there.
    pub(super) async fn fill_generation(
        &self,
        records: Vec<(String, Vec<u8>)>,
        existing: Existing,
    ) -> Result<(), MetadataError> {
        let unavailable = || MetadataError::Unavailable("it could not be made".into());
        let old = self.keyspace.head(true).await?.ok_or_else(unavailable)?;
        let new = self.keyspace.new_generation()?;
        let filled = match self.write_records(&new, records).await {
            Ok(()) => self.switch(&old, &new, existing).await,
            Err(error) => Err(error),
        };
        // Where that fails too, what is left takes room and is never read.
        match &filled {
            Ok(()) => drop(self.delete_all(&old).await),
            // It may be in use.
            Err(MetadataError::Unavailable(_)) => {}
            Err(_) => drop(self.delete_all(&new).await),
        }
        filled
    }

    async fn write_records(&self, new: &Head, records: Vec<(String, Vec<u8>)>) -> Result<(), MetadataError> {
        let mut records = records.into_iter().peekable();
        while records.peek().is_some() {
            let (mut steps, mut bytes) = (Vec::new(), 0);
            while let Some((key, value)) = records.next_if(|(key, value)| {
                steps.is_empty() || steps.len() < CHUNK_RECORDS && bytes + key.len() + value.len() <= CHUNK_BYTES
            }) {
                bytes += key.len() + value.len();
                steps.push(put(&format!("{}{key}", new.records), &stored(Stamp::draw()?, &value)));
            }
            self.keyspace.gateway.transact(&[], &steps, &[]).await?;
        }
        Ok(())
    }

    async fn switch(&self, old: &Head, new: &Head, existing: Existing) -> Result<(), MetadataError> {
        let head = self.keyspace.head_key();
        let end = behind_prefix(old.records.as_bytes()).unwrap_or_default();
        let mut compare = vec![has_value(&head, &old.text)];
        if existing == Existing::Refuse {
            compare.push(none_from(&old.records, &end));
        }
        let mut fault = Fault::Unreachable("it was not switched".into());
        for wait in away::waits().take(TRIES) {
            let failure = [read(&head), read_from(old.records.as_bytes(), &end, 1, 0)];
            match self.keyspace.gateway.transact(&compare, &[put(&head, &new.text)], &failure).await {
                Ok(reply) if reply.answer.succeeded => {
                    self.keyspace.learn(Some(new.text.clone()))?;
                    return Ok(());
                }
                Ok(reply) => {
                    let mut found = reply.answer.firsts();
                    let (now, first) = (found.next().flatten(), found.next().flatten());
                    // An answer before this one was lost.
                    if now.is_some_and(|now| now.value == new.text) {
                        self.keyspace.learn(Some(new.text.clone()))?;
                        return Ok(());
                    }
                    let key = first.and_then(|first| String::from_utf8(first.key).ok()).unwrap_or_default();
                    let key = key.strip_prefix(&old.records).unwrap_or_default().to_owned();
                    return Err(MetadataError::Changed { key });
                }
                Err(trouble) if trouble.maybe_done => fault = trouble.fault,
                Err(trouble) => return Err(trouble.into()),
            }
            sleep(wait).await;
        }
        Err(fault.into())
    }

    async fn delete_all(&self, head: &Head) -> Result<(), MetadataError> {
        let end = behind_prefix(head.records.as_bytes()).unwrap_or_default();
        self.keyspace.gateway.transact(&[], &[delete_from(&head.records, &end)], &[]).await?;
        Ok(())
    }
}
