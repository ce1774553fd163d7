//! One chunk of rows: judge → write only if still as read → read the lost ones again.

use std::{future::Future, sync::Arc, time::Duration};

use keymoot_storage::source::{Row, RowId, Source, SourceError, Swap, Swapped};
use keymoot_types::value::begins_as_value;
use tokio::time::Instant;

use crate::{
    gate::{Gate, Stop, backoff},
    job::Counters,
    judge::{Judge, Unjudged, Unreadable},
    keys::{Aim, Service},
};

/// How often a row is tried that writers keep changing; then it is left to the next pass.
const TRIES_MAX: u32 = 5;
/// How often one row alone is tried that somebody holds, such as a prepared transaction, before the rows behind it go first.
const HELD_TRIES_MAX: u32 = 3;
/// So many rows one behind the other are left for that. More tell that nothing can be written at all, which is waited for.
const LEFT_IN_A_ROW_MAX: u32 = 20;

/// Why a chunk did not come to its end. Nothing is lost by that: it is read again, at once or after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Halt {
    /// The runner ends.
    Stop(Stop),
    /// The source is given up.
    Fail(String),
    /// Once more from the checkpoint, after a wait.
    Again(String),
}

impl From<Stop> for Halt {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl From<Unjudged> for Halt {
    fn from(unjudged: Unjudged) -> Self {
        match unjudged {
            Unjudged::Later(reason) => Self::Again(reason),
            Unjudged::Mistaken(reason) => Self::Fail(reason),
        }
    }
}

/// What became of the rows of a chunk.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) counters: Counters,
    pub(crate) unreadable: Vec<Unreadable>,
    /// Rows that writers won every time, or held.
    pub(crate) left: Vec<RowId>,
    /// Time of the last transaction.
    pub(crate) wrote: Option<Duration>,
}

/// The hand that touches a source.
#[derive(Clone)]
pub(crate) struct Hand {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) gate: Gate,
    pub(crate) dry_run: bool,
    /// Whether a row that somebody holds is left to the next pass. In later ones it is waited for.
    pub(crate) leaves_held: bool,
    /// The keys for this chunk. Dropped before every wait, so that a sealed node holds no key.
    pub(crate) service: Option<Service>,
}

