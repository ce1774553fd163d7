//! What is remembered of a store that is away, so that its return is not met by a storm.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(4);

/// Growing waits with jitter, without an end.
pub(crate) fn waits() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_jitter()
        .with_min_delay(FIRST_WAIT)
        .with_max_delay(LONGEST_WAIT)
        .without_max_times()
        .build()
}

/// The present outage, if there is one. While it lasts, one caller at a time tries, and not before a wait that
/// grows; all others are told at once why not.
#[derive(Default)]
pub(crate) struct Away(Mutex<Option<Outage>>);

struct Outage {
    reason: String,
    next_try: Instant,
    waits: ExponentialBackoff,
}

impl Away {
    /// Whether to try now. Who may takes the turn: for as long as `turn` nobody else gets one.
    pub(crate) fn may_try(&self, turn: Duration) -> Result<(), String> {
        match &mut *self.outage() {
            None => Ok(()),
            Some(outage) if Instant::now() < outage.next_try => Err(outage.reason.clone()),
            Some(outage) => {
                outage.next_try = Instant::now() + turn;
                Ok(())
            }
        }
    }

    pub(crate) fn failed(&self, reason: &str) {
        let mut present = self.outage();
        let mut waits = present.take().map_or_else(waits, |outage| outage.waits);
        let next_try = Instant::now() + waits.next().unwrap_or(LONGEST_WAIT);
        *present = Some(Outage { reason: reason.to_owned(), next_try, waits });
    }

    pub(crate) fn is_back(&self) {
        *self.outage() = None;
    }

    fn outage(&self) -> MutexGuard<'_, Option<Outage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn fault_52_while_a_store_is_away_it_is_asked_rarely_and_by_one_caller_at_a_time() {
        let away = Away::default();
        let turn = Duration::from_secs(2);
        assert_eq!(away.may_try(turn), Ok(()));
        let (mut tries, mut told) = (0, 0);
        // 100 callers every 10 ms for five minutes.
        for _ in 0..30_000 {
            for _ in 0..100 {
                match away.may_try(turn) {
                    Ok(()) => {
                        tries += 1;
                        away.failed("refused");
                    }
                    Err(reason) => {
                        assert_eq!(reason, "refused");
                        told += 1;
                    }
                }
            }
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert!((30..=90).contains(&tries), "{tries} tries, {told} told");
        tokio::time::advance(2 * LONGEST_WAIT).await;
        assert_eq!(away.may_try(turn), Ok(()));
        assert!(away.may_try(turn).is_err(), "two callers had the turn");
        away.is_back();
        assert_eq!(away.may_try(turn), Ok(()));
        assert_eq!(away.may_try(turn), Ok(()));
    }

    /// As many nodes as there could be, that lost the same store in the same moment.
    #[tokio::test(start_paused = true)]
    async fn fault_52_after_five_minutes_away_a_store_is_found_again_soon_and_not_by_everybody_at_once() {
        const NODES: usize = 1_000;
        let (turn, tick) = (Duration::from_secs(2), Duration::from_millis(10));
        let nodes: Vec<_> = (0..NODES).map(|_| Away::default()).collect();
        let mut tries = vec![0; NODES];
        let five_minutes = Instant::now() + Duration::from_secs(300);
        while Instant::now() < five_minutes {
            for (node, tries) in nodes.iter().zip(&mut tries) {
                if node.may_try(turn).is_ok() {
                    *tries += 1;
                    node.failed("refused");
                }
            }
            tokio::time::advance(tick).await;
        }
        let (fewest, most) = (tries.iter().min().unwrap(), tries.iter().max().unwrap());
        assert!(*fewest >= 30 && *most <= 90, "{fewest} to {most} tries");
        // Back: who may try succeeds, and is not counted again.
        let returned = Instant::now();
        let mut waiting: Vec<_> = nodes.iter().collect();
        let mut at_once = 0;
        while !waiting.is_empty() {
            assert!(returned.elapsed() < Duration::from_secs(30), "{} nodes have not found it", waiting.len());
            let before = waiting.len();
            waiting.retain(|node| node.may_try(turn).is_err());
            at_once = at_once.max(before - waiting.len());
            tokio::time::advance(tick).await;
        }
        assert!(at_once <= NODES / 20, "{at_once} of {NODES} nodes came in one hundredth of a second");
    }
}
