//! Leases under simulation: three nodes work on one source over a store that is away, late and loses answers, are stopped,
//! restarted and go on late, while an application writes; all chance comes from one seed.
//!
//! `KEYMOOT_SEED=n` runs one seed, `KEYMOOT_SEEDS=n` so many instead of 2,000.

use std::{collections::BTreeMap, ops::Range};

use super::*;

const ROWS: usize = 24;
const CHUNK: usize = 3;
const STEPS: u32 = 1500;
/// Without a fault from here on: the work must come to its end.
const CALM_STEPS: u32 = 4000;

/// What nodes share: the checkpoint, and how often it was written, as the store's stamp.
#[derive(Clone, Default)]
struct Record {
    stamp: u64,
    lease: Lease,
    cursor: usize,
}

/// A value is told from every other: a swap of a value that came back would not be noticed.
#[derive(Clone, Copy, PartialEq)]
struct Cell {
    serial: u64,
    old: bool,
}

/// Where a holder is in its chunk.
#[derive(Clone)]
enum Doing {
    Begins,
    Writes { read: Vec<Cell>, rows: Range<usize> },
    Saves { cursor: usize },
}

struct Node {
    me: Holder,
    watch: Watch,
    beat: u64,
    /// The record as it last wrote it, and what it is at.
    held: Option<(Record, Doing)>,
    /// Stopped for so many steps, and none the wiser.
    stopped: u32,
}

struct World {
    random: u64,
    record: Record,
    away: u32,
    rows: Vec<Cell>,
    serial: u64,
    /// Rows that the application wrote: they may be old behind the cursor.
    touched: Vec<bool>,
    nodes: Vec<Node>,
    happened: BTreeMap<&'static str, u64>,
    fences: Vec<u64>,
}

/// What became of a write of the record, as its node sees it.
enum Saved {
    Yes(Record),
    Changed,
    /// Nobody knows.
    Unanswered,
}

fn holder(node: usize, boot: u64) -> Holder {
    Holder { node: format!("db{node}").parse().unwrap(), boot: BootId(format!("boot-{boot}")) }
}

impl World {
    fn new(seed: u64) -> Self {
        let cell = |serial| Cell { serial, old: true };
        let node = |n| Node { me: holder(n, 0), watch: Watch::default(), beat: 0, held: None, stopped: 0 };
        Self {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            record: Record::default(),
            away: 0,
            rows: (0..ROWS as u64).map(cell).collect(),
            serial: ROWS as u64,
            touched: vec![false; ROWS],
            nodes: (1..=3).map(node).collect(),
            happened: BTreeMap::new(),
            fences: vec![0],
        }
    }

