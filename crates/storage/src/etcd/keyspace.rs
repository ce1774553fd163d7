//! Where the records lie: below a *generation*, which the key `head` names.
//!
//! Filling the store writes a new generation, bit by bit, and then changes `head`. So every transaction also compares
//! `head`, and nobody sees a part of what is filled, or writes to what was replaced.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{
    Fault, Trouble,
    gateway::Gateway,
    message::{RangeAnswer, has_value, put, read, unchanged_since},
};
use crate::metadata::Stamp;

/// The format that this build writes, and the oldest that a build must know to work with it.
const FORMAT: u32 = 1;

/// How often to look where the records are now, before giving up.
const ROUNDS: usize = 10;

/// What stands in `head`. A later build may add to it.
#[derive(Serialize, Deserialize)]
struct HeadText {
    format: u32,
    oldest_build: u32,
    generation: String,
}

/// `head` as it was read.
#[derive(Clone)]
pub(super) struct Head {
    pub(super) text: Vec<u8>,
    /// What the keys of all records begin with.
    pub(super) records: String,
}

pub(super) struct Keyspace {
    pub(super) gateway: Gateway,
    prefix: String,
    make: bool,
    newest: Mutex<Option<Head>>,
}

/// What a transaction came to.
pub(super) struct Done {
    pub(super) succeeded: bool,
    pub(super) found: RangeAnswer,
    pub(super) revision: i64,
    /// What the keys of all records began with.
    pub(super) records: String,
    /// An earlier attempt may have done the same already.
    pub(super) maybe_twice: bool,
}

impl Keyspace {
    /// `make`: where there is none, it is made by the first write.
    pub(super) fn new(gateway: Gateway, prefix: String, make: bool) -> Self {
        Self { gateway, prefix, make, newest: Mutex::default() }
    }

    pub(super) fn head_key(&self) -> String {
        format!("{}head", self.prefix)
    }

    /// A generation that never was.
    pub(super) fn new_generation(&self) -> Result<Head, Fault> {
        let drawn = Stamp::draw().map_err(|error| Fault::Unreachable(error.to_string()))?;
        let generation = format!("{:016x}", drawn.0);
        let text = serde_json::to_vec(&HeadText { format: FORMAT, oldest_build: FORMAT, generation });
        self.parse(text.map_err(|error| Fault::Damaged(error.to_string()))?)
    }

    fn parse(&self, text: Vec<u8>) -> Result<Head, Fault> {
        let head: HeadText = serde_json::from_slice(&text)
            .map_err(|_| Fault::Damaged(format!("{} is not as Keymoot writes it", self.head_key())))?;
        if head.oldest_build > FORMAT {
            return Err(Fault::Damaged(format!(
                "it has format {}, for builds that know {}, and this one knows {FORMAT}; use a newer build",
                head.format, head.oldest_build
            )));
        }
        Ok(Head { text, records: format!("{}records/{}/", self.prefix, head.generation) })
    }

    /// The head, `None` where there is none and none is made.
    pub(super) async fn head(&self, make: bool) -> Result<Option<Head>, Trouble> {
        for _ in 0..ROUNDS {
            if let Some(head) = self.newest() {
                return Ok(Some(head));
            }
            let key = self.head_key();
            let reply = self.gateway.transact(&[], &[read(&key)], &[]).await?;
            match reply.answer.range().kvs.pop() {
                Some(found) => return self.learn(Some(found.value)).map(Some),
                None if !self.make => {
                    let reason = format!("there is no metadata of Keymoot under {}", self.prefix);
                    return Err(Fault::Unreachable(reason).into());
                }
                None if !make => return Ok(None),
                None => {
                    let head = self.new_generation()?;
                    let absent = unchanged_since(&key, 0);
                    self.gateway.transact(&[absent], &[put(&key, &head.text)], &[]).await?;
                }
            }
        }
        Err(Fault::Unreachable("its head could not be made".into()).into())
    }

    /// Does what `build` says for the present place of the records; `None` where there is none and none is made.
    pub(super) async fn transact<F>(&self, make: bool, build: F) -> Result<Option<Done>, Trouble>
    where
        F: Fn(&str) -> (Vec<Json>, Vec<Json>),
    {
        let mut maybe_done = false;
        for _ in 0..ROUNDS {
            let Some(head) = self.head(make).await? else { return Ok(None) };
            let (mut compare, success) = build(&head.records);
            let key = self.head_key();
            compare.push(has_value(&key, &head.text));
            let reply = self.gateway.transact(&compare, &success, &[read(&key)]).await;
            let reply =
                reply.map_err(|trouble| Trouble { maybe_done: trouble.maybe_done || maybe_done, ..trouble })?;
            maybe_done |= reply.maybe_twice;
            let (succeeded, revision) = (reply.answer.succeeded, reply.answer.header.revision);
            let mut found = reply.answer.range();
            if !succeeded {
                let now = found.kvs.pop().map(|head| head.value);
                if now.as_deref() != Some(&head.text) {
                    self.learn(now)?;
                    continue;
                }
            }
            return Ok(Some(Done { succeeded, found, revision, records: head.records, maybe_twice: maybe_done }));
        }
        Err(Trouble { fault: Fault::Unreachable("it is filled anew again and again".into()), maybe_done })
    }

    /// Takes note of the head that was read.
    pub(super) fn learn(&self, text: Option<Vec<u8>>) -> Result<Head, Trouble> {
        // An empty store in its place would look like a keyring that never was.
        let text = text.ok_or_else(|| Fault::Damaged("it was emptied while it was in use".into()))?;
        let head = self.parse(text)?;
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(head.clone());
        Ok(head)
    }

    fn newest(&self) -> Option<Head> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
