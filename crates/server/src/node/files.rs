//! What a node keeps in `data_dir` besides the metadata store: the last good manifest, and that it was unlocked.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use keymoot_types::manifest::ManifestDocument;

use crate::durable;

/// Longer than a manifest of 255 holders and hundreds of versions.
const MANIFEST_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The files of one node.
pub(crate) struct Files {
    data_dir: PathBuf,
}

/// What stood in the place of the last good manifest.
pub(crate) enum LastGood {
    /// There never was one, or it was removed.
    Absent,
    /// The manifest.
    Good(Box<ManifestDocument>),
    /// Something that is no manifest: why.
    Damaged(String),
}

impl Files {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.into() }
    }

    fn manifest(&self) -> PathBuf {
        self.data_dir.join("manifest.json")
    }

    fn unlocked(&self) -> PathBuf {
        self.data_dir.join("unlocked-once")
    }

    /// A file whose presence pauses every job on this node.
    pub(crate) fn kill_switch(&self) -> PathBuf {
        self.data_dir.join("pause-rekey")
    }

    /// Reads the last good manifest.
    pub(crate) fn last_good(&self) -> LastGood {
        let path = self.manifest();
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return LastGood::Absent,
            Err(error) => return LastGood::Damaged(format!("{}: {error}", path.display())),
            Ok(facts) if facts.len() > MANIFEST_BYTES_MAX => {
                return LastGood::Damaged(format!("{} has {} bytes", path.display(), facts.len()));
            }
            Ok(_) => {}
        }
        let read = fs::read(&path)
            .map_err(|error| error.to_string())
            .and_then(|bytes| ManifestDocument::parse(&bytes).map_err(|error| error.to_string()));
        match read {
            Ok(document) => LastGood::Good(Box::new(document)),
            Err(error) => LastGood::Damaged(format!("{}: {error}", path.display())),
        }
    }

    /// Writes it atomically: a crash leaves the old one or the new one.
    pub(crate) fn write_last_good(&self, document: &ManifestDocument) -> io::Result<()> {
        durable::replace(&self.manifest(), |file| file.write_all(document.canonical()))
    }

    /// Whether this keyring was ever unlocked here: from then on `init` is over.
    pub(crate) fn was_unlocked(&self) -> bool {
        self.unlocked().exists()
    }

    /// Remembers that it was.
    pub(crate) fn remember_unlocked(&self) -> io::Result<()> {
        let path = self.unlocked();
        // A crash may have come between the file and its name.
        if path.exists() { durable::sync_name(&path) } else { durable::create(&path, b"") }
    }
}
