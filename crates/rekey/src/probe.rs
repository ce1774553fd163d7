//! Asks beside the batches how busy a source's server is, and remembers how gentle a worker has to be.

use std::{sync::Arc, time::Duration};

use keymoot_storage::source::{Load, Source};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};

/// A server is asked no more often, however small the batches are.
const EVERY: Duration = Duration::from_secs(1);
/// For so long a batch waits for the newest answer rather than going by the one before.
const GRACE: Duration = Duration::from_millis(100);
/// Nothing goes by an older answer. Together with the time of a batch: strain is felt within two seconds.
const STALE: Duration = Duration::from_millis(1500);
/// A server that takes longer has too much to do.
const TIMEOUT: Duration = Duration::from_secs(1);
/// After so long without strain a worker is twice as fast again.
const QUIET: Duration = Duration::from_secs(5);
/// One sixteenth of the speed is gentle enough to tell whether it was the worker.
const HALVINGS_MAX: u8 = 4;

/// A server's answer, or why there is none.
pub(crate) type Answer = Result<Load, String>;

/// What is known of one source's server.
#[derive(Default)]
pub(crate) struct Probe {
    last: Option<(Instant, Answer)>,
    asking: Option<JoinHandle<Answer>>,
}

impl Probe {
    /// The newest answer. The question is asked by a task of its own, which nothing drops in the middle.
    pub(crate) async fn look(&mut self, source: Arc<dyn Source>) -> Answer {
        let age = self.last.as_ref().map(|(at, _)| at.elapsed());
        if self.asking.is_none() && age.is_none_or(|age| age >= EVERY) {
            self.asking = Some(tokio::spawn(ask(source)));
        }
        let patience = if age.is_none_or(|age| age >= STALE) { TIMEOUT + GRACE } else { GRACE };
        if let Some(asking) = &mut self.asking
            && let Ok(answer) = timeout(patience, asking).await
        {
            let answer = answer.unwrap_or_else(|error| Err(format!("a defect: {error}")));
            self.asking = None;
            self.last = Some((Instant::now(), answer));
        }
        self.last.as_ref().map_or_else(|| Err("the server was not asked yet".into()), |(_, answer)| answer.clone())
    }
}

async fn ask(source: Arc<dyn Source>) -> Answer {
    let what =
        if source.spec().throttle_query.is_some() { "the throttle query" } else { "the question for the load" };
    match timeout(TIMEOUT, source.load()).await {
        Ok(Ok(load)) => Ok(load),
        Ok(Err(error)) => Err(format!("{what} failed: {error}")),
        Err(_) => Err(format!("{what} failed: no answer within {} s", TIMEOUT.as_secs())),
    }
}

/// Speed is halved whenever there is strain and comes back by doubling: a worker that went on at full speed would be
/// what the next strain comes from.
#[derive(Default)]
pub(crate) struct Ease {
    halvings: u8,
    changed: Option<Instant>,
}

impl Ease {
    /// Looked at the strain, as often as one likes.
    pub(crate) fn feel(&mut self, strained: bool) {
        let since = self.changed.map(|changed| changed.elapsed());
        let halvings = match strained {
            true if since.is_none_or(|since| since >= EVERY) => (self.halvings + 1).min(HALVINGS_MAX),
            false if since.is_some_and(|since| since >= QUIET) => self.halvings.saturating_sub(1),
            _ => return,
        };
        self.halvings = halvings;
        self.changed = (halvings > 0).then(Instant::now);
    }

    /// How often the speed is halved now.
    pub(crate) fn halvings(&self) -> u8 {
        self.halvings
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn speed_is_halved_at_once_and_comes_back_by_and_by() {
        let mut ease = Ease::default();
        ease.feel(false);
        assert_eq!(ease.halvings(), 0);
        ease.feel(true);
        ease.feel(true);
        assert_eq!(ease.halvings(), 1, "one strain that was looked at twice");
        for _ in 0..9 {
            advance(EVERY).await;
            ease.feel(true);
        }
        assert_eq!(ease.halvings(), HALVINGS_MAX);
        for left in (0..HALVINGS_MAX).rev() {
            advance(QUIET).await;
            ease.feel(false);
            ease.feel(false);
            assert_eq!(ease.halvings(), left);
        }
        ease.feel(true);
        assert_eq!(ease.halvings(), 1);
    }
}
