//! The runner of one source of one job: pass after pass, until nothing is old.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use keymoot_storage::{
    metadata::MetadataError,
    source::{RowId, Selection, Source},
};
use tokio::time::Instant;

use crate::{
    chunk::{Halt, Hand, Settled, count},
    gate::{Gate, Stop, backoff},
    held::Held,
    job::{JobId, SourceRecord},
    limits::BatchSize,
    quarantine::Quarantine,
    stretch::ROWS_ALONE,
};

/// Starts without a checkpoint after which a job waits for a person.
pub(crate) const ATTEMPTS_MAX: u32 = 10;
/// Passes after which writers that still store old values are named as what they are: a node or a client that
/// was never switched.
const ROUNDS_MAX: u32 = 50;
const BETWEEN_PASSES_LONGEST: Duration = Duration::from_secs(30);
const RETRY_ROWS: usize = 500;

/// How a runner ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Done or given up; its record says which.
    Finished,
    /// It goes on another time, or not.
    Stopped(Stop),
}

pub(crate) struct Runner {
    id: JobId,
    pub(crate) hand: Hand,
    pub(crate) held: Held,
    /// The next checkpoint.
    pub(crate) record: SourceRecord,
    pub(crate) quarantine: Quarantine,
    pub(crate) batch: BatchSize,
    /// How many rows a later pass looks at in one statement, for those that are old.
    pub(crate) window: BatchSize,
    /// Whether this start is among the record's attempts, or was before a checkpoint set them to none.
    pub(crate) counted: bool,
    started: bool,
    /// Rows left of [`ROWS_ALONE`].
    pub(crate) rows_alone: usize,
    /// Since when the record holds more than the stored one.
    pub(crate) unsaved_since: Option<Instant>,
}

impl Runner {
    pub(crate) fn new(id: JobId, source: Arc<dyn Source>, gate: Gate, dry_run: bool, held: Held) -> Self {
        let record = held.record().clone();
        let [batch, window] = [(); 2].map(|()| BatchSize::after_attempts(record.attempts));
        let hand = Hand { source, gate, dry_run, leaves_held: false, service: None };
        let rows_alone = if held.was_abandoned() { ROWS_ALONE } else { 0 };
        Self {
            id,
            hand,
            held,
            record,
            quarantine: Quarantine::default(),
            batch,
            window,
            counted: false,
            started: false,
            rows_alone,
            unsaved_since: None,
        }
    }

    pub(crate) async fn run(mut self) -> End {
        let mut waits = backoff();
        let mut reached = self.record.cursor.clone();
        loop {
            let halt = match self.work().await {
                Ok(()) => return End::Finished,
                Err(halt) => halt,
            };
            self.hand.service = None;
            match halt {
                Halt::Again(reason) => {
                    // What was not checkpointed is counted when it is done again.
                    self.record = self.held.record().clone();
                    self.unsaved_since = None;
                    if self.record.cursor != reached {
                        waits = backoff();
                        reached = self.record.cursor.clone();
                    }
                    if let Err(stop) = self.held.keep(self.hand.gate.hibernate(reason, &mut waits)).await {
                        return self.stopped(stop).await;
                    }
                }
                Halt::Fail(reason) => {
                    tracing::error!(job = %self.id, source = %self.record.name, %reason, "the source was given up");
                    self.record = self.held.record().clone();
                    self.record.failed = Some(reason);
                    return match self.checkpoint().await {
                        Ok(()) => End::Finished,
                        Err(stop) => self.stopped(stop).await,
                    };
                }
                Halt::Stop(stop) => return self.stopped(stop).await,
            }
        }
    }

    async fn stopped(self, stop: Stop) -> End {
        if stop == Stop::Fenced {
            tracing::warn!(job = %self.id, source = %self.record.name, "another node goes on with this source");
        }
        if stop == Stop::Shutdown {
            self.held.give_back(self.counted).await;
        }
        End::Stopped(stop)
    }

