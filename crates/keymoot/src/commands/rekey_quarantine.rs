//! `keymoot rekey quarantine`

use anyhow::Context as _;
use clap::Subcommand;
use keymoot_api::rekey::QuarantinedRow;
use keymoot_client::Control;
use keymoot_types::SourceName;
use serde_json::json;

use super::rekey::{JobArgs, changed};
use crate::{
    cli::Context,
    exit::Exit,
    output::{note, table},
};

/// Which rows, or what to do with them.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(flatten)]
    job: JobArgs,
    /// Only the rows of this source
    #[arg(long, value_name = "SOURCE")]
    source: Option<SourceName>,
    #[command(subcommand)]
    deed: Option<Deed>,
}

#[derive(Debug, Subcommand)]
enum Deed {
    /// Try them again after a repair: those that are gone or readable leave the list
    #[command(after_help = "Example:\n  keymoot rekey quarantine retry")]
    Retry(JobArgs),
}

/// Lists the rows by source, key and reason, never by what they hold; done in part where there are any.
pub(crate) async fn run(context: &Context, control: &Control, args: Args) -> anyhow::Result<Exit> {
    if let Some(Deed::Retry(job)) = args.deed {
        return changed(context, control.rekey_quarantine_retry(&job.find(control).await?).await?);
    }
    let id = args.job.find(control).await?;
    let rows = list(control, &id, args.source.as_ref()).await?;
    context.out.result(&json!({"rows": rows}), |_| {
        table(
            ["source", "row", "version", "reason"],
            rows.iter().map(|row| {
                let version = row.version.map(|version| format!("v{version}")).unwrap_or_default();
                [row.source.to_string(), row.id.to_string(), version, row.reason.clone()]
            }),
        )
    })?;
    if rows.is_empty() {
        return Ok(Exit::Done);
    }
    note("repair or delete them, then: keymoot rekey quarantine retry");
    Ok(Exit::Partly)
}

async fn list(control: &Control, id: &str, source: Option<&SourceName>) -> anyhow::Result<Vec<QuarantinedRow>> {
    let mut rows = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = control.rekey_quarantine(id, source, after.as_deref()).await.context("asking for the rows")?;
        rows.extend(page.rows);
        // A page that names itself as the next would never end.
        if page.next.is_none() || page.next == after {
            return Ok(rows);
        }
        after = page.next;
    }
}
