//! The daemon as a child process: started, waited for, stopped; it never outlives its parent.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use serde_json::Value as Json;
use tokio::process::{Child, Command};

use super::place::Addresses;

const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// The last lines of a log that are shown when something went wrong.
const LAST_WORDS: usize = 8;

/// A running daemon. Dropped, it is killed.
pub(crate) struct Daemon {
    child: Child,
    addresses: Addresses,
}

impl Daemon {
    /// Starts this executable with these arguments, and waits until it says where it listens.
    pub(crate) async fn start(arguments: &[OsString], log: &Path) -> anyhow::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(log).context("the daemon's log")?;
        let begin = file.metadata()?.len();
        let child = Command::new(std::env::current_exe().context("this executable")?)
            .args(arguments)
            .arg("--parent")
            .arg(std::process::id().to_string())
            // Its first line is waited for, so the level is not left to the environment.
            .env("KEYMOOT_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            // Ctrl-C is for the parent, which then stops the child in its own time.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("starting the daemon")?;
        let mut daemon = Self { child, addresses: Addresses::any() };
        let started = Instant::now();
        loop {
            let lines = read_from(log, begin)?;
            if let Some(addresses) = lines.lines().find_map(listening) {
                daemon.addresses = addresses;
                return Ok(daemon);
            }
            if let Some(status) = daemon.child.try_wait()? {
                bail!("the daemon ended at its start ({status}):\n{}", last_words(&read_from(log, begin)?));
            }
            if started.elapsed() > START_TIMEOUT {
                bail!(
                    "the daemon did not begin to listen within {} s:\n{}",
                    START_TIMEOUT.as_secs(),
                    last_words(&lines)
                );
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Where it listens.
    pub(crate) fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Waits until it ends by itself, which it should not.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        match self.child.wait().await {
            Ok(status) => anyhow::anyhow!("the daemon ended by itself: {status}"),
            Err(error) => anyhow::Error::from(error).context("waiting for the daemon"),
        }
    }

    /// Asks it to stop and waits; one that does not is killed.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id().and_then(pid) {
            kill_process(pid, Signal::TERM).context("stopping the daemon")?;
        }
        if tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            self.child.kill().await.context("killing the daemon")?;
        }
        Ok(())
    }
}

fn pid(number: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(number).ok()?)
}

/// In the child: ends this process when its parent does, even by `kill -9`.
pub(crate) fn end_with_parent(parent: u32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM)).context("tying this process to its parent")?;
    // The parent may have gone before the line above.
    if getppid() != pid(parent) {
        bail!("the process that started this daemon is gone");
    }
    Ok(())
}

fn read_from(log: &Path, begin: u64) -> anyhow::Result<String> {
    let mut file = File::open(log)?;
    file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn listening(line: &str) -> Option<Addresses> {
    let line: Json = serde_json::from_str(line).ok()?;
    let field = |name: &str| line.get(name).and_then(Json::as_str);
    if field("message") != Some("listening") {
        return None;
    }
    Some(Addresses { data: field("data")?.parse().ok()?, control: field("control")?.parse().ok()? })
}

fn last_words(lines: &str) -> String {
    let lines: Vec<_> = lines.lines().collect();
    lines.get(lines.len().saturating_sub(LAST_WORDS)..).unwrap_or_default().join("\n")
}

/// The warnings and errors at the end of a log: what to look at when something went wrong.
pub(crate) fn complaints(log: &Path) -> String {
    let Ok(lines) = read_from(log, 0) else { return String::new() };
    let loud = |line: &&str| {
        line.contains("\"level\":\"ERROR\"") || line.contains("\"level\":\"WARN\"") || !line.starts_with('{')
    };
    last_words(&lines.lines().filter(loud).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_are_read_from_the_line_that_names_them() {
        let line = r#"{"level":"INFO","message":"listening","data":"127.0.0.1:4000","control":"127.0.0.1:4001"}"#;
        let found = listening(line).unwrap();
        assert_eq!((found.data.port(), found.control.port()), (4000, 4001));
        for other in ["", "listening", r#"{"message":"sealed"}"#, r#"{"message":"listening"}"#] {
            assert!(listening(other).is_none(), "{other}");
        }
    }
}
