//! `keymoot status`

use std::{io::IsTerminal as _, time::Duration};

use anyhow::Context as _;
use keymoot_api::status::{ManifestOrigin, StatusAnswer};

use super::parts;
use crate::{
    cli::Context,
    exit::Exit,
    output::{note, printable, table, yes_no},
};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(2);
/// Moves to the top left and clears what is below.
const CLEAR: &str = "\u{1b}[H\u{1b}[J";

/// Show how the node is; ends with what needs a person and with the way back that is open
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without a token names of holders, sources and peers are not shown.

Examples:
  keymoot status
  keymoot status --watch")]
pub(crate) struct Args {
    /// Show it again every two seconds, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// Shows the status, once or again and again.
pub(crate) async fn run(context: &Context, args: &Args) -> anyhow::Result<Exit> {
    let control = context.connect.settle()?.control()?;
    if !args.watch {
        let status = control.status().await.context("asking for the status")?;
        context.out.result(&status, text)?;
        return Ok(Exit::Done);
    }
    let terminal = std::io::stdout().is_terminal() && !context.out.is_json();
    loop {
        // A node that restarts is what one watches for: no end to the watching.
        match control.status().await {
            Ok(status) => {
                if terminal {
                    context.out.raw(CLEAR)?;
                }
                context.out.result(&status, text)?;
            }
            Err(error) => note(format!("no status: {}", printable(&error.to_string()))),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn text(status: &StatusAnswer) -> String {
    let id = status.keyring_id.map_or_else(|| "not made yet".into(), |id| id.to_string());
    let origin = match status.manifest {
        ManifestOrigin::Store => "the store's",
        ManifestOrigin::LastGood => "the last good one",
    };
    let mut text = format!(
        "node {} is {}\nkeyring {} ({id}), manifest revision {}, {origin}\n",
        status.node, status.state, status.keyring, status.revision
    );
    if !status.versions.is_empty() {
        text.push_str(&parts::versions_table(&status.versions));
    }
    if let Some(peers) = status.peers.as_ref().filter(|peers| !peers.is_empty()) {
        text.push_str(&table(
            ["peer", "revision", "validated", "seen"],
            peers.iter().map(|peer| {
                let validated: Vec<_> = peer.validated.iter().map(|version| format!("v{version}")).collect();
                let seen = peer.seen_at.map_or_else(|| "never".into(), |at| at.to_string());
                [peer.node.to_string(), peer.revision.to_string(), validated.join(" "), seen]
            }),
        ));
    }
    if let Some(sources) = status.sources.as_ref().filter(|sources| !sources.is_empty()) {
        text.push_str(&table(
            ["source", "reachable", "detail"],
            sources.iter().map(|source| {
                [source.name.to_string(), yes_no(source.reachable), source.detail.clone().unwrap_or_default()]
            }),
        ));
    }
    if let Some(samples) = status.samples.as_ref().filter(|samples| !samples.is_empty()) {
        text.push_str(&table(
            ["sample of", "version", "authenticated"],
            samples.iter().map(|sample| {
                let share = format!("{} of {}", sample.authenticated, sample.tried);
                [sample.source.to_string(), format!("v{}", sample.version), share]
            }),
        ));
    }
    if status.needs.is_empty() {
        text.push_str("needs nobody\n");
    }
    for need in &status.needs {
        text.push_str(&format!("needs a person: {}\n", printable(need)));
    }
    text.push_str(&format!("way back: {}\n", printable(&status.way_back)));
    text
}
