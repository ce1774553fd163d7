//! `keymoot rekey`

use anyhow::Context as _;
use clap::Subcommand;
use keymoot_api::{
    HumanDuration,
    rekey::{Job, JobAnswer, LimitsRequest, PauseRequest, RekeyRequest, Setting},
};
use keymoot_client::Control;
use keymoot_types::SourceName;

use super::{
    rekey_line, rekey_plan, rekey_quarantine,
    rekey_watch::{self, exit_of},
};
use crate::{
    arguments,
    cli::Context,
    exit::{Exit, wrong_usage},
    output::{note, printable, table},
};

/// Re-encrypt every old value where it lies, while everything keeps working
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look at the sources before the first write: rows, time, index, grants, and what stands in the way
    #[command(after_help = "\
Exit code 4 if a source has a blocker, each with its remedy.

Examples:
  keymoot rekey plan --source customers.ssn
  keymoot rekey plan --dry-run")]
    Plan {
        /// Only this source; repeat it for each [default: all]
        #[arg(long = "source", value_name = "SOURCE")]
        sources: Vec<SourceName>,
        /// Then decrypt every row and write nothing, as `start --dry-run --watch` does
        #[arg(long)]
        dry_run: bool,
    },
    /// Start a job; it goes on by itself, also after a restart and unlock
    #[command(after_help = "\
Exit code 4 if a source has a blocker, as `plan` shows it; then no job is started.

Examples:
  keymoot rekey start --watch
  keymoot rekey start --source customers.ssn --source orders.card")]
    Start {
        /// Only this source; repeat it for each [default: all]
        #[arg(long = "source", value_name = "SOURCE")]
        sources: Vec<SourceName>,
        /// Decrypt, check and count every row, write nothing
        #[arg(long)]
        dry_run: bool,
        /// Show the progress until it is over
        #[arg(long)]
        watch: bool,
    },
    /// Show how far a job is
    #[command(after_help = "Example:\n  keymoot rekey status --output json")]
    Status(JobArgs),
    /// Show the progress until the job is over; exit code 6 if rows are in quarantine
    #[command(after_help = "Ctrl-C ends the watching, not the job.\n\nExample:\n  keymoot rekey watch")]
    Watch(JobArgs),
    /// Pause a job
    #[command(after_help = "Examples:\n  keymoot rekey pause\n  keymoot rekey pause --for 2h")]
    Pause {
        #[command(flatten)]
        job: JobArgs,
        /// Resume by itself after so long
        #[arg(long = "for", value_name = "DURATION", value_parser = arguments::duration)]
        duration: Option<HumanDuration>,
    },
    /// Resume a paused job
    #[command(after_help = "Example:\n  keymoot rekey resume")]
    Resume(JobArgs),
    /// End a job; what was done stays done
    #[command(after_help = "Example:\n  keymoot rekey cancel")]
    Cancel(JobArgs),
    /// Change a job's limits while it runs, from the next batch on
    #[command(after_help = "\
Examples:
  keymoot rekey set --max-rows-per-second 500
  keymoot rekey set --max-rows-per-second none --nice-ratio 1")]
    Set {
        #[command(flatten)]
        job: JobArgs,
        /// Rows read a second, or none
        #[arg(long, value_name = "ROWS", value_parser = setting::<u64>)]
        max_rows_per_second: Option<Setting<u64>>,
        /// Sleep per unit of work (1 is a duty of one half), or none
        #[arg(long, value_name = "RATIO", value_parser = setting::<f64>)]
        nice_ratio: Option<Setting<f64>>,
        /// Chunks of rows in flight at once, from 1 to 16, or none
        #[arg(long, value_name = "CHUNKS", value_parser = setting::<u32>)]
        concurrency: Option<Setting<u32>>,
    },
    /// List the rows that could not be read, or try them again
    #[command(after_help = "\
Exit code 6 if there are any.

Examples:
  keymoot rekey quarantine --source customers.ssn
  keymoot rekey quarantine retry")]
    Quarantine(rekey_quarantine::Args),
}

/// Which job.
#[derive(Debug, clap::Args)]
pub(crate) struct JobArgs {
    /// Id of the job [default: the newest]
    id: Option<String>,
}

/// A number, or `none` to lift a limit.
fn setting<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<Setting<T>, String> {
    match text {
        "none" => Ok(Setting::Lift),
        text => text.parse().map(Setting::Set).map_err(|error| format!("{error}; or write none")),
    }
}

