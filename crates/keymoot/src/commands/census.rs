//! `keymoot census`

use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use keymoot_api::census::{CensusAnswer, CensusRequest, SourceCensus};
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
    let mut before = Vec::new();
    let mut answer = if args.latest {
        control.census().await.context("asking for the latest census")?
    } else {
        let sources = (!args.sources.is_empty()).then_some(args.sources.clone());
        before = taken_at(&control.census().await.context("asking for the latest census")?, &args.sources);
        let started = control.census_start(&CensusRequest { sources }).await.context("starting a census")?;
        note("counting…");
        started
    };
    while !args.latest && answer.running {
        tokio::time::sleep(INTERVAL).await;
        answer = control.census().await.context("waiting for the census")?;
    }
    context.out.result(&answer, text)?;
    let now = taken_at(&answer, &args.sources);
    // One that is declared no longer keeps its last counts among those of all.
    let stays = |taken: &(SourceName, Timestamp)| now.contains(taken);
    let old = if args.sources.is_empty() { before.iter().all(stays) } else { before.iter().any(stays) };
    if old && !before.is_empty() {
        bail!("not counted anew: these are the counts of before; the node's log says why");
    }
    Ok(Exit::Done)
}

/// When each of these sources, or, where none is named, each of all, was counted.
fn taken_at(answer: &CensusAnswer, sources: &[SourceName]) -> Vec<(SourceName, Timestamp)> {
    let wanted = answer.sources.iter().filter(|source| sources.is_empty() || sources.contains(&source.name));
    wanted.map(|source| (source.name.clone(), source.taken_at)).collect()
}

/// What is no value of ours, and what of it needs somebody.
fn foreign(source: &SourceCensus) -> String {
    let mut text = source.foreign.to_string();
    if source.adopts && source.foreign > 0 {
        text.push_str(", to be encrypted");
    }
    if source.embedded > 0 {
        text.push_str(&format!(", {} with a value inside", source.embedded));
    }
    text
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
            foreign(source),
            source.unreadable.to_string(),
            source.rows.to_string(),
            conclusive,
            source.taken_at.to_string(),
        ]
    });
    table(["source", "values", "null", "empty", "foreign", "unreadable", "rows", "conclusive", "taken"], rows)
}
