//! `keymoot holder`

use std::{
    io::{self, BufRead as _, IsTerminal as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use keymoot_api::{
    rotate::{ConsentRequest, ConsentState, RequestDetail},
    unlock::{Parts, PartsRequest},
};
use keymoot_client::Control;
use keymoot_types::{
    KeyVersion, KeyringId, Share, VersionState,
    part::{PartName, PartsFile},
};
use serde_json::json;

use super::{parts, unlock};
use crate::{
    cli::Context,
    exit::{Exit, wrong_usage},
    files, identity,
    output::{note, printable, table},
};

const PACKAGE_BYTES_MAX: u64 = 1024 * 1024;

/// A holder's own side: an identity, opening a package, proving and consenting
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make an age identity, protected by a passphrase; send the operator the line that begins with age1
    #[command(after_help = "\
Example:
  keymoot holder keygen --out ~/keymoot-identity.age

For automation the passphrase comes from KEYMOOT_PASSPHRASE or --passphrase-file.")]
    Keygen {
        /// File for the identity; never overwritten
        #[arg(long, value_name = "FILE", default_value = "keymoot-identity.age")]
        out: PathBuf,
        /// File with the passphrase
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
        /// Protect the identity by the file's mode alone
        #[arg(long, conflicts_with = "passphrase_file")]
        no_passphrase: bool,
    },
    /// Open a package to a parts file, and check what is in it
    #[command(
        after_help = "Example:\n  keymoot holder open ann.age --identity ~/keymoot-identity.age --out ann.parts"
    )]
    Open {
        /// The package
        package: PathBuf,
        /// Your identity
        #[arg(long, value_name = "FILE", default_value = "keymoot-identity.age")]
        identity: PathBuf,
        /// File with its passphrase
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
        /// Parts file to write; never overwritten [default: the package's name with .parts]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Prove that you have your shares: each is compared, recorded and wiped
    #[command(after_help = "Example:\n  keymoot holder prove ann.parts")]
    Prove {
        /// Parts file; - is stdin
        file: PathBuf,
    },
    /// Look at what an operator asked for, and consent to it with your share
    #[command(after_help = "Example:\n  keymoot holder consent 0198c7f2-… ann.parts")]
    Consent {
        /// Id of the request
        request: String,
        /// Parts file; - is stdin
        file: PathBuf,
        /// Consent without being asked
        #[arg(long)]
        yes: bool,
    },
}

/// Runs one of them.
pub(crate) async fn run(context: &Context, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Keygen { out, passphrase_file, no_passphrase } => {
            keygen(context, &out, passphrase_file.as_deref(), no_passphrase)
        }
        Command::Open { package, identity, passphrase_file, out } => {
            open(context, &package, &identity, passphrase_file.as_deref(), out).await
        }
        Command::Prove { file } => unlock::prove(context, &file).await,
        Command::Consent { request, file, yes } => consent(context, &request, &file, yes).await,
    }
}

fn keygen(
    context: &Context,
    out: &Path,
    passphrase_file: Option<&Path>,
    no_passphrase: bool,
) -> anyhow::Result<Exit> {
    if out.exists() {
        bail!("{} exists already and is never overwritten", out.display());
    }
    let passphrase = if no_passphrase { None } else { Some(identity::passphrase(passphrase_file, true)?) };
    let made = age::x25519::Identity::generate();
    files::write_private(out, identity::write(&made, passphrase)?.as_bytes())?;
    let recipient = made.to_public().to_string();
    context.out.result(&json!({"recipient": recipient, "file": out}), |_| recipient.clone())?;
    note(format!(
        "your identity is in {}: keep it and its passphrase; send the operator the line above",
        out.display()
    ));
    Ok(Exit::Done)
}

async fn open(
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
    let shares = check(&opened).context("the package opens, but what is in it is no parts file")?;
    files::write_private(&out, &opened)?;
    let versions: Vec<_> = shares.iter().map(|(version, _)| version.get()).collect();
    context.out.result(&json!({"file": out, "versions": versions}), |_| {
        shares
            .iter()
            .map(|(version, _)| format!("v{version}: checksum right; written to {}\n", out.display()))
            .collect()
    })?;
    compare_keyring(context, &shares).await;
    Ok(Exit::Done)
}

/// The versions and keyrings of the shares, each of which must read well.
fn check(opened: &[u8]) -> anyhow::Result<Vec<(KeyVersion, KeyringId)>> {
    let file = PartsFile::parse(std::str::from_utf8(opened).context("it is not text")?)?;
    let mut shares = Vec::new();
    for (name, text) in &file.lines {
        let share = Share::parse(text).with_context(|| printable(name))?;
        if name.parse::<PartName>()?.version != share.version() {
            bail!("{} names another version than its share, v{}", printable(name), share.version());
        }
        shares.push((share.version(), share.keyring_id()));
    }
    Ok(shares)
}

