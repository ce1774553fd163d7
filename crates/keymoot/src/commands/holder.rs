//! `keymoot holder`

mod asked;
mod consent;
mod open;
mod prove;

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Subcommand;
use serde_json::json;

use crate::{cli::Context, exit::Exit, files, identity, output::note};

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
        /// Without a passphrase: whoever gets the file can open your packages
        #[arg(long, conflicts_with = "passphrase_file")]
        no_passphrase: bool,
    },
    /// Open a package to a parts file, check what is in it, and prove it to a node if one can be reached
    #[command(after_help = "\
The checksum is checked here; keyring and digest by the node, which records that the share arrived. If no node can do
that now, the file is written all the same and the command says that it was not checked: run `keymoot holder prove`
later. A share that the node refuses ends with exit code 1.

Example:
  keymoot holder open ann.age --identity ~/keymoot-identity.age --out ann.parts")]
    Open {
        /// The file that the operator sent you; it ends in .age
        package: PathBuf,
        /// Your identity, from `keymoot holder keygen`
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
    #[command(after_help = "\
One node is enough: of the profile's nodes the first that answers is asked, and those before it are named.

Examples:
  keymoot holder prove ann.parts
  keymoot holder prove ann.parts --node https://db2:8201")]
    Prove {
        /// Your parts file, from `keymoot holder open`; - is stdin
        file: PathBuf,
        /// Control address of a node; repeat it for more [default: the profile's nodes]
        #[arg(long = "node", value_name = "URL")]
        nodes: Vec<String>,
    },
    /// Look at what an operator asked for, and consent to it with your share
    #[command(after_help = "\
All that is asked for is shown, and its digest is worked out here from what is shown; a node that says another one gets
no share. Look above all at the recipients: whoever owns them reads the shares. Ask the person who asked you, by voice.

Examples:
  keymoot holder consent 0198c7f2-… ann.parts
  keymoot holder consent 0198c7f2-… ann.parts --yes     without a question, after looking")]
    Consent {
        /// Id of the request, from the operator
        request: String,
        /// Your parts file of the primary version; - is stdin
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
            open::run(context, &package, &identity, passphrase_file.as_deref(), out).await
        }
        Command::Prove { file, nodes } => prove::run(context, &file, &nodes).await,
        Command::Consent { request, file, yes } => consent::run(context, &request, &file, yes).await,
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
