//! `keymoot manifest`

use anyhow::Context as _;
use clap::Subcommand;
use keymoot_api::upkeep::{ConfirmRequest, ManifestAnswer};
use keymoot_types::Digest;

use crate::{cli::Context, exit::Exit};

/// Settle which manifest a node follows, when it has none or disagrees with the store
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Follow exactly this stored manifest: on a node that has none, or whose own is older
    #[command(after_help = "\
`keymoot status` shows revision and digest. Compare them with another node's, or with a backup's
(`keymoot inspect manifest.json`), before you confirm: what you name is what the node believes.

Example:
  keymoot manifest confirm 12 b981… --control-addr https://db2:8201")]
    Confirm {
        /// Its revision
        revision: u64,
        /// Its digest, 64 hex digits
        digest: Digest,
    },
    /// Publish this unlocked node's manifest again, above everything that was seen: the store is older or another's
    #[command(after_help = "Example:\n  keymoot manifest republish --control-addr https://db1:8201")]
    Republish,
}

/// Runs one of them, on the one node that is addressed: which manifest is right differs from node to node.
pub(crate) async fn run(context: &Context, command: Command) -> anyhow::Result<Exit> {
    let control = context.connect.settle()?.control()?;
    let (answer, done) = match command {
        Command::Confirm { revision, digest } => {
            let request = ConfirmRequest { revision, digest };
            (control.manifest_confirm(&request).await.context("confirming the manifest")?, "is confirmed")
        }
        Command::Republish => {
            (control.manifest_republish().await.context("publishing the manifest again")?, "is in force")
        }
    };
    context.out.result(&answer, |answer: &ManifestAnswer| {
        format!("revision {} with digest {} {done}\n", answer.revision, answer.digest)
    })?;
    Ok(Exit::Done)
}
