//! The log's file: appended to durably or not at all, and watched.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::durable;

/// The file that is written to.
pub(super) const NAME: &str = "audit.jsonl";

/// The file as this process has it open.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// Device and inode.
    identity: (u64, u64),
    /// Where the last acknowledged line ends.
    len: u64,
    /// Number of its first line.
    first_seq: Option<u64>,
    /// A write failed and could not be taken back: bytes of ours may stand behind `len`.
    untidy: bool,
}

impl LogFile {
    /// Opens the file of `dir`, of which `len` bytes are good.
    pub(super) fn open(dir: &Path, len: u64, first_seq: Option<u64>) -> Result<Self, String> {
        let path = dir.join(NAME);
        let mut options = OpenOptions::new();
        options.read(true).append(true);
        Self::opened(path, &options, len, first_seq)
    }

    /// Begins a new file, where there is none.
    pub(super) fn begin(dir: &Path) -> Result<Self, String> {
        let path = dir.join(NAME);
        let mut options = OpenOptions::new();
        options.read(true).append(true).create_new(true).mode(0o600);
        Self::opened(path, &options, 0, None)
    }

    fn opened(path: PathBuf, options: &OpenOptions, len: u64, first_seq: Option<u64>) -> Result<Self, String> {
        let open = options.open(&path).and_then(|file| Ok((file.metadata()?, file)));
        let (facts, file) = open.map_err(|error| format!("{}: {error}", path.display()))?;
        let identity = (facts.dev(), facts.ino());
        let log = Self { path, file, identity, len, first_seq, untidy: false };
        // Whoever made it may have been killed before its name was on disk, and its lines would go with the name.
        durable::sync_name(&log.path).map_err(|error| log.trouble(&error))?;
        Ok(log)
    }

    /// Where the last acknowledged line ends.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends whole lines, the first of which has the number `seq`. When it returns, all are on disk, or none
    /// is in the log.
    pub(super) fn append(&mut self, bytes: &[u8], seq: u64) -> Result<(), String> {
        self.check()?;
        let written = (&self.file)
            .write_all(bytes)
            .and_then(|()| self.file.sync_data())
            .map_err(|error| self.trouble(&error))
            // What was written to a file that was taken away meanwhile is in no log.
            .and_then(|()| self.at_its_place());
        match written {
            Ok(()) => {
                self.len += bytes.len() as u64;
                self.first_seq.get_or_insert(seq);
                Ok(())
            }
            Err(cause) => {
                self.untidy = true;
                // Tried again before the next write.
                drop(self.tidy());
                Err(cause)
            }
        }
    }

    /// Cuts off what a failed write left.
    pub(super) fn tidy(&mut self) -> Result<(), String> {
        if self.untidy {
            self.cut().map_err(|error| self.trouble(&error))?;
            self.untidy = false;
        }
        Ok(())
    }

    /// Cuts off what stands behind the good bytes.
    pub(super) fn cut(&self) -> io::Result<()> {
        self.file.set_len(self.len)?;
        self.file.sync_data()
    }

    /// Whether the file is still the one that was opened, at its place, and as long as it was left.
    pub(super) fn check(&self) -> Result<(), String> {
        self.at_its_place()?;
        let found = self.file.metadata().map_err(|error| self.trouble(&error))?.len();
        let (path, len) = (self.path.display(), self.len);
        match found.cmp(&len) {
            _ if self.untidy => Err(format!("{path}: a write failed and could not be taken back yet")),
            std::cmp::Ordering::Less => {
                Err(format!("{path} was cut: {len} bytes were written, {found} are there"))
            }
            std::cmp::Ordering::Greater => Err(format!(
                "{path} was written to by somebody else: {len} bytes were written here, {found} are there"
            )),
            std::cmp::Ordering::Equal => Ok(()),
        }
    }

    fn at_its_place(&self) -> Result<(), String> {
        let facts = fs::metadata(&self.path).map_err(|error| self.trouble(&error))?;
        if (facts.dev(), facts.ino()) == self.identity {
            return Ok(());
        }
        let what = if facts.is_dir() { "a directory" } else { "another file" };
        Err(format!("{} was replaced by {what}", self.path.display()))
    }

    /// Gives the file away under the name of its first line, and begins a new one.
    pub(super) fn rotate(&mut self) -> Result<(), String> {
        let (Some(seq), Some(dir)) = (self.first_seq, self.path.parent()) else { return Ok(()) };
        let kept = dir.join(format!("audit-{seq:020}.jsonl"));
        if kept.exists() {
            return Err(format!("{} is in the way of a new file", kept.display()));
        }
        fs::rename(&self.path, &kept).map_err(|error| self.trouble(&error))?;
        *self = Self::begin(dir)?;
        Ok(())
    }

    fn trouble(&self, error: &io::Error) -> String {
        let path = self.path.display();
        match error.kind() {
            io::ErrorKind::NotFound => format!("{path} is gone: it was deleted or moved away"),
            _ => format!("{path}: {error}"),
        }
    }
}