impl Hand {
    /// Asks the source until it answers. An unreachable source is waited for, without an end.
    pub(crate) async fn reach<T, F, Answer>(&mut self, ask: F) -> Result<T, Halt>
    where
        F: Fn() -> Answer,
        Answer: Future<Output = Result<T, SourceError>> + Send,
    {
        let mut waits = backoff();
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error @ SourceError::Unreachable { .. }) => {
                    self.hibernate(error.to_string(), &mut waits).await?
                }
                Err(SourceError::Mistaken { reason, .. }) => return Err(Halt::Fail(reason)),
            }
        }
    }

    async fn hibernate(
        &mut self,
        reason: String,
        waits: &mut (impl Iterator<Item = Duration> + Send),
    ) -> Result<(), Halt> {
        self.service = None;
        self.gate.hibernate(reason, waits).await?;
        self.gate.pass().await.map(drop)?;
        Ok(())
    }

    pub(crate) async fn settle(&mut self, rows: Vec<Row>) -> Result<Settled, Halt> {
        let mut settled = Settled::default();
        let service = self.look()?;
        let aim = service.aim(&self.source.spec().name);
        self.service = Some(service);
        let swaps = self.judge(rows, &mut settled).await?;
        self.carry_out(aim, swaps, settled).await
    }

    /// Writes what was judged, and what of it was lost is read and judged again.
    pub(crate) async fn carry_out(
        &mut self,
        aim: Aim,
        mut swaps: Vec<Swap>,
        mut settled: Settled,
    ) -> Result<Settled, Halt> {
        if self.dry_run {
            swaps.iter().for_each(|swap| settled.rekeyed(swap));
            return Ok(settled);
        }
        for _ in 0..TRIES_MAX {
            if swaps.is_empty() {
                return Ok(settled);
            }
            let lost = self.write(aim, swaps, &mut settled).await?;
            settled.counters.conflicts += count(lost.len());
            swaps = self.look_again(lost, &mut settled).await?;
        }
        settled.left.extend(swaps.into_iter().map(|swap| swap.id));
        Ok(settled)
    }

    /// Counts what needs no write; the rest is to be written.
    pub(crate) async fn judge(&mut self, rows: Vec<Row>, settled: &mut Settled) -> Result<Vec<Swap>, Halt> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let service = match &self.service {
            Some(service) => service.clone(),
            // No wait here: a chunk that was begun comes to its end.
            None => self.look()?,
        };
        let judge = Judge::new(self.source.clone(), service, self.dry_run)?;
        // Thousands of rows at a time: not on a thread that answers requests.
        let judged = tokio::task::spawn_blocking(move || judge.rows(rows))
            .await
            .map_err(|error| Halt::Fail(format!("a defect: {error}")))??;
        settled.counters.add(&judged.counters);
        settled.unreadable.extend(judged.unreadable);
        Ok(judged.swaps)
    }

    fn look(&self) -> Result<Service, Halt> {
        Service::look(self.gate.inner().setup.keys.as_ref()).map_err(|reason| Halt::Again(reason.into()))
    }

    /// A node that was sealed, or has another aim by now, and a job that was cancelled write no more.
    fn may_write(&self, aim: Aim) -> Result<(), Halt> {
        if self.gate.live().has_ended() {
            return Err(Halt::Stop(Stop::Cancelled));
        }
        if self.look()?.aim(&self.source.spec().name) == aim {
            Ok(())
        } else {
            Err(Halt::Again("what its values are to become has changed".into()))
        }
    }

    /// Writes, and returns those that were not written because the row had changed. A batch that fails is tried again
    /// in halves, which grow again: the fewer rows a transaction has, the fewer writers it meets.
    async fn write(&mut self, aim: Aim, mut swaps: Vec<Swap>, settled: &mut Settled) -> Result<Vec<Swap>, Halt> {
        let mut waits = backoff();
        let mut lost = Vec::new();
        let (mut rows, mut held, mut left) = (swaps.len(), 0, 0);
        while !swaps.is_empty() {
            self.may_write(aim)?;
            let began = Instant::now();
            let later = swaps.split_off(rows.min(swaps.len()));
            match self.source.swap(&swaps).await {
                Ok(answers) if answers.len() == swaps.len() => {
                    settled.wrote = Some(began.elapsed());
                    for (swap, answer) in swaps.into_iter().zip(answers) {
                        match answer {
                            Swapped::Done => settled.rekeyed(&swap),
                            Swapped::Lost => lost.push(swap),
                        }
                    }
                    waits = backoff();
                    (rows, held, left) = (rows.saturating_mul(2), 0, 0);
                    swaps = later;
                }
                Ok(_) => {
                    return Err(Halt::Fail("a defect: the source answered for another number of rows".into()));
                }
                Err(SourceError::Mistaken { reason, .. }) => return Err(Halt::Fail(reason)),
                Err(error) => {
                    let alone = swaps.len() == 1;
                    rows = (swaps.len() / 2).max(1);
                    self.hibernate(error.to_string(), &mut waits).await?;
                    swaps = self.written_after_all(swaps, &mut lost, settled).await?;
                    // The source answers, and this row alone can't be written.
                    held = if alone && !swaps.is_empty() { held + 1 } else { 0 };
                    if self.leaves_held && held >= HELD_TRIES_MAX && left < LEFT_IN_A_ROW_MAX {
                        settled.left.extend(swaps.drain(..).map(|swap| swap.id));
                        left += 1;
                        (held, waits) = (0, backoff());
                    }
                    swaps.extend(later);
                }
            }
        }
        Ok(lost)
    }

    /// After an error nobody knows whether the batch was written: the rows themselves tell. Returns those that
    /// are still as they were.
    async fn written_after_all(
        &mut self,
        swaps: Vec<Swap>,
        lost: &mut Vec<Swap>,
        settled: &mut Settled,
    ) -> Result<Vec<Swap>, Halt> {
        let rows = self.read_again(&swaps).await?;
        let mut untouched = Vec::new();
        for (swap, row) in swaps.into_iter().zip(rows) {
            match row {
                Some(row) if row.cell == swap.new => settled.rekeyed(&swap),
                Some(row) if row.cell == swap.old && row.columns == swap.columns => untouched.push(swap),
                _ => lost.push(swap),
            }
        }
        Ok(untouched)
    }

    async fn look_again(&mut self, lost: Vec<Swap>, settled: &mut Settled) -> Result<Vec<Swap>, Halt> {
        if lost.is_empty() {
            return Ok(lost);
        }
        let rows = self.read_again(&lost).await?;
        let mut present = Vec::new();
        for row in rows {
            match row {
                Some(row) => present.push(row),
                None => settled.counters.gone += 1,
            }
        }
        self.judge(present, settled).await
    }

    async fn read_again(&mut self, swaps: &[Swap]) -> Result<Vec<Option<Row>>, Halt> {
        let ids: Vec<RowId> = swaps.iter().map(|swap| swap.id.clone()).collect();
        self.rows_of(&ids).await
    }

    /// The rows with these ids as they are now, one answer an id.
    pub(crate) async fn rows_of(&mut self, ids: &[RowId]) -> Result<Vec<Option<Row>>, Halt> {
        let source = self.source.clone();
        let rows = self.reach(|| source.read_again(ids)).await?;
        if rows.len() == ids.len() {
            Ok(rows)
        } else {
            Err(Halt::Fail("a defect: the source answered for another number of rows".into()))
        }
    }
}

impl Settled {
    fn rekeyed(&mut self, swap: &Swap) {
        self.counters.rekeyed += 1;
        self.counters.adopted += u64::from(!swap.old.bytes().is_some_and(begins_as_value));
    }
}

/// A length as a counter has it.
pub(crate) fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
