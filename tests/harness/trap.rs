//! `kill -9` at an enumerated system call: `strace` attached to the daemon.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
};

use super::World;

/// `strace` on the running daemon: it dies at the `nth` such call of a thread.
pub struct Trap(Child);

impl Trap {
    pub fn set(world: &World, call: &str, nth: usize) -> Self {
        let log = world.path("strace");
        let mut child = Command::new("strace")
            .args(["-f", "-qq", "-o", log.to_str().unwrap(), "-e", &format!("trace={call}")])
            .args(["-e", &format!("inject={call}:signal=KILL:when={nth}")])
            .args(["-p", &world.pid().to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("strace did not start ({error}): install strace"));
        // It is quiet, so that it is attached is seen in the daemon itself.
        let status = format!("/proc/{}/task", world.pid());
        world.until("strace is attached to every thread", || {
            if child.try_wait().unwrap().is_some() {
                // What comes round in the daemon may have made the call before every thread was looked at.
                assert!(dies(world.pid()), "strace ended: {}", said(&mut child));
                return Some(());
            }
            let traced = std::fs::read_dir(&status).unwrap().all(|task| {
                let status = task.ok().and_then(|task| std::fs::read_to_string(task.path().join("status")).ok());
                status.is_none_or(|status| !status.contains("TracerPid:\t0\n"))
            });
            traced.then_some(())
        });
        Self(child)
    }

    /// Which call was the last, once the daemon is dead. The tracer is not waited for: strace 6.1 may sleep for
    /// ever beside a process all of whose threads are dead, and what it saw stands in its log line by line.
    pub fn last_call(self, world: &World) -> String {
        drop(self);
        let file = std::fs::File::open(world.path("strace")).unwrap();
        last_that_ended(BufReader::new(file).lines().map_while(Result::ok))
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Of strace's lines. Of a thread that the kill met between two calls it may write `??? resumed`, which is none.
pub fn last_that_ended(lines: impl Iterator<Item = String>) -> String {
    let ended = |line: &String| line.contains("(INJECTED)") || line.contains("= ?");
    lines.filter(ended).filter(|line| !line.contains("???")).last().unwrap_or_default()
}

/// Whether a process has died and was not waited for, its tracer's share in it included.
pub fn is_dead(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.contains("State:\tZ")
        && std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|task| {
            let status = task.ok().and_then(|task| std::fs::read_to_string(task.path().join("status")).ok());
            status.is_none_or(|status| status.contains("State:\tZ") || status.contains("State:\tX"))
        })
}

/// Whether a process dies within some seconds: a tracer holds its last threads for a moment.
pub fn dies(pid: u32) -> bool {
    (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        is_dead(pid)
    })
}

/// Ends the tracer of a process, if it has one: what was traced runs on.
pub fn release(pid: u32) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).map_or("0", str::trim);
    if tracer != "0" {
        assert!(Command::new("kill").args(["-KILL", tracer]).status().is_ok());
    }
}

fn said(child: &mut Child) -> String {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}
