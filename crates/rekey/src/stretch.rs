//! A stretch of a pass: chunk after chunk, several in flight, until the rows end or something else is to be done.
//!
//! Reading and judging overlap with the writing of the chunks before. They are counted in the order in which they were read, so that
//! cursor and counters always speak of the same rows; a kill costs reading those again that were not counted yet.

use std::{future::pending, time::Duration};

use keymoot_storage::source::{Most, RowId, Selection};
use tokio::time::{Instant, sleep_until};

use crate::{
    ahead::{Ahead, Made, Ready},
    chunk::{Halt, Settled},
    flight::Flight,
    gate::Stop,
    limits::ROWS_MAX,
    runner::{ATTEMPTS_MAX, Runner},
};

/// How long a settled chunk may wait for its checkpoint. A durable write for every batch would cost more than a small
/// batch does; what is lost with it is read again, found done and counted then.
const CHECKPOINT_WITHIN: Duration = Duration::from_millis(200);
/// So many rows go chunk by chunk, each with its checkpoint, behind an end that nobody ordered: where a row kills the
/// process, the next start comes close to it and the one after meets it alone.
pub(crate) const ROWS_ALONE: usize = 2 * ROWS_MAX;

/// A chunk that came to its end.
struct Chunk {
    settled: Settled,
    /// Those of its rows that were in quarantine when it was read.
    listed: Vec<RowId>,
    rows: usize,
    bytes: usize,
    looked_at: Option<usize>,
    last: RowId,
    read_took: Duration,
    took: Duration,
}

enum Event {
    Made(Made),
    Settled(Box<Chunk>),
    CheckpointDue,
}

/// How a stretch ends. Nothing is in flight then.
enum Ended {
    /// There are no more rows.
    Rows,
    /// The keys are others, or a person asked for something.
    Changed,
}

impl Runner {
    pub(crate) async fn stretch(&mut self, select: &Selection) -> Result<(), Halt> {
        self.count_start(select).await?;
        // The chunks have their own: what waits here holds no key.
        self.hand.service = None;
        let ended = self.fly(select).await;
        if self.unsaved_since.is_some() && !matches!(ended, Err(Halt::Stop(Stop::Fenced))) {
            self.checkpoint().await?;
        }
        match ended? {
            Ended::Rows => self.end_pass().await,
            Ended::Changed => Ok(()),
        }
    }

    /// A source that does not answer is no failed attempt: one row first.
    async fn count_start(&mut self, select: &Selection) -> Result<(), Halt> {
        if !self.counted && self.record.attempts < ATTEMPTS_MAX {
            let (source, after) = (self.hand.source.clone(), self.record.cursor.clone());
            let one = Most { rows: 1, looked_at: 1 };
            self.held.keep(self.hand.reach(|| source.chunk(after.as_ref(), one, select))).await?;
            self.record.attempts += 1;
            self.save().await?;
            self.counted = true;
        }
        Ok(())
    }

    async fn fly(&mut self, select: &Selection) -> Result<Ended, Halt> {
        let mut flight = Flight::new();
        let mut ahead = Ahead::new();
        let mut after = self.record.cursor.clone();
        let mut end = None;
        let again = !self.record.full && *select == Selection::Every;
        loop {
            if flight.len() < self.chunks_at_a_time()
                && let Some(ready) = ahead.take()
            {
                let inner = self.hand.gate.inner();
                if self.record.aims_at(ready.aim) && self.goes_on() && inner.forbidden().await.is_none() {
                    self.held.make_sure().await?;
                    self.begin_chunk(ready, &mut flight);
                } else {
                    // It is read again, and so is what is behind it.
                    ahead = Ahead::new();
                    end = Some(Ok(Ended::Changed));
                }
            }
            ahead.judge(&self.hand, self.quarantine.len() > 0);
            let alone = self.rows_alone > 0 && !(flight.len() == 0 && ahead.is_empty());
            if end.is_none() && ahead.may_read() && !alone {
                let rows = (self.batch.rows(), self.window.rows());
                ahead.begin_read(self.hand.clone(), after.clone(), select.clone(), rows);
            }
            if flight.len() == 0
                && ahead.is_empty()
                && let Some(end) = end
            {
                return end;
            }
            match self.event(&mut flight, &mut ahead).await? {
                Event::Settled(chunk) => self.take_chunk(*chunk, again).await?,
                Event::CheckpointDue => self.checkpoint().await?,
                Event::Made(Made::Judged(Ok(()))) => {}
                // What is before it comes to its end first, and counts.
                Event::Made(Made::Read(Err(halt))) => end = Some(Err(halt)),
                Event::Made(Made::Judged(Err(halt))) => {
                    ahead = Ahead::new();
                    end = Some(Err(halt));
                }
                Event::Made(Made::Read(Ok(None))) if self.goes_on() => end = Some(Ok(Ended::Rows)),
                Event::Made(Made::Read(Ok(None))) => end = Some(Ok(Ended::Changed)),
                Event::Made(Made::Read(Ok(last))) => after = last,
            }
        }
    }

