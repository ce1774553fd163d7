//! Packages, written where holders can be handed them: one file each, for its owner alone.

use std::path::{Path, PathBuf};

use anyhow::bail;
use keymoot_api::init::Package;
use keymoot_types::HolderName;
use serde::Serialize;

use crate::{files, identity, output::table};

/// A package and where it was written.
#[derive(Debug, Serialize)]
pub(crate) struct Written {
    holder: HolderName,
    x: u8,
    /// Whether it opens with the holder's identity only; a plain one is the share itself.
    encrypted: bool,
    file: PathBuf,
}

/// Makes the directory and refuses files that are in the way, before anything is made that exists only once.
pub(crate) fn prepare<'a>(dir: &Path, holders: impl IntoIterator<Item = &'a HolderName>) -> anyhow::Result<()> {
    files::create_private_dir(dir)?;
    for holder in holders {
        for path in [path(dir, holder, true), path(dir, holder, false)] {
            if path.exists() {
                bail!("{} exists already and would be overwritten: choose another --out", path.display());
            }
        }
    }
    Ok(())
}

/// Writes every package. One that can't be written is an error only after the others were.
pub(crate) fn write(dir: &Path, packages: &[Package]) -> anyhow::Result<Vec<Written>> {
    let mut written = Vec::new();
    let mut first_error = None;
    for package in packages {
        let encrypted = identity::is_age_file(package.package.as_bytes());
        let file = path(dir, &package.holder, encrypted);
        match files::write_private(&file, package.package.as_bytes()) {
            Ok(()) => written.push(Written { holder: package.holder.clone(), x: package.x, encrypted, file }),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    match first_error {
        Some(error) => {
            Err(error.context(format!("{} of {} packages were written", written.len(), packages.len())))
        }
        None => Ok(written),
    }
}

/// What was written, for people.
pub(crate) fn show(written: &[Written]) -> String {
    let rows = written.iter().map(|package| {
        let kind = if package.encrypted { "age" } else { "plain: it is the share itself" };
        [package.holder.to_string(), package.x.to_string(), kind.into(), package.file.display().to_string()]
    });
    table(["holder", "x", "package", "file"], rows)
}

fn path(dir: &Path, holder: &HolderName, encrypted: bool) -> PathBuf {
    dir.join(format!("{holder}.{}", if encrypted { "age" } else { "parts" }))
}

#[cfg(test)]
mod tests {
    use keymoot_api::SecretText;

    use super::*;

    #[test]
    fn a_package_is_written_once_and_in_the_way_of_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let ann: HolderName = "ann".parse().unwrap();
        prepare(dir.path(), [&ann]).unwrap();
        let packages = [Package { holder: ann.clone(), x: 1, package: SecretText::new("prod-keyPart-v1: x") }];
        let written = write(dir.path(), &packages).unwrap();
        assert!(!written[0].encrypted && written[0].file.ends_with("ann.parts"));
        assert!(prepare(dir.path(), [&ann]).is_err());
        assert!(write(dir.path(), &packages).is_err());
    }
}
