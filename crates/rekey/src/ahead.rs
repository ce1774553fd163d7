//! What is made ready while the chunks before it are written: one chunk is read while others are judged.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use keymoot_storage::source::{self, Most, Row, RowId, Selection, Swap};
use tokio::time::Instant;

use crate::{
    chunk::{Halt, Hand, Settled},
    flight::Flight,
    keys::Aim,
};

/// How many chunks are judged at once or wait for their turn to be written. To judge takes longer than to write where
/// the database is in a file.
const JUDGED_MAX: usize = 2;

/// A chunk that was read.
struct Read {
    rows: Vec<Row>,
    /// How many rows were looked at for those that were answered, at least. `None`: just these.
    looked_at: Option<usize>,
    last: RowId,
    took: Duration,
}

/// A chunk that was judged. It holds no key, as it may have to wait for those before it.
pub(crate) struct Ready {
    /// With the keys of that moment.
    pub(crate) aim: Aim,
    pub(crate) swaps: Vec<Swap>,
    pub(crate) settled: Settled,
    /// Its rows, where some may be in quarantine.
    pub(crate) ids: Vec<RowId>,
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
    /// See [`Read`].
    pub(crate) looked_at: Option<usize>,
    pub(crate) last: RowId,
    pub(crate) read_took: Duration,
    pub(crate) took: Duration,
}

/// The chunks that come next, in order. Dropping it stops all of it.
pub(crate) struct Ahead {
    reading: Flight<Option<Read>>,
    read: Option<Read>,
    judging: Flight<Ready>,
    /// The first of them.
    ready: Option<Ready>,
}

/// What was made.
pub(crate) enum Made {
    /// A chunk, up to this row; `None`: there was no row any more.
    Read(Result<Option<RowId>, Halt>),
    /// One of them is ready, or never will be.
    Judged(Result<(), Halt>),
}

impl Ahead {
    pub(crate) fn new() -> Self {
        Self { reading: Flight::new(), read: None, judging: Flight::new(), ready: None }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.may_read() && self.judging.len() == 0 && self.ready.is_none()
    }

    pub(crate) fn may_read(&self) -> bool {
        self.reading.len() == 0 && self.read.is_none()
    }

    /// Reads the next chunk, of at most so many rows, or so many of `window` that are selected.
    pub(crate) fn begin_read(
        &mut self,
        mut hand: Hand,
        after: Option<RowId>,
        select: Selection,
        (rows, window): (usize, usize),
    ) {
        self.reading.begin(async move {
            hand.gate.pass().await.map(drop)?;
            let (pace, tries) = (hand.gate.limits(), AtomicU32::new(0));
            let every = select == Selection::Every;
            let (source, after) = (hand.source.clone(), after.as_ref());
            let read = || {
                // What took too long for the server is asked for in halves.
                let halved = |rows: usize, tries| rows.checked_shr(tries).unwrap_or(0).max(1);
                let tries = tries.fetch_add(1, Ordering::Relaxed);
                let rows = halved(pace.rows_in_a_batch(rows), tries);
                let looked_at = if every { rows } else { halved(pace.rows_in_a_batch(window), tries) };
                let (chunk, began) = (source.chunk(after, Most { rows, looked_at }, &select), Instant::now());
                async move { chunk.await.map(|chunk| (chunk, looked_at, began.elapsed())) }
            };
            let (chunk, looked_at, took) = hand.reach(read).await?;
            let source::Chunk { rows, last: Some(last) } = chunk else { return Ok(None) };
            // A chunk that ends with a row that was answered may have gone no further.
            let is_cut = rows.last().is_some_and(|row| row.id == last);
            let looked_at = (!every).then_some(if is_cut { rows.len() } else { looked_at });
            hand.gate.live().pacer.rows(looked_at.unwrap_or(rows.len()), &hand.gate.limits());
            Ok(Some(Read { rows, looked_at, last, took }))
        });
    }

    /// Judges what was read, once few enough stand before it. `listed`: some of the rows may be in quarantine.
    pub(crate) fn judge(&mut self, hand: &Hand, listed: bool) {
        if self.judging.len() + usize::from(self.ready.is_some()) >= JUDGED_MAX {
            return;
        }
        let Some(Read { rows, looked_at, last, took: read_took }) = self.read.take() else { return };
        let mut hand = hand.clone();
        self.judging.begin(async move {
            // The wait that is due was before the reading.
            let service = match hand.gate.is_open() {
                Some(service) => service,
                None => hand.gate.pass().await?,
            };
            let aim = service.aim(&hand.source.spec().name);
            hand.service = Some(service);
            let ids = if listed { rows.iter().map(|row| row.id.clone()).collect() } else { Vec::new() };
            let bytes = rows.iter().filter_map(|row| row.cell.bytes()).map(<[u8]>::len).sum();
            let (read, began, mut settled) = (rows.len(), Instant::now(), Settled::default());
            let swaps = hand.judge(rows, &mut settled).await?;
            let took = read_took + began.elapsed();
            Ok(Ready { aim, swaps, settled, ids, rows: read, bytes, looked_at, last, read_took, took })
        });
    }

    /// The first of them, if it is ready.
    pub(crate) fn take(&mut self) -> Option<Ready> {
        self.ready.take()
    }

    /// What comes next of it; never, if nothing is under way. Nothing is lost where this is dropped.
    pub(crate) async fn next(&mut self) -> Made {
        tokio::select! {
            biased;
            judged = self.judging.first(), if self.ready.is_none() => {
                Made::Judged(judged.map(|ready| self.ready = Some(ready)))
            }
            read = self.reading.first() => Made::Read(read.map(|read| {
                let last = read.as_ref().map(|read| read.last.clone());
                self.read = read;
                last
            })),
        }
    }
}
