//! One daemon for one `data_dir`, and none while a backup is put back: an advisory lock on a file in it, which the
//! system lets go of when the process ends, however it ends.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use crate::durable;

/// Held as long as the directory is in use.
#[derive(Debug)]
pub struct Occupied {
    _lock: File,
}

/// Why the directory can't be had.
#[derive(Debug, thiserror::Error)]
pub enum OccupiedError {
    /// Another process has it.
    #[error("a daemon runs on {0}: stop it first")]
    InUse(String),
    /// The file can't be made or locked.
    #[error("can't lock {0}: {1}")]
    Io(String, io::Error),
}

impl Occupied {
    /// Takes the directory, and makes it where there is none. Waits for nobody.
    pub fn take(data_dir: &Path) -> Result<Self, OccupiedError> {
        let path = data_dir.join("lock");
        let failed = |error| OccupiedError::Io(path.display().to_string(), error);
        durable::create_dir(data_dir).map_err(failed)?;
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = lock.map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(OccupiedError::InUse(data_dir.display().to_string())),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_had_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Occupied::take(dir.path()).unwrap();
        assert!(matches!(Occupied::take(dir.path()), Err(OccupiedError::InUse(_))));
        drop(first);
        Occupied::take(dir.path()).unwrap();
        Occupied::take(&dir.path().join("made/on/the/way")).unwrap();
        assert!(matches!(Occupied::take(&dir.path().join("lock")), Err(OccupiedError::Io(..))));
    }
}