    /// What comes next, with the lease renewed meanwhile.
    async fn event(&mut self, flight: &mut Flight<Chunk>, ahead: &mut Ahead) -> Result<Event, Halt> {
        let due = self.unsaved_since.map(|since| since + CHECKPOINT_WITHIN);
        let next = async {
            tokio::select! {
                biased;
                settled = flight.first() => settled.map(Box::new).map(Event::Settled),
                made = ahead.next() => Ok(Event::Made(made)),
                () = reached(due) => Ok(Event::CheckpointDue),
            }
        };
        self.held.keep(next).await
    }

    fn chunks_at_a_time(&self) -> usize {
        if self.rows_alone > 0 { 1 } else { self.hand.gate.live().chunks_at_a_time() }
    }

    /// Whether another stretch would go on in the same way, and at once.
    fn goes_on(&self) -> bool {
        let now = self.hand.gate.is_open().map(|service| service.aim(&self.record.name));
        now.is_some_and(|aim| self.record.aims_at(aim))
            && self.record.retried >= self.hand.gate.retries()
            && self.source_anew().is_none()
    }

    fn begin_chunk(&self, ready: Ready, flight: &mut Flight<Chunk>) {
        let Ready { aim, swaps, settled, ids, rows, bytes, looked_at, last, read_took, took, .. } = ready;
        let mut hand = self.hand.clone();
        let listed = self.quarantine.of(ids.iter());
        flight.begin(async move {
            let began = Instant::now();
            let settled = hand.carry_out(aim, swaps, settled).await?;
            let took = took + began.elapsed();
            Ok(Chunk { settled, listed, rows, bytes, looked_at, last, read_took, took })
        });
    }

    /// The size of the next chunks follows the time that this one took: where rows are looked for, that of looking and
    /// that of writing each by itself.
    fn learn(&mut self, chunk: &Chunk) {
        let took = match chunk.looked_at {
            None => Some(chunk.settled.wrote.unwrap_or(chunk.took)),
            Some(looked_at) => {
                if looked_at == chunk.rows {
                    // All of a window is looked at, however few of its rows there is room for.
                    self.window.at_most(4 * self.batch.rows());
                } else {
                    self.window.took(looked_at, 0, chunk.read_took);
                }
                chunk.settled.wrote
            }
        };
        if let Some(took) = took {
            self.batch.took(chunk.rows, chunk.bytes, took);
        }
    }

    /// Counts the chunk that every one before it was counted before. `again`: the pass comes to rows that the first one
    /// counted.
    async fn take_chunk(&mut self, mut chunk: Chunk, again: bool) -> Result<(), Stop> {
        self.learn(&chunk);
        self.hand.gate.live().pacer.worked(chunk.took, &self.hand.gate.limits());
        let unchanged = if again { chunk.settled.counters.without_unchanged() } else { 0 };
        self.count(chunk.rows, &chunk.listed, &chunk.settled, unchanged);
        self.record.cursor = Some(chunk.last);
        let since = *self.unsaved_since.get_or_insert_with(Instant::now);
        // The first one of a start tells that the start was none of those that fail.
        let at_once = self.rows_alone > 0 || self.record.attempts > 0;
        self.rows_alone = self.rows_alone.saturating_sub(chunk.looked_at.unwrap_or(chunk.rows));
        if at_once || since.elapsed() >= CHECKPOINT_WITHIN { self.checkpoint().await } else { Ok(()) }
    }
}

async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}
