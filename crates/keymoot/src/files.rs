//! Files that hold secrets: read whole with a limit, written for their owner alone, never over another.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use anyhow::{Context as _, bail};
use keymoot_api::unlock::{Parts, PartsRequest};
use keymoot_server::durable;
use keymoot_types::{Wiped, part::PartsFile};

use crate::{exit::wrong_usage, identity, output::note};

/// The longest token, CA or profile file.
pub(crate) const CONFIGURATION_BYTES_MAX: u64 = 1024 * 1024;

/// The path that stands for stdin.
const STDIN: &str = "-";

/// Reads a file, or stdin for `-`.
pub(crate) fn read(path: &Path, bytes_max: u64) -> anyhow::Result<Wiped> {
    let read = || -> anyhow::Result<Wiped> {
        if path == Path::new(STDIN) {
            return read_from(io::stdin().lock(), bytes_max);
        }
        read_from(File::open(path)?, bytes_max)
    };
    read().with_context(|| format!("can't read {}", path.display()))
}

fn read_from(source: impl Read, bytes_max: u64) -> anyhow::Result<Wiped> {
    let mut bytes = Wiped::default();
    source.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        bail!("it is longer than {bytes_max} bytes");
    }
    Ok(bytes)
}

/// Reads a parts file, or stdin for `-`, as a request.
pub(crate) fn read_parts(path: &Path) -> anyhow::Result<PartsRequest> {
    let bytes = read(path, PartsFile::BYTES_MAX as u64)?;
    if identity::is_age_file(&bytes) {
        let path = path.display();
        return Err(wrong_usage(format!(
            "{path} is a package, still closed: `keymoot holder open {path}` opens it"
        )));
    }
    let file = std::str::from_utf8(&bytes)
        .map_err(|_| "it is not text".to_owned())
        .and_then(|text| PartsFile::parse(text).map_err(|error| error.to_string()))
        .map_err(|reason| wrong_usage(format!("{}: {reason}", path.display())))?;
    warn_if_readable_by_others(path);
    Ok(PartsRequest { parts: Parts(file.lines) })
}

/// Writes a new file that only its owner can read. One that exists already stays as it is.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    durable::create(path, content)
        .with_context(|| format!("can't write {} (a file that exists is never overwritten)", path.display()))
}

/// Makes a directory that only its owner can enter; one that exists will do.
pub(crate) fn create_private_dir(path: &Path) -> anyhow::Result<()> {
    durable::create_dir(path).with_context(|| format!("can't make the directory {}", path.display()))
}

/// A secret in a file that others can read is pointed out, not refused: it is the reader's own file.
pub(crate) fn warn_if_readable_by_others(path: &Path) {
    if let Ok(metadata) = fs::metadata(path)
        && metadata.is_file()
        && metadata.permissions().mode() & 0o077 != 0
    {
        note(format!("warning: others can read {0}; `chmod 600 {0}` keeps it yours", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_written_for_its_owner_alone_and_never_over_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new").join("ann.parts");
        create_private_dir(path.parent().unwrap()).unwrap();
        write_private(&path, b"one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write_private(&path, b"two").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"one");
    }

    #[test]
    fn a_file_over_its_limit_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long");
        fs::write(&path, [b'x'; 11]).unwrap();
        assert!(read(&path, 10).is_err());
        assert_eq!(read(&path, 11).unwrap().len(), 11);
    }
}
