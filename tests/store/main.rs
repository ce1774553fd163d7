//! What Keymoot itself stores, on a disk that fails, fills up, is cut off from power, and under a daemon that is killed: the
//! real daemon makes a keyring, rotates it and rekeys a column, is hit at enumerated system calls, and is held to what it
//! acknowledged.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that meets what it did not expect ends there; and it may look at a clock"
)]

#[path = "../harness/mod.rs"]
mod harness;

mod errors;
mod judge;
mod kills;
mod power;
mod story;
mod traced;

use std::sync::Mutex;

/// Whether all points are to be hit, for a release, or a sample.
fn whole_sweep() -> bool {
    std::env::var_os("KEYMOOT_TEST_STORE_SWEEP").is_some()
}

/// Works on all of these, some at a time: they wait more than they work.
fn at_once<T: Send, R: Send>(work: Vec<T>, each: impl Fn(T) -> R + Sync) -> Vec<R> {
    let (queue, done) = (Mutex::new(work.into_iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().next();
                    let Some(next) = next else { return };
                    let result = each(next);
                    done.lock().unwrap().push(result);
                }
            });
        }
    });
    done.into_inner().unwrap()
}
