//! One connection to a file: opened when it is first needed, given up after every error and opened anew.
//!
//! Giving it up matters: after a failed fsync the page cache, and so the connection, may show what the disk
//! never got. And as SQLite goes on writing to a file that was deleted or replaced under it, the file's
//! identity is compared before and after every use.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::Connection;
use tokio::{
    sync::{Mutex, oneshot},
    time::{Instant, timeout_at},
};

use super::fault::Fault;

/// What happened to the file before it is opened.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct History {
    /// This process had it open already.
    pub(super) opened: bool,
    /// The last use ended in an error or did not end.
    pub(super) failed: bool,
}

/// Makes a connection that is ready for use.
pub(super) type Opener = fn(&Path, History) -> Result<Connection, Fault>;

pub(super) struct Session {
    path: Arc<Path>,
    opener: Opener,
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    connection: Option<(Connection, Identity)>,
    history: History,
}

/// Device and inode: what stays the same as long as it is the same file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity(u64, u64);

impl Session {
    pub(super) fn new(path: PathBuf, opener: Opener) -> Self {
        Self { path: path.into(), opener, held: Arc::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` on a blocking thread and waits for it no longer than `limit`; then it is interrupted, and
    /// what it did is unknown. A caller that stops waiting does not stop the work: it ends as a whole.
    pub(super) async fn run<T, F>(&self, limit: Duration, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, Fault> + Send + 'static,
    {
        let deadline = Instant::now() + limit;
        let late = || Fault::Unreachable(format!("no answer in {} s", limit.as_secs()));
        let mut held = timeout_at(deadline, Arc::clone(&self.held).lock_owned()).await.map_err(|_| late())?;
        let (path, opener) = (Arc::clone(&self.path), self.opener);
        let (give_handle, mut handle) = oneshot::channel();
        let task = tokio::task::spawn_blocking(move || {
            let (mut connection, identity) = held.take_or_open(&path, opener)?;
            // Nobody listens any more where the caller was dropped.
            let _ = give_handle.send(connection.get_interrupt_handle());
            // Set first, for a panic passes over what comes behind the work.
            held.history.failed = true;
            let done = work(&mut connection)?;
            if Identity::of(&path)? != identity {
                let text = format!("{} was replaced while it was used; what was done is unknown", path.display());
                return Err(Fault::Unreachable(text));
            }
            held.history.failed = false;
            held.connection = Some((connection, identity));
            Ok(done)
        });
        match timeout_at(deadline, task).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Fault::Unreachable("the work on it ended unexpectedly".into())),
            Err(_) => {
                if let Ok(handle) = handle.try_recv() {
                    handle.interrupt();
                }
                Err(late())
            }
        }
    }
}

impl Held {
    fn take_or_open(&mut self, path: &Path, opener: Opener) -> Result<(Connection, Identity), Fault> {
        let now = Identity::of(path).ok();
        if let Some((connection, identity)) = self.connection.take()
            && now == Some(identity)
        {
            return Ok((connection, identity));
        }
        if self.history.opened {
            tracing::warn!(path = %path.display(), failed = self.history.failed, "opening the SQLite file anew");
        }
        let connection = opener(path, self.history)?;
        let identity = Identity::of(path)?;
        if now.is_some_and(|before| before != identity) {
            return Err(Fault::Unreachable(format!("{} was replaced while it was opened", path.display())));
        }
        self.history.opened = true;
        Ok((connection, identity))
    }
}

impl Identity {
    pub(super) fn of(path: &Path) -> Result<Self, Fault> {
        let metadata = fs::metadata(path).map_err(|error| Fault::io("look at", path, &error))?;
        Ok(Self(metadata.dev(), metadata.ino()))
    }
}