    async fn work(&mut self) -> Result<(), Halt> {
        loop {
            if let Some(source) = self.source_anew() {
                // What was found out about it was found of another, or through another connection.
                self.hand.source = source;
                self.started = false;
            }
            let service = self.held.keep(self.hand.gate.pass()).await?;
            self.held.make_sure().await?;
            if !self.prepare().await? {
                continue;
            }
            self.hand.gate.looked_at();
            let declared = self.hand.source.spec().digest();
            if !self.record.aims_at(service.aim(&self.record.name)) || self.record.is_of_another(declared) {
                self.record.aim_as(&service, declared);
                self.checkpoint().await?;
                continue;
            }
            let left = service.left_rows(self.hand.source.spec());
            self.hand.service = Some(service);
            if self.record.retried < self.hand.gate.retries() {
                let retry = self.hand.gate.retries();
                self.retry_quarantine().await?;
                self.record.retried = retry;
                if self.record.done && !self.hand.dry_run {
                    self.record.done = false;
                    self.record.next_pass(false);
                    self.record.rounds = 1;
                }
                self.checkpoint().await?;
                continue;
            }
            if self.record.done {
                return Ok(());
            }
            let select = match (self.record.full, left) {
                (true, _) => Selection::Every,
                (false, Some(left)) => left,
                (false, None) => {
                    self.end_pass().await?;
                    continue;
                }
            };
            self.hand.leaves_held = self.record.full;
            self.stretch(&select).await?;
        }
    }

    /// The source, if it was opened anew by a reload.
    pub(crate) fn source_anew(&self) -> Option<Arc<dyn Source>> {
        let source = self.hand.gate.inner().setup.sources.source(&self.record.name)?;
        (!Arc::ptr_eq(&source, &self.hand.source)).then_some(source)
    }