/// Whether the node serves the keyring of these shares. A help and no condition: the node may be far away.
async fn compare_keyring(context: &Context, shares: &[(KeyVersion, KeyringId)]) {
    let Ok(control) = context.connect.settle().and_then(|connection| connection.control()) else { return };
    let Ok(status) = control.status().await else {
        note("no node was reached, so the keyring was not compared; `keymoot holder prove` does it later");
        return;
    };
    for (version, keyring_id) in shares.iter().filter(|(_, id)| Some(*id) != status.keyring_id) {
        note(format!("warning: v{version} is of keyring {keyring_id}, and the node serves another one"));
    }
}

async fn consent(context: &Context, id: &str, file: &Path, yes: bool) -> anyhow::Result<Exit> {
    let control = context.connect.settle()?.control()?;
    let detail = control.request_detail(id).await.context("looking at the request")?;
    note(describe(&detail));
    let version = consent_version(&control, &detail).await?;
    let parts = part_of(files::read_parts(file)?, version).ok_or_else(|| {
        wrong_usage(format!("{} has no share of v{version}, which is asked for", file.display()))
    })?;
    if !yes && !asked()? {
        note("not consented");
        return Ok(Exit::Failed);
    }
    let answer =
        control.consent(id, &ConsentRequest { digest: detail.digest, parts }).await.context("consenting")?;
    parts::note_rejected(&answer.rejected);
    context.out.result(&answer, |answer| match (answer.state, answer.version) {
        (ConsentState::Version(state), Some(version)) => format!("v{version} is {state}\n"),
        (ConsentState::Version(state), None) => format!("the version is {state}\n"),
        (ConsentState::Node(_), _) => format!("{} of {} consents\n", answer.have, answer.needed),
    })?;
    // This holder has done their part: that others are still to come is no failure of theirs.
    Ok(if answer.rejected.iter().all(parts::is_harmless) { Exit::Done } else { Exit::Failed })
}

/// Whose shares count: the primary's, but for an import the version's own.
async fn consent_version(control: &Control, detail: &RequestDetail) -> anyhow::Result<KeyVersion> {
    if let Some(version) = detail.consent_version {
        return Ok(version);
    }
    if let ("import", Some(version)) = (detail.operation.as_str(), detail.version) {
        return Ok(version);
    }
    let status = control.status().await.context("asking which version is primary")?;
    let primary = status.versions.iter().find(|version| version.state == VersionState::Primary);
    primary.map(|version| version.version).context("the node knows of no primary version")
}

/// The one part of that version; the others stay at home.
fn part_of(request: PartsRequest, version: KeyVersion) -> Option<Parts> {
    let of_version = |name: &str| name.parse::<PartName>().is_ok_and(|name| name.version == version);
    request.parts.0.into_iter().find(|(name, _)| of_version(name)).map(|part| Parts(vec![part]))
}

fn describe(detail: &RequestDetail) -> String {
    let mut text = format!("request {}\noperation {}\n", printable(&detail.id), printable(&detail.operation));
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!("{name} {}\n", printable(&value)));
        }
    };
    line("version", detail.version.map(|version| format!("v{version}")));
    line("threshold", detail.threshold.map(|threshold| threshold.to_string()));
    line("reason", detail.reason.clone());
    line("witness", detail.witness.clone());
    line("source", detail.source.as_ref().map(ToString::to_string));
    let members: Vec<_> = detail.members.iter().map(ToString::to_string).collect();
    line("members", (!members.is_empty()).then(|| members.join(" ")));
    line("for", detail.duration.map(|duration| duration.to_string()));
    line("asked by", detail.requested_by.clone());
    line("open until", detail.expires_at.map(|at| at.to_string()));
    line("digest", Some(detail.digest.to_string()));
    line("consents", Some(format!("{} of {}", detail.have, detail.needed)));
    if !detail.holders.is_empty() {
        let rows = detail.holders.iter().map(|holder| {
            let recipient = holder.recipient.clone();
            [holder.name.to_string(), recipient.unwrap_or_else(|| "none: the package is the share itself".into())]
        });
        text.push_str(&table(["holder", "recipient"], rows));
    }
    text
}

fn asked() -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(wrong_usage("no terminal to ask on: look at the request above, then say --yes"));
    }
    note("Do you consent to exactly this? Your share is used, recorded and wiped. [y/N]");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_share_that_is_asked_for_leaves_the_file() {
        let file = PartsFile::parse("prod-keyPart-v10: b\nprod-keyPart-v9: a\n").unwrap();
        let request = PartsRequest { parts: Parts(file.lines) };
        let parts = part_of(request, "9".parse().unwrap()).unwrap();
        assert_eq!(parts.0.len(), 1);
        assert_eq!(parts.0[0].0, "prod-keyPart-v9");
    }

    #[test]
    fn a_package_with_a_broken_share_is_found_out_at_home() {
        assert!(check(b"prod-keyPart-v9: kmshare1x\n").is_err());
        assert!(check(b"nothing").is_err());
    }
}
