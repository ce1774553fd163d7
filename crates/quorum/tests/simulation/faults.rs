//! Chance, from a seed, and the faults that it is spent on.

use std::collections::BTreeMap;

/// SplitMix64 (Steele, Lea, Flood 2014): every seed is a good one.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub(crate) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from)
    }

    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.next().is_multiple_of(times)
    }

    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.next() % 100 < chance
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The store answers nobody.
    StoreAway,
    /// It becomes an older copy of itself.
    StoreRestored,
    /// A read is answered from an older copy.
    StaleRead,
    /// A write is done, and its answer lost.
    AnswerLostDone,
    /// A write is not done, and its answer lost.
    AnswerLostUndone,
    /// A write that was given up arrives later.
    Late,
    /// A write arrives a second time.
    Doubled,
    /// A node reaches the store no longer, and goes on serving.
    Partition,
    /// The same, again and again.
    Flap,
    /// A node is killed between two steps.
    Killed,
    /// A node is killed at a call in the middle of what it does.
    KilledInside,
    /// A wall clock jumps.
    ClockJump,
    /// The last good manifest can't be written.
    DiskFull,
    /// A holder's shares are gone.
    LaptopLost,
    /// A holder gives a share that is none.
    WrongPart,
}

impl Fault {
    pub(crate) const ALL: [Self; 15] = [
        Self::StoreAway,
        Self::StoreRestored,
        Self::StaleRead,
        Self::AnswerLostDone,
        Self::AnswerLostUndone,
        Self::Late,
        Self::Doubled,
        Self::Partition,
        Self::Flap,
        Self::Killed,
        Self::KilledInside,
        Self::ClockJump,
        Self::DiskFull,
        Self::LaptopLost,
        Self::WrongPart,
    ];
}

/// What is to happen, what waits for its occasion, and what has happened.
pub(crate) struct Faults {
    /// By time, the next one last.
    plan: Vec<(u64, Fault, usize)>,
    armed: Vec<(Fault, usize)>,
    pub(crate) fired: BTreeMap<Fault, u64>,
    /// Late writes that arrived behind a later one of the same node.
    pub(crate) overtaken: u64,
}

impl Faults {
    /// Between 8 and 17 faults of at least four kinds among `kinds`, where there are so many.
    pub(crate) fn plan(dice: &mut Dice, kinds: &[Fault], nodes: usize, from: u64, to: u64) -> Self {
        let mut kinds = kinds.to_vec();
        while kinds.len() > 4 && !dice.one_in(kinds.len() as u64) {
            kinds.remove(dice.below(kinds.len()));
        }
        let count = 8 + dice.below(10);
        let mut plan: Vec<_> = (0..count)
            .map(|index| (dice.between(from, to), kinds[index % kinds.len()], dice.below(nodes)))
            .collect();
        plan.sort_by_key(|(at, fault, node)| (std::cmp::Reverse(*at), *fault, *node));
        Self { plan, armed: vec![], fired: BTreeMap::new(), overtaken: 0 }
    }

    /// The next fault whose time has come.
    pub(crate) fn due(&mut self, now: u64) -> Option<(Fault, usize)> {
        let (_, fault, node) = self.plan.pop_if(|(at, ..)| *at <= now)?;
        Some((fault, node))
    }

    pub(crate) fn arm(&mut self, fault: Fault, node: usize) {
        self.armed.push((fault, node));
    }

    /// The occasion of one that waits; it fires once.
    pub(crate) fn occasion(&mut self, faults: &[Fault], node: usize) -> Option<Fault> {
        let at = self.armed.iter().position(|(fault, of)| faults.contains(fault) && *of == node)?;
        let (fault, _) = self.armed.remove(at);
        self.count(fault);
        Some(fault)
    }

    pub(crate) fn count(&mut self, fault: Fault) {
        *self.fired.entry(fault).or_default() += 1;
    }

    pub(crate) fn total(&self) -> u64 {
        self.fired.values().sum()
    }
}