    /// What a start needs, once. `false`: look at the gate again.
    async fn prepare(&mut self) -> Result<bool, Halt> {
        if !self.started {
            // At every start: triggers may have come while the job was paused.
            self.refuse_blocked().await?;
            self.quarantine = self.load_quarantine().await?;
            self.started = true;
        }
        if self.record.total.is_none() {
            let source = self.hand.source.clone();
            let total = self.held.keep(self.hand.reach(|| source.total())).await?;
            self.record.total = Some(total.rows);
            self.record.total_exact = total.exact;
        }
        if self.record.attempts >= ATTEMPTS_MAX && !self.counted {
            let reason = format!(
                "{ATTEMPTS_MAX} starts in a row ended without a checkpoint on source {}, row by row at last: \
                 see the log of the node, then resume",
                self.record.name
            );
            self.hand
                .gate
                .inner()
                .pause_because(self.id, reason)
                .await
                .map_err(|error| Halt::Again(error.to_string()))?;
            self.record.attempts = 0;
            self.save().await?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Nothing is written to a source whose preflight names a reason not to.
    async fn refuse_blocked(&mut self) -> Result<(), Halt> {
        if self.hand.dry_run {
            return Ok(());
        }
        let source = self.hand.source.clone();
        let ahead = self.held.keep(self.hand.gate.pass()).await?.ahead(source.spec()).map_err(Halt::Fail)?;
        let preflight = match self.hand.gate.inner().looked.take(&source, ahead) {
            Some(found) => found,
            None => self.held.keep(self.hand.reach(|| source.preflight_for(ahead))).await?,
        };
        for warning in preflight.warnings.iter().chain(&preflight.side_effects) {
            tracing::warn!(job = %self.id, source = %self.record.name, %warning, "preflight");
        }
        if preflight.blockers.is_empty() { Ok(()) } else { Err(Halt::Fail(preflight.blockers.join("; "))) }
    }

    /// Counts what became of `rows` rows; `listed` are those of them that were in quarantine, and `again` rows stay as they
    /// are and were counted by an earlier pass.
    pub(crate) fn count(&mut self, rows: usize, listed: &[RowId], settled: &Settled, again: u64) {
        // A later pass comes again to rows in quarantine, which were counted when they were found.
        let pass = self.record.pass;
        let before = |id: &&RowId| !self.record.full && self.quarantine.found_in(id).is_some_and(|at| at != pass);
        let counted_before = listed.iter().filter(before).count();
        self.record.counters.add(&settled.counters);
        let seen = rows.saturating_sub(counted_before + settled.left.len());
        self.record.counters.scanned += count(seen).saturating_sub(again);
        self.record.found += settled.counters.rekeyed;
        self.record.left += count(settled.left.len());
        self.take_over(listed, settled);
    }

    fn take_over(&mut self, listed: &[RowId], settled: &Settled) {
        let bad: BTreeSet<&RowId> = settled.unreadable.iter().map(|row| &row.id).chain(&settled.left).collect();
        for id in listed.iter().filter(|id| !bad.contains(id)) {
            self.quarantine.remove(id);
        }
        if !settled.unreadable.is_empty() {
            let rows = settled.unreadable.len();
            tracing::warn!(job = %self.id, source = %self.record.name, rows, "rows can't be read and stay as they are");
        }
        for row in &settled.unreadable {
            let known = self.quarantine.found_in(&row.id).is_some();
            let listed = self.quarantine.add(row, self.record.pass);
            if listed && !known {
                self.record.found += 1;
            } else if !listed && self.record.full {
                self.record.unlisted += 1;
            }
        }
    }

    pub(crate) async fn end_pass(&mut self) -> Result<(), Halt> {
        if self.record.full {
            // Better than any estimate: every row was read.
            self.record.total = Some(self.record.counters.scanned + self.record.left);
            self.record.total_exact = true;
        }
        let clean = self.record.left == 0 && !self.record.full && self.record.found == 0;
        if clean || self.hand.dry_run {
            self.retry_quarantine().await?;
            self.record.done = true;
            self.checkpoint().await?;
            return Ok(());
        }
        if self.record.rounds >= ROUNDS_MAX {
            return Err(Halt::Fail(format!(
                "writers still store values of an old version after {ROUNDS_MAX} passes: find the client or node \
                 that was not switched, then start again"
            )));
        }
        let wait = if self.record.full { Duration::ZERO } else { Duration::from_secs(self.record.rounds.into()) };
        self.record.next_pass(false);
        self.checkpoint().await?;
        if !wait.is_zero() {
            self.hand.service = None;
            let sleep = self.hand.gate.sleep(wait.min(BETWEEN_PASSES_LONGEST));
            self.held.keep(async { Ok::<_, Stop>(sleep.await) }).await?;
        }
        Ok(())
    }

    /// Reads the rows in quarantine again: those that are gone or readable leave it.
    async fn retry_quarantine(&mut self) -> Result<(), Halt> {
        let all = self.quarantine.ids();
        let mut rest = all.as_slice();
        while !rest.is_empty() {
            // As before any other batch: no key is held in a wait.
            self.hand.service = None;
            self.held.keep(self.hand.gate.pass()).await?;
            self.held.make_sure().await?;
            let pace = self.hand.gate.limits();
            let (ids, later) = rest.split_at(pace.rows_in_a_batch(RETRY_ROWS).min(rest.len()));
            rest = later;
            self.hand.gate.live().pacer.rows(ids.len(), &pace);
            let began = Instant::now();
            let rows = self.held.keep(self.hand.rows_of(ids)).await?;
            let mut present = Vec::new();
            for (id, row) in ids.iter().zip(rows) {
                match row {
                    Some(row) => present.push(row),
                    None => {
                        self.record.counters.gone += 1;
                        self.quarantine.remove(id);
                    }
                }
            }
            let settled = self.held.keep(self.hand.settle(present)).await?;
            self.hand.gate.live().pacer.worked(began.elapsed(), &self.hand.gate.limits());
            self.record.counters.add(&settled.counters);
            self.take_over(ids, &settled);
            self.checkpoint().await?;
        }
        Ok(())
    }

    async fn load_quarantine(&mut self) -> Result<Quarantine, Halt> {
        let mut waits = backoff();
        loop {
            let metadata = self.hand.gate.inner().metadata();
            match Quarantine::load(metadata, self.id, &self.record.name).await {
                Ok(quarantine) => return Ok(quarantine),
                Err(error) => self.hand.gate.hibernate(error.to_string(), &mut waits).await?,
            }
        }
    }

    /// The quarantine first: a row is never counted before it is listed.
    pub(crate) async fn checkpoint(&mut self) -> Result<(), Stop> {
        let mut waits = backoff();
        while let Err(error) = self.quarantine.flush(self.hand.gate.inner().metadata()).await {
            if matches!(error, MetadataError::Changed { .. }) {
                return Err(Stop::Fenced);
            }
            self.hand.service = None;
            self.hand.gate.hibernate(error.to_string(), &mut waits).await?;
        }
        self.record.quarantined = self.quarantine.len() + self.record.unlisted;
        self.record.attempts = 0;
        self.save().await
    }

    /// Without its record nothing goes on: a metadata store that is away is waited for.
    pub(crate) async fn save(&mut self) -> Result<(), Stop> {
        let mut waits = backoff();
        loop {
            match self.held.save(self.record.clone()).await {
                Ok(()) => break,
                Err(MetadataError::Changed { .. }) => return Err(Stop::Fenced),
                Err(error) => {
                    self.hand.service = None;
                    self.hand.gate.hibernate(error.to_string(), &mut waits).await?;
                }
            }
        }
        self.unsaved_since = None;
        self.hand.gate.inner().tell();
        Ok(())
    }
}
