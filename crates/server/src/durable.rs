//! Files and directories that a power cut does not take with it: what was written is on disk, and so is its name.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

/// The directory that a name stands in.
fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A name is durable only once its directory is.
///
/// # Errors
/// What the system says.
pub fn sync_name(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}

/// Writes a file for its owner alone, beside its place and then into it: a reader, and a crash, find the old one or the
/// new one.
///
/// # Errors
/// What the system says. The new one may stand there already, and may not last.
pub fn replace(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    // What a crash left there may have another mode.
    match fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    write(&mut file)?;
    file.sync_all()?;
    fs::rename(beside, path)?;
    sync_name(path)
}

/// Writes a new file that only its owner can read; one that exists already stays as it is.
///
/// # Errors
/// What the system says.
pub fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()?;
    sync_name(path)
}

/// Makes a directory that only its owner can enter, and what is missing above it; one that exists will do.
///
/// # Errors
/// What the system says.
pub fn create_dir(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    missing.into_iter().try_for_each(sync_name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/file.json");
        create_dir(path.parent().unwrap()).unwrap();
        create_dir(path.parent().unwrap()).unwrap();
        replace(&path, |file| file.write_all(b"one")).unwrap();
        fs::write(path.with_extension("json.new"), "left by a crash").unwrap();
        replace(&path, |file| file.write_all(b"two")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        replace(&path, |_| Err(io::ErrorKind::StorageFull.into())).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        create(&path, b"three").unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"two");
    }
}
