//! `keymoot versions`

use anyhow::Context as _;

use crate::{
    cli::Context,
    exit::Exit,
    output::{table, yes_no},
};

/// List the key versions, with their states and who has proved them
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keymoot versions --output json | jq '.versions[] | {version, state}'")]
pub(crate) struct Args {}

/// Lists them.
pub(crate) async fn run(context: &Context) -> anyhow::Result<Exit> {
    let answer = context.connect.settle()?.control()?.versions().await.context("asking for the versions")?;
    context.out.result(&answer, |answer| {
        let rows = answer.versions.iter().map(|version| {
            let proved = version.holders.iter().filter(|holder| holder.proved_at.is_some()).count();
            [
                format!("v{}", version.version),
                version.state.to_string(),
                version.key_id.to_string(),
                format!("{:.0}", version.created),
                yes_no(version.validated),
                format!("{} of {}", version.threshold, version.holders.len()),
                proved.to_string(),
                version.last_used.map_or_else(String::new, |at| format!("{at:.0}")),
            ]
        });
        table(["version", "state", "key id", "made", "loaded", "needs", "proved by", "last used"], rows)
    })?;
    Ok(Exit::Done)
}
