//! `keymoot census`

use std::time::Duration;

use anyhow::Context as _;
use keymoot_api::census::{CensusAnswer, CensusRequest};
use keymoot_types::SourceName;

use crate::{
    cli::Context,
    exit::Exit,
    output::{note, table},
};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// Count every row of every source, by version
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every row is in exactly one class. Foreign: no value of ours. Unreadable: begins as one and is none.

Examples:
  keymoot census
  keymoot census --latest --output json")]
pub(crate) struct Args {
    /// Show the latest counts; count nothing
    #[arg(long)]
    latest: bool,
    /// Count this source; repeat it for each [default: all]
    #[arg(long = "source", value_name = "SOURCE", conflicts_with = "latest")]
    sources: Vec<SourceName>,
}

/// Counts and shows.
pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<Exit> {
    let control = context.connect.settle()?.control()?;
    let mut answer = if args.latest {
        control.census().await.context("asking for the latest census")?
    } else {
        let sources = (!args.sources.is_empty()).then_some(args.sources);
        let started = control.census_start(&CensusRequest { sources }).await.context("starting a census")?;
        note("counting…");
        started
    };
    while !args.latest && answer.running {
        tokio::time::sleep(INTERVAL).await;
        answer = control.census().await.context("waiting for the census")?;
    }
    context.out.result(&answer, text)?;
    Ok(Exit::Done)
}

fn text(answer: &CensusAnswer) -> String {
    let rows = answer.sources.iter().map(|source| {
        let versions: Vec<_> =
            source.versions.iter().map(|count| format!("v{}: {}", count.version, count.count)).collect();
        let conclusive = match &source.why_not {
            None if source.conclusive => "yes".to_owned(),
            None => "no".to_owned(),
            Some(why_not) => format!("no: {why_not}"),
        };
        [
            source.name.to_string(),
            versions.join(", "),
            source.null.to_string(),
            source.empty.to_string(),
            source.foreign.to_string(),
            source.unreadable.to_string(),
            source.rows.to_string(),
            conclusive,
            source.taken_at.to_string(),
        ]
    });
    table(["source", "values", "null", "empty", "foreign", "unreadable", "rows", "conclusive", "taken"], rows)
}
