//! What the preflight of a job's start found, so that its runner, which begins at once, need not look through the whole
//! table a second time.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use keymoot_storage::source::{Ahead, Preflight, Source};
use tokio::time::Instant;

/// Whoever waited for anything looks again.
const FRESH: Duration = Duration::from_secs(1);

struct Look {
    /// Whoever declares it otherwise is done with it.
    source: Weak<dyn Source>,
    ahead: Ahead,
    found: Preflight,
    at: Instant,
}

/// The newest look at each source.
#[derive(Default)]
pub(crate) struct Looked(Mutex<Vec<Look>>);

impl Looked {
    pub(crate) fn note(&self, source: &Arc<dyn Source>, ahead: Ahead, found: Preflight) {
        let source = Arc::downgrade(source);
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        looks.retain(|look| look.at.elapsed() < FRESH && !look.source.ptr_eq(&source));
        looks.push(Look { source, ahead, found, at: Instant::now() });
    }

    /// What was found of this source, by these very connections, a moment ago; once.
    pub(crate) fn take(&self, source: &Arc<dyn Source>, ahead: Ahead) -> Option<Preflight> {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = looks.iter().position(|look| look.source.ptr_eq(&Arc::downgrade(source)))?;
        let look = looks.swap_remove(at);
        (look.ahead == ahead && look.at.elapsed() < FRESH).then_some(look.found)
    }
}
