//! Maintenance windows: for how long one has been open, and who gets the keys in it.
//!
//! The end of a permission errs to the other side than that of a wait: whoever does not know for how long a window has
//! been open gives nothing. The member that was granted it counts from 0; the others learn of it by heartbeats, and a
//! restarted one together with its keys. Of what several members know the longest counts.

use std::time::Duration;

use keymoot_types::{
    Digest, Manifest, NodeName,
    window::{Spent, Window},
};

use crate::Monotonic;

/// The longest that holders may grant: a night's work.
pub const WINDOW_MAX: Duration = Duration::from_secs(12 * 3600);

/// What a node knows of the window in its manifest, on a clock that nobody sets.
#[derive(Debug, Default)]
pub struct Watch(Option<Known>);

#[derive(Debug)]
struct Known {
    id: String,
    /// It was open for so long…
    spent: Duration,
    /// …at this reading.
    at: Monotonic,
    /// Whether it can't have been open for longer.
    certain: bool,
}

/// Why no keys are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotGiven {
    /// Nothing is granted.
    #[error("no maintenance window is open")]
    NoWindow,
    /// Its time is over, or an operator ended it.
    #[error("the maintenance window is over")]
    Over,
    /// This node was restarted, and nobody has told it yet.
    #[error("this node does not know for how long the maintenance window has been open")]
    Unknown,
    /// Whoever asks is not one of the members that it is for.
    #[error("the maintenance window is not for who shows this certificate")]
    NotNamed,
}

impl Watch {
    /// It was granted here and now.
    pub fn granted(&mut self, window: &Window, now: Monotonic) {
        self.0 = Some(Known { id: window.id.clone(), spent: Duration::ZERO, at: now, certain: true });
    }

    /// It is in the manifest: from now on it is at least known how long it is there.
    pub fn seen(&mut self, window: &Window, now: Monotonic) {
        if self.known(window).is_none() {
            self.0 = Some(Known { id: window.id.clone(), spent: Duration::ZERO, at: now, certain: false });
        }
    }

    /// Somebody knows for how long it has been open.
    pub fn heard(&mut self, window: &Window, spent: Duration, now: Monotonic) {
        let here = self.known(window).map(|known| known.spent_at(now)).unwrap_or_default();
        self.0 = Some(Known { id: window.id.clone(), spent: spent.max(here), at: now, certain: true });
    }

    /// An operator ends it: all of its time is spent, and whoever hears of that ends it too.
    pub fn end(&mut self, window: &Window, now: Monotonic) {
        self.heard(window, window.granted_for(), now);
    }

    /// What heartbeats tell of it.
    pub fn spent(&self, window: &Window, now: Monotonic) -> Option<Spent> {
        let known = self.known(window).filter(|known| known.certain)?;
        let spent_ms = u64::try_from(known.spent_at(now).as_millis()).unwrap_or(u64::MAX);
        Some(Spent { id: known.id.clone(), spent_ms })
    }

    /// For how long it is still open.
    pub fn left(&self, window: &Window, now: Monotonic) -> Result<Duration, NotGiven> {
        let known = self.known(window).ok_or(NotGiven::Unknown)?;
        let granted = window.granted_for().min(WINDOW_MAX);
        match granted.checked_sub(known.spent_at(now)).filter(|left| !left.is_zero()) {
            None => Err(NotGiven::Over),
            Some(_) if !known.certain => Err(NotGiven::Unknown),
            Some(left) => Ok(left),
        }
    }

    fn known(&self, window: &Window) -> Option<&Known> {
        self.0.as_ref().filter(|known| known.id == window.id)
    }
}

impl Known {
    fn spent_at(&self, now: Monotonic) -> Duration {
        self.spent.saturating_add(now.saturating_sub(self.at))
    }
}

/// Which member gets the keys for this certificate, and for how long the window is still open.
pub fn may_receive<'m>(
    manifest: &'m Manifest,
    watch: &Watch,
    now: Monotonic,
    fingerprint: &Digest,
) -> Result<(&'m NodeName, Duration), NotGiven> {
    let window = manifest.window.as_ref().ok_or(NotGiven::NoWindow)?;
    let shown = |node: &&NodeName| window.peer(node).is_some_and(|peer| peer.fingerprint == *fingerprint);
    // One that is a member no longer gets nothing, whatever was granted before.
    let named = window.members.iter().filter(|node| manifest.members.contains(node)).find(shown);
    let named = named.ok_or(NotGiven::NotNamed)?;
    Ok((named, watch.left(window, now)?))
}
