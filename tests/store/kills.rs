//! Faults 26 and 28 of `docs/track-record.md`: `kill -9` at the N-th call that touches a stored file, for enumerated N; and
//! again while the daemon recovers from it, and a third time.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::process::ExitStatusExt as _,
};

use crate::{
    at_once,
    harness::trap,
    story::Story,
    traced::{self, Of},
    whole_sweep,
};

/// A call, and which of a thread's is the last.
type Point = (&'static str, usize);

/// Goes on with the story until it dies there; a story that ends before was not hit.
fn killed(story: &mut Story, (call, nth): Point) -> bool {
    let expressions = [format!("trace={call}"), format!("inject={call}:signal=KILL:when={nth}")];
    let status = match story.world.try_start_as(traced::daemon(&story.world, Of::All, &expressions)) {
        Err(status) => status,
        Ok(()) => match story.go_on(story.acked.rotations + 1) {
            Ok(()) => {
                traced::kill(&mut story.world);
                return false;
            }
            Err(_gone) => {
                trap::release(story.world.pid());
                story.world.until_ended()
            }
        },
    };
    assert_eq!(status.signal(), Some(9), "{call} {nth}: it died by the injected signal\n{}", story.world.log());
    let last = traced::last(&story.world);
    assert!(last.contains(call), "{call} {nth}: {last}");
    true
}

/// Where the daemon was killed: the call, which of a thread's it was, and how often.
#[derive(Default)]
struct Kills(BTreeMap<&'static str, BTreeSet<usize>>, usize);

impl Kills {
    fn add(&mut self, (call, nth): Point) {
        self.0.entry(call).or_default().insert(nth);
        self.1 += 1;
    }

    fn distinct(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }
}

/// Each of these lives through all of its rounds: after the kills of one it is started unharmed and looked at, and at the
/// end it comes to its end.
fn through(lives: Vec<Vec<Vec<Point>>>) -> Kills {
    let mut kills = Kills::default();
    let done = at_once(lives.into_iter().enumerate().collect(), |(life, rounds)| {
        let (mut story, mut hit) = (Story::new(), Vec::new());
        for round in rounds {
            let before = hit.len();
            hit.extend(round.into_iter().filter(|point| killed(&mut story, *point)));
            if hit.len() > before {
                story.world.start();
                story.check();
                story.world.kill();
            }
        }
        story.world.start();
        story.go_on(story.acked.rotations.max(1)).unwrap();
        story.check();
        // It takes a second of its own.
        if life % 10 == 0 {
            story.check_outside();
        }
        hit
    });
    done.into_iter().flatten().for_each(|point| kills.add(point));
    println!("{} kills by signal 9, before these calls of a thread: {:?}", kills.1, kills.0);
    kills
}

#[test]
fn fault_26_a_kill_at_any_write_sync_or_rename_keeps_what_was_acknowledged_and_the_rest_whole_or_absent() {
    const CALLS: [(&str, usize, usize); 7] = [
        ("pwrite64", 12, 90),
        ("fdatasync", 10, 40),
        ("fsync", 4, 12),
        ("rename", 4, 6),
        ("unlink", 4, 8),
        ("write", 6, 30),
        ("ftruncate", 3, 6),
    ];
    // A new keyring for each of the first points; one that was hit there lives on, and is hit further and further on.
    let step = if whole_sweep() { 1 } else { 3 };
    let lives = CALLS.iter().flat_map(|&(call, fresh, last)| {
        let fresh = if whole_sweep() { last } else { fresh };
        (1..=fresh).map(move |first| {
            let later = (first + fresh * step..=last).step_by(fresh * step).map(|nth| vec![(call, nth)]);
            std::iter::once(vec![(call, first)]).chain(later).collect()
        })
    });
    let kills = through(lives.collect());
    assert!(kills.distinct() >= 40 && kills.0.len() >= 5, "{:?}", kills.0);
}

#[test]
fn fault_28_a_second_kill_while_it_recovers_and_a_third_lose_nothing() {
    let deep = |first: Point, second: usize, third: usize| vec![first, ("pwrite64", second), ("pwrite64", third)];
    let span = if whole_sweep() { 12 } else { 3 };
    let lives = [("pwrite64", 8), ("pwrite64", 30), ("fdatasync", 9), ("fsync", 3), ("write", 6), ("unlink", 2)];
    let lives = lives.into_iter().map(|first| (1..=span).map(|n| deep(first, n, 1 + n % 3)).collect());
    let kills = through(lives.collect());
    assert!(kills.1 >= 45, "most of them were hit three times: {} kills", kills.1);
}