    /// A number below `below`.
    fn dice(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    fn tell(&mut self, what: &'static str) {
        *self.happened.entry(what).or_default() += 1;
    }

    fn chance(&mut self) {
        match self.dice(120) {
            0 => self.away = 1 + u32::try_from(self.dice(60)).unwrap(),
            1 => {
                let node = self.dice(3) as usize;
                self.nodes[node].stopped = 1 + u32::try_from(self.dice(200)).unwrap();
                self.tell("stopped");
            }
            2 => {
                let (node, boot) = (self.dice(3) as usize, u64::from(u32::MAX) + self.serial);
                let me = holder(node + 1, boot);
                self.nodes[node] = Node { me, watch: Watch::default(), beat: 0, held: None, stopped: 0 };
                self.tell("restarted");
            }
            3..=8 => {
                let (row, old) = (self.dice(ROWS as u64) as usize, self.dice(2) == 0);
                self.serial += 1;
                self.rows[row] = Cell { serial: self.serial, old };
                self.touched[row] = true;
            }
            _ => {}
        }
    }

    fn save(&mut self, by: &Holder, seen: &Record, record: Record, faults: bool) -> Saved {
        if self.away > 0 {
            self.tell("store away");
            return Saved::Unanswered;
        }
        if self.record.stamp != seen.stamp {
            return Saved::Changed;
        }
        assert!(record.lease.fence() >= self.record.lease.fence(), "a fence fell");
        assert!(
            record.lease.fence() > self.record.lease.fence() || self.record.lease.holder.as_ref() == Some(by),
            "a checkpoint of one who holds no lease"
        );
        self.record = Record { stamp: self.record.stamp + 1, ..record };
        let unsettled = (0..self.record.cursor).find(|row| self.rows[*row].old && !self.touched[*row]);
        assert_eq!(unsettled, None, "the cursor stands behind a row that nobody rewrote");
        if faults && self.dice(25) == 0 {
            self.tell("answer lost");
            return Saved::Unanswered;
        }
        Saved::Yes(self.record.clone())
    }

    /// As `held.rs` does it: whoever was not answered looks whether it still holds.
    fn after(&mut self, saved: Saved, wanted: &Record, seen: Record) -> Option<Record> {
        match saved {
            Saved::Yes(record) => Some(record),
            Saved::Changed if self.record.lease.same_hold(&wanted.lease) => Some(self.record.clone()),
            Saved::Changed => {
                self.tell("fenced");
                None
            }
            Saved::Unanswered => Some(seen),
        }
    }

    fn look(&mut self, at: usize, faults: bool) {
        let record = self.record.clone();
        let away = self.away > 0;
        let node = &mut self.nodes[at];
        if away {
            node.watch.interrupted();
            return;
        }
        if record.cursor >= ROWS || !node.watch.finds_free(&node.me, &record.lease, node.beat) {
            return;
        }
        let me = node.me.clone();
        let taken = Record { lease: record.lease.taken_by(&me), ..record.clone() };
        // Without an answer it looks again, and finds its own name.
        if let Saved::Yes(record) = self.save(&me, &record, taken, faults) {
            assert!(self.fences.last().unwrap() < &record.lease.fence(), "two hold one fence");
            self.fences.push(record.lease.fence());
            self.tell("taken");
            self.nodes[at].held = Some((record, Doing::Begins));
        } else {
            // What was written without an answer has a fence too.
            self.fences.push(self.record.lease.fence().max(*self.fences.last().unwrap()));
        }
    }

    fn work(&mut self, at: usize, faults: bool) {
        let (me, (seen, doing)) = (self.nodes[at].me.clone(), self.nodes[at].held.clone().unwrap());
        let rows = seen.cursor..(seen.cursor + CHUNK).min(ROWS);
        let (record, next) = match doing {
            Doing::Begins if rows.is_empty() => {
                let back = Record { lease: seen.lease.given_back(), ..seen.clone() };
                if matches!(self.save(&me, &seen, back, faults), Saved::Yes(_)) {
                    self.tell("given back");
                }
                self.nodes[at].held = None;
                return;
            }
            Doing::Begins => {
                let read = self.rows[rows.clone()].to_vec();
                (Some(seen), Doing::Writes { read, rows })
            }
            // Long ago, perhaps: each row only if it is as it was read.
            Doing::Writes { read, rows } => {
                let cursor = rows.end;
                let mut again = false;
                for (row, read) in rows.zip(read) {
                    if !read.old {
                        continue;
                    }
                    if self.rows[row] == read {
                        self.serial += 1;
                        self.rows[row] = Cell { serial: self.serial, old: false };
                    } else {
                        self.tell("lost to a writer");
                        again |= self.rows[row].old;
                    }
                }
                (Some(seen), if again { Doing::Begins } else { Doing::Saves { cursor } })
            }
            Doing::Saves { cursor } => {
                let wanted = Record { lease: seen.lease.renewed(), cursor, ..seen.clone() };
                let saved = self.save(&me, &seen, wanted.clone(), faults);
                let done = matches!(saved, Saved::Yes(_));
                let record = self.after(saved, &wanted, seen);
                let reached = record.as_ref().is_some_and(|record| record.cursor >= cursor);
                (record, if done || reached { Doing::Begins } else { Doing::Saves { cursor } })
            }
        };
        self.nodes[at].held = record.map(|record| (record, next));
    }

    fn step(&mut self, faults: bool) {
        if faults {
            self.chance();
        }
        self.away = if faults { self.away.saturating_sub(1) } else { 0 };
        let at = self.dice(3) as usize;
        if faults && self.nodes[at].stopped > 0 {
            self.nodes[at].stopped -= 1;
            return;
        }
        self.nodes[at].beat += 1;
        match self.nodes[at].held {
            Some(_) => self.work(at, faults),
            None => self.look(at, faults),
        }
    }

    fn run(mut self) -> BTreeMap<&'static str, u64> {
        (0..STEPS).for_each(|_| self.step(true));
        (0..CALM_STEPS).for_each(|_| self.step(false));
        assert_eq!(self.record.cursor, ROWS, "the work did not come to its end");
        self.happened
    }
}

#[test]
fn fault_39_no_seed_of_two_thousand_lets_a_relieved_holder_write_a_checkpoint() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("KEYMOOT_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("KEYMOOT_SEEDS").unwrap_or(2000),
    };
    let mut happened: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in seeds {
        let run = std::panic::catch_unwind(|| World::new(seed).run());
        let run = run.unwrap_or_else(|_| panic!("seed {seed}: KEYMOOT_SEED={seed} runs it again"));
        run.into_iter().for_each(|(what, times)| *happened.entry(what).or_default() += times);
    }
    println!("{happened:?}");
    for what in ["taken", "fenced", "answer lost", "store away", "stopped", "restarted", "lost to a writer"] {
        assert!(happened.contains_key(what), "{what} never happened");
    }
}
