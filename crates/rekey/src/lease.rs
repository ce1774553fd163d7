//! Who works on a source of a job: a lease with a fencing number, kept in the checkpoint itself.
//!
//! Every write of the checkpoint is a compare-and-swap, and its holder's moves the beat. Whoever takes the lease raises
//! the fence in the same swap, so that the next write of a late holder is refused. No time is written and no clock is
//! compared: a lease is free for another node once its beat has stood still for so many of the reader's own.

use std::time::Duration;

use keymoot_types::{NodeName, heartbeat::BootId};
use serde::{Deserialize, Serialize};

/// How often a holder renews what no checkpoint has renewed, and how often the others look.
pub(crate) const BEAT: Duration = Duration::from_secs(1);
/// Own beats for which another's lease must stand still.
pub(crate) const LAPSES_AFTER: u64 = 10;

/// One start of a node, as the holder of leases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The node.
    pub node: NodeName,
    /// Which of its starts.
    pub boot: BootId,
}

/// The lease of one source of one job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    /// Rises whenever the lease is taken and never falls.
    fence: u64,
    /// Rises with every write.
    beat: u64,
    /// Nobody before the first take and after it was given back.
    holder: Option<Holder>,
}

impl Lease {
    pub(crate) fn taken_by(&self, holder: &Holder) -> Self {
        let fence = self.fence.saturating_add(1);
        Self { fence, holder: Some(holder.clone()), ..self.renewed() }
    }

    pub(crate) fn renewed(&self) -> Self {
        Self { beat: self.beat.saturating_add(1), ..self.clone() }
    }

    pub(crate) fn given_back(&self) -> Self {
        Self { holder: None, ..self.renewed() }
    }

    /// Whether nobody has taken the lease between these two.
    pub(crate) fn same_hold(&self, other: &Self) -> bool {
        (self.fence, &self.holder) == (other.fence, &other.holder)
    }

    pub(crate) fn is_held_by(&self, holder: &Holder) -> bool {
        self.holder.as_ref() == Some(holder)
    }

    pub(crate) fn is_held(&self) -> bool {
        self.holder.is_some()
    }

    pub(crate) fn fence(&self) -> u64 {
        self.fence
    }
}

/// What one node has seen of a lease.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Fence and beat, as they were last read.
    mark: Option<(u64, u64)>,
    /// The own beat since which the mark stands still.
    since: Option<u64>,
    /// Whether somebody wrote since this boot first looked.
    moved: bool,
}

impl Watch {
    /// Whether `me` may take the lease, at this own beat. An earlier boot of the same node is gone for sure unless
    /// somebody still writes in its name.
    pub(crate) fn finds_free(&mut self, me: &Holder, lease: &Lease, beat: u64) -> bool {
        let mark = Some((lease.fence, lease.beat));
        if self.mark != mark {
            self.moved |= self.mark.is_some();
            self.mark = mark;
            self.since = None;
        }
        let since = *self.since.get_or_insert(beat);
        let Some(holder) = &lease.holder else { return true };
        let earlier_boot = holder.node == me.node && !self.moved;
        holder == me || earlier_boot || beat.saturating_sub(since) >= LAPSES_AFTER
    }

    /// The store was away, or the job paused: nobody could or had to renew, so standing still says nothing.
    pub(crate) fn interrupted(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests {
    use super::*;

    fn holder(node: &str, boot: &str) -> Holder {
        Holder { node: node.parse().unwrap(), boot: BootId(boot.into()) }
    }

    #[test]
    fn a_lease_that_stands_still_is_free_after_so_many_own_beats_and_not_before() {
        let (a, b) = (holder("db1", "x"), holder("db2", "y"));
        let mut watch = Watch::default();
        let mut lease = Lease::default().taken_by(&a);
        assert!(!watch.finds_free(&b, &lease, 100));
        assert!(!watch.finds_free(&b, &lease, 99 + LAPSES_AFTER));
        // The holder is slow, not gone.
        lease = lease.renewed();
        assert!(!watch.finds_free(&b, &lease, 100 + LAPSES_AFTER));
        assert!(!watch.finds_free(&b, &lease, 99 + 2 * LAPSES_AFTER));
        assert!(watch.finds_free(&b, &lease, 100 + 2 * LAPSES_AFTER));
    }

    #[test]
    fn what_could_not_be_renewed_is_not_held_against_its_holder() {
        let (a, b) = (holder("db1", "x"), holder("db2", "y"));
        let mut watch = Watch::default();
        let lease = Lease::default().taken_by(&a);
        assert!(!watch.finds_free(&b, &lease, 1));
        watch.interrupted();
        assert!(!watch.finds_free(&b, &lease, 1 + LAPSES_AFTER));
        assert!(watch.finds_free(&b, &lease, 1 + 2 * LAPSES_AFTER));
    }

    #[test]
    fn an_earlier_boot_is_taken_over_at_once_and_a_living_double_is_not() {
        let (earlier, me) = (holder("db1", "x"), holder("db1", "y"));
        let lease = Lease::default().taken_by(&earlier);
        let mut watch = Watch::default();
        assert!(watch.finds_free(&me, &lease, 1));
        watch.interrupted();
        assert!(watch.finds_free(&me, &lease, 2), "it stays free until it was taken");
        // It writes on: another daemon lives under this name.
        let mine = lease.taken_by(&me);
        assert!(watch.finds_free(&me, &mine, 3));
        let taken_back = mine.taken_by(&earlier);
        assert!(!watch.finds_free(&me, &taken_back, 4));
        assert!(watch.finds_free(&me, &taken_back, 4 + LAPSES_AFTER));
    }

    #[test]
    fn fences_only_rise_and_a_lease_given_back_is_free_at_once() {
        let (a, b) = (holder("db1", "x"), holder("db2", "y"));
        let first = Lease::default().taken_by(&a);
        let back = first.renewed().given_back();
        assert!(first.same_hold(&first.renewed()) && !first.same_hold(&back));
        assert!(Watch::default().finds_free(&b, &back, 1));
        let second = back.taken_by(&b);
        let third = second.taken_by(&a);
        assert!(first.fence() < second.fence() && second.fence() < third.fence());
        assert!(!first.same_hold(&third), "the same holder, but another hold");
    }
}
