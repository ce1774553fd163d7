//! `keymoot holder open`

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use keymoot_api::unlock::{Parts, PartsAnswer, PartsRequest};
use keymoot_types::{
    KeyVersion, Share,
    part::{PartName, PartsFile},
};
use serde::Serialize;

use super::prove;
use crate::{
    cli::Context,
    exit::{Exit, wrong_usage},
    files, identity,
    output::{note, printable},
};

const PACKAGE_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Serialize)]
struct Opened {
    file: PathBuf,
    versions: Vec<KeyVersion>,
    /// What a node said to the shares; none if no node could be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    proved: Option<PartsAnswer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_checked: Option<String>,
}

/// Opens the package, writes the parts file, and only then proves it: what was proved is on the disk.
pub(super) async fn run(
    context: &Context,
    package: &Path,
    identity: &Path,
    passphrase_file: Option<&Path>,
    out: Option<PathBuf>,
) -> anyhow::Result<Exit> {
    let out = out.unwrap_or_else(|| package.with_extension("parts"));
    if out.exists() {
        bail!("{} exists already and is never overwritten", out.display());
    }
    let sealed = files::read(package, PACKAGE_BYTES_MAX)?;
    if !identity::is_age_file(&sealed) {
        return Err(wrong_usage(format!(
            "{} is no age file; a plain package is a parts file already",
            package.display()
        )));
    }
    let identity = identity::read(identity, || identity::passphrase(passphrase_file, false))?;
    let opened = identity::open(&identity, &sealed)?;
    let (parts, versions) = check(&opened).context("the package opens, but what is in it is no parts file")?;
    files::write_private(&out, &opened)?;
    let checked = match context.connect.settle() {
        Ok(connection) => prove::to_any(&connection, &[], &PartsRequest { parts }).await,
        Err(error) => Err(error),
    };
    let (proved, not_checked) = match checked {
        Ok(answer) => (Some(answer), None),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    let opened = Opened { file: out, versions, proved, not_checked };
    context.out.result(&opened, text)?;
    let file = opened.file.display();
    match &opened.proved {
        Some(answer) if answer.rejected.is_empty() => note("all is well: checksum, keyring and digest are right"),
        Some(_) => note(format!("NOT all is well: don't rely on {file} before you have spoken with the operator")),
        None => note(format!(
            "the checksum is right; keyring and digest were NOT checked: `keymoot holder prove {file}` does it later"
        )),
    }
    Ok(opened.proved.as_ref().map_or(Exit::Done, prove::exit))
}

fn text(opened: &Opened) -> String {
    let versions: Vec<_> = opened.versions.iter().map(|version| format!("v{version}")).collect();
    let mut text = format!("{} written to {}\n", versions.join(", "), opened.file.display());
    text.push_str(&opened.proved.as_ref().map(prove::text).unwrap_or_default());
    if let Some(reason) = &opened.not_checked {
        text.push_str(&format!("not checked by a node: {}\n", printable(reason)));
    }
    text
}

/// The shares and their versions, each of which must read well.
fn check(opened: &[u8]) -> anyhow::Result<(Parts, Vec<KeyVersion>)> {
    let file = PartsFile::parse(std::str::from_utf8(opened).context("it is not text")?)?;
    let mut versions = Vec::new();
    for (name, text) in &file.lines {
        let share = Share::parse(text).with_context(|| printable(name))?;
        if name.parse::<PartName>()?.version != share.version() {
            bail!("{} names another version than its share, v{}", printable(name), share.version());
        }
        versions.push(share.version());
    }
    Ok((Parts(file.lines), versions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_with_a_broken_share_is_found_out_at_home() {
        assert!(check(b"prod-keyPart-v9: kmshare1x\n").is_err());
        assert!(check(b"nothing").is_err());
    }
}
