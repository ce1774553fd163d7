//! Memory of an unlocked node at rest, and the time from the start to "ready to take shares".

use std::time::Instant;

use crate::{
    Scale,
    figures::{Goal, Spread, figure, heading, ratio, row},
    harness::World,
    process::memory_mb,
};

const STARTS: usize = 5;
const COLD_START_S: f64 = 0.3;
const IDLE_MB: f64 = 40.0;

pub(crate) fn measure(_: &Scale) {
    let mut world = World::new("");
    world.start();
    world.init(24, 1);
    world.unlock(&[(1, 1), (1, 2)]);
    world.unlock(&[(1, 2)]).expect(200);
    let idle = memory_mb(world.pid(), "VmRSS");
    let starts = (0..STARTS).map(|_| {
        world.kill();
        let begin = Instant::now();
        // Until the line "listening" is in the log; making the client of this process is part of it.
        world.start();
        begin.elapsed().as_secs_f64()
    });
    let starts = Spread::of(starts.collect::<Vec<_>>().into_iter());
    heading("footprint");
    row("start with a keyring to \"listening\", ms", starts.scaled(1e3));
    ratio("the same, seconds", starts.median, Goal::AtMost(COLD_START_S));
    figure("memory, unlocked with 24 holders, idle", idle, "MB");
    ratio("the same, MB", idle, Goal::AtMost(IDLE_MB));
}
