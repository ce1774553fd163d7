//! `keymoot init`

use std::path::PathBuf;

use anyhow::Context as _;
use keymoot_api::init::{HolderSpec, InitRequest};
use keymoot_types::{KeyVersion, KeyringId, KeyringName};
use serde::Serialize;

use super::packages::{self, Written};
use crate::{
    arguments,
    cli::Context,
    exit::{Exit, wrong_usage},
    output::note,
};

/// Make the keyring through a running node: a root key is made, split, handed out as packages, and wiped
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every holder first runs `keymoot holder keygen` and sends you the line that begins with age1.

Example:
  keymoot init --threshold 2 --holder ann=age1… --holder bob=age1… --holder eve=age1… --out packages

Without a recipient a package is the share itself; the node takes that only with allow_plain_packages.")]
pub(crate) struct Args {
    /// How many shares are enough to rebuild the key
    #[arg(long, value_parser = clap::value_parser!(u8).range(2..))]
    threshold: u8,
    /// A holder, and the line age1… that they sent: their package opens for them alone. Repeat it for each
    #[arg(long = "holder", required = true, value_name = "NAME[=AGE_RECIPIENT]", value_parser = arguments::holder)]
    holders: Vec<HolderSpec>,
    /// Number of the first version, where another system had some before [default: 1]
    #[arg(long, value_name = "N", value_parser = arguments::version)]
    first_version: Option<KeyVersion>,
    /// Directory for the packages
    #[arg(long, value_name = "DIR", default_value = "packages")]
    out: PathBuf,
    /// Name of the keyring [default: as in the node's configuration]
    #[arg(long, value_name = "NAME")]
    keyring: Option<KeyringName>,
}

#[derive(Serialize)]
struct Made {
    keyring: KeyringName,
    keyring_id: KeyringId,
    version: KeyVersion,
    threshold: u8,
    packages: Vec<Written>,
}

/// Makes the keyring and writes the packages.
pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<Exit> {
    if usize::from(args.threshold) > args.holders.len() {
        let have = args.holders.len();
        return Err(wrong_usage(format!("{} shares needed, and {have} holders named", args.threshold)));
    }
    let control = context.connect.settle()?.control()?;
    let keyring = match args.keyring {
        Some(keyring) => keyring,
        None => control.status().await.context("asking for the keyring's name")?.keyring,
    };
    packages::prepare(&args.out, args.holders.iter().map(|holder| &holder.name))?;
    let request = InitRequest {
        keyring: keyring.clone(),
        threshold: args.threshold,
        holders: args.holders,
        first_version: args.first_version,
    };
    let answer = control.init(&request).await.context("making the keyring")?;
    let packages = packages::write(&args.out, &answer.packages).context(
        "the keyring was made and not all packages are safe: run init again, as it was not unlocked yet",
    )?;
    let made = Made {
        keyring,
        keyring_id: answer.keyring_id,
        version: answer.version,
        threshold: args.threshold,
        packages,
    };
    context.out.result(&made, |made| packages::show(&made.packages))?;
    note(format!(
        "keyring {} ({}) is made, at v{}, and sealed. These packages exist nowhere else: hand each to its holder, \
         who opens it with `keymoot holder open`. Any {} of them unlock it with `keymoot unlock FILE`.",
        made.keyring, made.keyring_id, made.version, made.threshold
    ));
    Ok(Exit::Done)
}
