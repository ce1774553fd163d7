//! What is kept of a job: its states, its record, and one record a source with the checkpoint in it.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use keymoot_storage::source::RowId;
use keymoot_types::{Digest, KeyVersion, NodeName, SourceName, lifecycle::JobState};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    keys::{Aim, Service},
    lease::Lease,
    limits::Limits,
};

/// Names a job. Ids of later jobs are greater (UUID version 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(Uuid);

impl JobId {
    pub(crate) fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for JobId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A pause that ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TimedPause {
    /// By the clock of the node that was asked: to be shown.
    pub(crate) until: Timestamp,
    /// How long it lasts, for nodes whose clocks differ.
    pub(crate) length_ms: u64,
}

/// A job as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct JobRecord {
    pub(crate) id: JobId,
    pub(crate) state: JobState,
    pub(crate) dry_run: bool,
    pub(crate) started_at: Timestamp,
    pub(crate) ended_at: Option<Timestamp>,
    /// Why it is paused or failed.
    pub(crate) reason: Option<String>,
    pub(crate) pause: Option<TimedPause>,
    pub(crate) limits: Limits,
    /// How often a person asked to look at the quarantine again.
    pub(crate) retries: u32,
    pub(crate) sources: Vec<SourceName>,
}

/// Rows by what became of them. Each row of a full pass is in `scanned` and in one of the others, or in quarantine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counters {
    pub(crate) scanned: u64,
    pub(crate) rekeyed: u64,
    /// Of these, plaintext that was encrypted for the first time.
    #[serde(default)]
    pub(crate) adopted: u64,
    pub(crate) current: u64,
    pub(crate) null: u64,
    pub(crate) empty: u64,
    pub(crate) foreign: u64,
    /// Deleted by the application between reading and writing.
    pub(crate) gone: u64,
    /// Writes that the application won. Not rows: one row may lose more than once.
    pub(crate) conflicts: u64,
}

impl Counters {
    pub(crate) fn add(&mut self, more: &Self) {
        self.scanned += more.scanned;
        self.rekeyed += more.rekeyed;
        self.adopted += more.adopted;
        self.current += more.current;
        self.null += more.null;
        self.empty += more.empty;
        self.foreign += more.foreign;
        self.gone += more.gone;
        self.conflicts += more.conflicts;
    }

    /// Leaves out the rows that stay as they are, and says how many: a later pass over every row comes again to those
    /// that the first one counted.
    pub(crate) fn without_unchanged(&mut self) -> u64 {
        let unchanged = [&mut self.current, &mut self.null, &mut self.empty, &mut self.foreign];
        unchanged.into_iter().map(std::mem::take).sum()
    }
}

/// What holds a source back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttle {
    /// Why, with the number.
    pub reason: String,
    /// The node that waits.
    pub node: NodeName,
    /// Since when it waits, for this reason or another.
    pub since: Timestamp,
}

/// One source of a job: the checkpoint. Cursor and counters are one record, so that a chunk that is done twice
/// is counted once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceRecord {
    pub(crate) name: SourceName,
    pub(crate) total: Option<u64>,
    pub(crate) total_exact: bool,
    pub(crate) counters: Counters,
    pub(crate) quarantined: u64,
    /// Rows of a full pass that were over the length of the quarantine's list.
    pub(crate) unlisted: u64,
    /// Grows with every pass, never reset: quarantine entries remember it.
    pub(crate) pass: u32,
    /// Whether this pass reads every row, or only those that begin like an old value.
    pub(crate) full: bool,
    /// Passes since the last full one.
    pub(crate) rounds: u32,
    pub(crate) cursor: Option<RowId>,
    /// The version that this and the earlier passes write.
    pub(crate) target: Option<KeyVersion>,
    /// Whether they write plaintext: the source was released.
    #[serde(default)]
    pub(crate) plaintext: bool,
    /// The manifest's revision that named it: no node that follows an older one aims elsewhere.
    #[serde(default)]
    pub(crate) revision: u64,
    /// How the source was declared to which all this applies, see [`SourceSpec::digest`].
    ///
    /// [`SourceSpec::digest`]: keymoot_storage::source::SourceSpec::digest
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) declared: Option<Digest>,
    /// Old rows that this pass found.
    pub(crate) found: u64,
    /// Rows that this pass left to the next one, because writers won every time.
    pub(crate) left: u64,
    /// Starts since the last checkpoint.
    pub(crate) attempts: u32,
    /// The retry that was last done, of [`JobRecord::retries`].
    pub(crate) retried: u32,
    pub(crate) done: bool,
    pub(crate) failed: Option<String>,
    /// What its holder waits for, for the other nodes to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) throttled: Option<Throttle>,
    /// Who may write this record.
    #[serde(default)]
    pub(crate) lease: Lease,
}

impl SourceRecord {
    pub(crate) fn new(name: SourceName) -> Self {
        Self {
            name,
            total: None,
            total_exact: false,
            counters: Counters::default(),
            quarantined: 0,
            unlisted: 0,
            pass: 1,
            full: true,
            rounds: 0,
            cursor: None,
            target: None,
            plaintext: false,
            revision: 0,
            declared: None,
            found: 0,
            left: 0,
            attempts: 0,
            retried: 0,
            done: false,
            failed: None,
            throttled: None,
            lease: Lease::default(),
        }
    }

    /// Whether its passes write what is to be written now.
    pub(crate) fn aims_at(&self, aim: Aim) -> bool {
        self.target == Some(aim.primary) && self.plaintext == aim.releases
    }

    /// Whether it speaks of another table or column, which had the name before.
    pub(crate) fn is_of_another(&self, declared: Digest) -> bool {
        self.declared.is_some_and(|before| before != declared)
    }

    /// Whether nothing is left to do for the keys in service, after so many retries. `declared`: how the source is now;
    /// `None`: not at all.
    pub(crate) fn is_done(&self, retries: u32, service: &Service, declared: Option<Digest>) -> bool {
        let of_another = declared.is_some_and(|declared| self.is_of_another(declared));
        self.done && self.retried >= retries && self.aims_at(service.aim(&self.name)) && !of_another
    }

    /// From the first row again, all of them, for another primary, for plaintext or of another table. The counters then
    /// speak about that.
    pub(crate) fn aim_as(&mut self, service: &Service, declared: Digest) {
        if self.is_of_another(declared) {
            self.total = None;
        }
        self.declared = Some(declared);
        if self.target.is_some() {
            self.counters = Counters::default();
            self.unlisted = 0;
            self.next_pass(true);
            self.rounds = 0;
            self.done = false;
        }
        self.target = Some(service.primary);
        self.plaintext = service.releases(&self.name);
        self.revision = service.revision;
    }

    /// From the first row again.
    pub(crate) fn next_pass(&mut self, full: bool) {
        self.pass = self.pass.saturating_add(1);
        self.full = full;
        self.rounds = self.rounds.saturating_add(1);
        self.cursor = None;
        self.found = 0;
        self.left = 0;
    }
}