/// Runs one of them.
pub(crate) async fn run(context: &Context, command: Command) -> anyhow::Result<Exit> {
    let control = context.connect.settle()?.control()?;
    match command {
        Command::Plan { sources, dry_run } => {
            let sources = (!sources.is_empty()).then_some(sources);
            match rekey_plan::plan(context, &control, sources.clone(), dry_run).await? {
                Exit::Done if dry_run => start(context, &control, sources, true, true).await,
                exit => Ok(exit),
            }
        }
        Command::Start { sources, dry_run, watch } => {
            let sources = (!sources.is_empty()).then_some(sources);
            start(context, &control, sources, dry_run, watch).await
        }
        Command::Status(job) => {
            let job = control.rekey_job(&job.find(&control).await?).await.context("asking for the job")?;
            show(context, &job)
        }
        Command::Watch(job) => watch(context, &control, &job.find(&control).await?).await,
        Command::Pause { job, duration } => {
            let id = job.find(&control).await?;
            changed(context, control.rekey_pause(&id, &PauseRequest { duration }).await?)
        }
        Command::Resume(job) => changed(context, control.rekey_resume(&job.find(&control).await?).await?),
        Command::Cancel(job) => changed(context, control.rekey_cancel(&job.find(&control).await?).await?),
        Command::Set { job, max_rows_per_second, nice_ratio, concurrency } => {
            let limits = LimitsRequest {
                max_rows_per_second: max_rows_per_second.unwrap_or_default(),
                nice_ratio: nice_ratio.unwrap_or_default(),
                concurrency: concurrency.unwrap_or_default(),
            };
            if limits == LimitsRequest::default() {
                return Err(wrong_usage(
                    "nothing to set: give at least one limit, see `keymoot rekey set --help`",
                ));
            }
            changed(context, control.rekey_limits(&job.find(&control).await?, &limits).await?)
        }
        Command::Quarantine(args) => rekey_quarantine::run(context, &control, args).await,
    }
}

impl JobArgs {
    /// The id that was given, or the newest job's.
    pub(crate) async fn find(&self, control: &Control) -> anyhow::Result<String> {
        if let Some(id) = &self.id {
            return Ok(id.clone());
        }
        let jobs = control.rekey_jobs().await.context("asking for the jobs")?;
        let newest = jobs.newest.or_else(|| jobs.jobs.into_iter().next());
        newest.map(|job| job.id).context("there was no job yet: `keymoot rekey start` starts one")
    }
}

async fn start(
    context: &Context,
    control: &Control,
    sources: Option<Vec<SourceName>>,
    dry_run: bool,
    wait: bool,
) -> anyhow::Result<Exit> {
    let started = control.rekey_start(&RekeyRequest { sources, dry_run }).await.context("starting the job")?;
    if wait {
        note(format!("job {}", started.id));
        return watch(context, control, &started.id).await;
    }
    note("it is durable and goes on by itself; `keymoot rekey watch` shows how far it is");
    changed(context, started)
}

async fn watch(context: &Context, control: &Control, id: &str) -> anyhow::Result<Exit> {
    let job = rekey_watch::watch(control, id).await?;
    show(context, &job)
}

fn show(context: &Context, job: &Job) -> anyhow::Result<Exit> {
    context.out.result(job, |job| {
        let rows = job.sources.iter().map(|source| {
            [
                source.name.to_string(),
                rekey_line::of_total(source),
                source.rekeyed.to_string(),
                source.current.to_string(),
                (source.null + source.empty).to_string(),
                source.foreign.to_string(),
                source.quarantined.to_string(),
                source.conflicts.to_string(),
            ]
        });
        let dry_run = if job.dry_run { ", a dry run" } else { "" };
        let waits = job.sources.iter().filter_map(rekey_line::waits);
        let waits: String = waits.map(|waits| format!("{waits}\n")).collect();
        let why = [&job.reason, &job.throttled].into_iter().flatten();
        let mut why: String = why.map(|reason| format!(": {}", printable(reason))).collect();
        if let Some(until) = job.paused_until {
            why.push_str(&format!(" until {until}"));
        }
        let rows = table(
            ["source", "scanned", "rekeyed", "current", "empty", "foreign", "quarantined", "lost to writers"],
            rows,
        );
        format!("job {} is {}{dry_run}{why}\n{rows}{waits}", job.id, job.state)
    })?;
    Ok(exit_of(job.state))
}

/// Says where a job stands now.
pub(crate) fn changed(context: &Context, answer: JobAnswer) -> anyhow::Result<Exit> {
    context.out.result(&answer, |answer| format!("job {} is {}\n", answer.id, answer.state))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_lifts_a_limit() {
        assert_eq!(setting::<u64>("none"), Ok(Setting::Lift));
        assert_eq!(setting::<u64>("500"), Ok(Setting::Set(500)));
        assert!(setting::<u64>("-1").is_err());
    }
}
