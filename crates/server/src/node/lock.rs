//! The lock around [`Core`]. Whoever lets go of it publishes the manifest that parts are judged by, so that a flood
//! of wrong ones can be turned away without it.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use arc_swap::ArcSwapOption;
use keymoot_types::manifest::ManifestDocument;
use tokio::sync::{Mutex, MutexGuard};

use super::Core;

#[derive(Default)]
pub(super) struct Lock {
    core: Mutex<Core>,
    target: ArcSwapOption<ManifestDocument>,
}

impl Lock {
    pub(super) async fn lock(&self) -> Guard<'_> {
        Guard { core: self.core.lock().await, target: &self.target }
    }

    /// The newest manifest, as the last one who held the lock left it.
    pub(super) fn target(&self) -> Option<Arc<ManifestDocument>> {
        self.target.load_full()
    }
}

pub(super) struct Guard<'a> {
    core: MutexGuard<'a, Core>,
    target: &'a ArcSwapOption<ManifestDocument>,
}

impl Deref for Guard<'_> {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut Core {
        &mut self.core
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let (shown, target) = (self.target.load(), self.core.target());
        if shown.as_deref().map(ManifestDocument::canonical) != target.map(ManifestDocument::canonical) {
            self.target.store(target.cloned().map(Arc::new));
        }
    }
}
