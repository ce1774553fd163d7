//! The checkpoint of one source in the hands of the runner that holds its lease.

use std::{future::Future, pin::pin, sync::Arc};

use keymoot_storage::metadata::MetadataError;
use keymoot_types::lifecycle::JobState;
use tokio::time::{Instant, sleep_until};

use crate::{
    checkpoint::Durable,
    gate::Stop,
    inner::Inner,
    job::SourceRecord,
    lease::{BEAT, LAPSES_AFTER, Lease},
    live::Live,
};

/// Renewals in the course of one piece of work: longer than any batch, count or pause between two batches. What hangs
/// for longer is left to another node.
const RENEWALS_MAX: u32 = 600;

/// A checkpoint that only its holder writes.
pub(crate) struct Held {
    inner: Arc<Inner>,
    live: Arc<Live>,
    stored: Durable<SourceRecord>,
    written_at: Instant,
    next_beat: Instant,
    abandoned: bool,
}

impl Held {
    /// Takes the lease: after this nobody who held it before writes another checkpoint.
    pub(crate) async fn take(
        inner: Arc<Inner>,
        live: Arc<Live>,
        mut stored: Durable<SourceRecord>,
    ) -> Result<Self, MetadataError> {
        let mut record = stored.value().clone();
        let abandoned = record.lease.is_held();
        record.lease = record.lease.taken_by(&inner.setup.holder);
        record.throttled = None;
        stored.save(inner.metadata(), record).await?;
        let now = Instant::now();
        Ok(Self { inner, live, stored, written_at: now, next_beat: now + BEAT, abandoned })
    }

    /// As it was last written.
    pub(crate) fn record(&self) -> &SourceRecord {
        self.stored.value()
    }

    /// Whether whoever held it before did not give it back.
    pub(crate) fn was_abandoned(&self) -> bool {
        self.abandoned
    }

    /// Writes the checkpoint and renews the lease by that. [`MetadataError::Changed`]: somebody else holds it now.
    pub(crate) async fn save(&mut self, mut record: SourceRecord) -> Result<(), MetadataError> {
        // It got on, so at most its server still holds it back.
        let name = &record.name;
        record.throttled = self.live.throttle(name).filter(|_| self.live.is_strained(name));
        self.write(record, true).await
    }

    async fn write(&mut self, mut record: SourceRecord, renews: bool) -> Result<(), MetadataError> {
        let lease = |stored: &Lease| if renews { stored.renewed() } else { stored.clone() };
        record.lease = lease(&self.record().lease);
        let mut saved = self.stored.save(self.inner.metadata(), record.clone()).await;
        if matches!(saved, Err(MetadataError::Changed { .. }))
            && let Some(found) = self.stored.reload(self.inner.metadata()).await?
            && found.value().lease.same_hold(&record.lease)
        {
            // Under our fence only we write: it was an own write whose answer was lost.
            record.lease = lease(&found.value().lease);
            self.stored = found;
            saved = self.stored.save(self.inner.metadata(), record.clone()).await;
        }
        saved?;
        if renews {
            self.written_at = Instant::now();
            self.next_beat = self.written_at + BEAT;
            self.live.checkpoint(&record);
        }
        Ok(())
    }

    /// Does this work and renews the lease meanwhile. Once it is lost the work is dropped, which a source survives as
    /// a whole call or none.
    pub(crate) async fn keep<T, E: From<Stop>>(
        &mut self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut work = pin!(work);
        let mut beats: u32 = 0;
        loop {
            tokio::select! {
                // First the lease: a holder that was stopped learns that it is lost before it does anything else.
                biased;
                () = sleep_until(self.next_beat) => {
                    beats = beats.saturating_add(1);
                    self.next_beat = Instant::now() + BEAT;
                    if beats <= RENEWALS_MAX && self.may_hold() {
                        self.renew().await?;
                    } else {
                        self.say_what_it_waits_for().await?;
                    }
                }
                done = &mut work => return done,
            }
        }
    }

    /// A holder that could not do anything, or that has to wait for something of its own, lets others have a try.
    fn may_hold(&self) -> bool {
        let (live, source) = (&self.live, &self.record().name);
        live.job().state == JobState::Running && (!live.is_throttled(source) || live.is_strained(source))
    }

    async fn renew(&mut self) -> Result<(), Stop> {
        let saved = self.save(self.record().clone()).await;
        self.unless_fenced(saved)
    }

    /// Where that has changed; the lease is not renewed by it.
    async fn say_what_it_waits_for(&mut self) -> Result<(), Stop> {
        let throttled = self.live.throttle(&self.record().name);
        if self.record().throttled == throttled {
            return Ok(());
        }
        let record = SourceRecord { throttled, ..self.record().clone() };
        let saved = self.write(record, false).await;
        self.unless_fenced(saved)
    }

    fn unless_fenced(&self, saved: Result<(), MetadataError>) -> Result<(), Stop> {
        match saved {
            Err(MetadataError::Changed { .. }) => Err(Stop::Fenced),
            Err(error) => {
                tracing::debug!(source = %self.record().name, %error, "the lease or the wait could not be written");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Where the lease may have lapsed, makes sure of it before another batch is begun.
    pub(crate) async fn make_sure(&mut self) -> Result<(), Stop> {
        let beats = u32::try_from(LAPSES_AFTER / 2).unwrap_or(1);
        if self.written_at.elapsed() >= BEAT * beats { self.renew().await } else { Ok(()) }
    }

    /// Lets the lease go in an orderly end, which is no failed attempt where the start was counted as one. One try:
    /// the store may be gone already.
    pub(crate) async fn give_back(mut self, counted: bool) {
        let mut record = self.record().clone();
        record.attempts = record.attempts.saturating_sub(counted.into());
        record.lease = record.lease.given_back();
        record.throttled = None;
        if let Err(error) = self.stored.save(self.inner.metadata(), record).await {
            tracing::debug!(%error, "the lease lapses by itself, and the start stays counted");
        }
    }
}
