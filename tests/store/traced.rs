//! The daemon under `strace` from its first instruction on, which sees and spoils only what touches stored files.

use std::{fs, process::Command};

use crate::harness::{World, trap};

/// Whatever the daemon stores.
const DATA: [&str; 12] = [
    "lock",
    "meta.db",
    "meta.db-wal",
    "meta.db-journal",
    "manifest.json",
    "manifest.json.new",
    "unlocked-once",
    "audit.jsonl",
    "tls-cert.pem",
    "tls-cert.pem.new",
    "tls-key.pem",
    "tls-key.pem.new",
];
const SOURCE: [&str; 3] = ["app.db", "app.db-wal", "app.db-journal"];

/// The files whose calls are seen.
#[derive(Clone, Copy)]
pub enum Of {
    /// The daemon's and the source's.
    All,
    /// The metadata store's.
    Metadata,
}

/// `strace` with these expressions, such as `inject=fsync:error=EIO:when=3`, and the daemon.
pub fn daemon(world: &World, of: Of, expressions: &[String]) -> Command {
    under(world, of, &["-y", "-e", "signal=none"], expressions)
}

/// The daemon, with every byte that it stores written down.
pub fn recorded(world: &World) -> Command {
    let calls = "trace=openat,mkdir,write,pwrite64,ftruncate,fsync,fdatasync,rename,unlink";
    under(world, Of::All, &["-y", "-xx", "-s", "16777216", "-e", "signal=none"], &[calls.to_owned()])
}

fn under(world: &World, of: Of, flags: &[&str], expressions: &[String]) -> Command {
    // As a grandchild, so that the process id is the daemon's own.
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-qq"]).args(flags).arg("-o").arg(world.path("strace"));
    for expression in expressions {
        command.args(["-e", expression]);
    }
    let data = DATA.iter().map(|name| world.data_dir().join(name));
    let dirs = [world.dir.path().to_owned(), world.data_dir()];
    let all = dirs.into_iter().chain(data).chain(SOURCE.iter().map(|name| world.path(name)));
    for path in all.filter(|path| matches!(of, Of::All) || path.to_string_lossy().contains("/meta.db")) {
        command.arg("-P").arg(path);
    }
    command.arg(env!("CARGO_BIN_EXE_keymoot")).arg("server").arg("--config").arg(world.config_file());
    command
}

/// The calls that were spoiled, as `strace` wrote them down.
pub fn injected(world: &World) -> Vec<String> {
    let log = fs::read_to_string(world.path("strace")).unwrap_or_default();
    log.lines().filter(|line| line.contains("(INJECTED)")).map(str::to_owned).collect()
}

/// Ends the tracer, and then the daemon by `kill -9`.
pub fn kill(world: &mut World) {
    trap::release(world.pid());
    world.kill();
}

/// The last call that `strace` wrote down of a daemon that was killed at it.
pub fn last(world: &World) -> String {
    let log = fs::read_to_string(world.path("strace")).unwrap_or_default();
    let mut lines = log.lines().filter(|line| line.contains("(INJECTED)") || line.contains("= ?"));
    lines.next_back().unwrap_or_default().to_owned()
}
