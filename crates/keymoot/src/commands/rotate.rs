//! `keymoot rotate`

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use keymoot_api::{
    init::HolderSpec,
    rotate::{ActivateRequest, RequestBody, StageRequest, StepRequest},
};
use keymoot_client::Control;
use keymoot_types::{KeyVersion, VersionState};
use serde_json::json;

use super::{
    packages,
    steps::{self, LeaveOut, StepArgs},
};
use crate::{
    arguments,
    cli::Context,
    exit::{Exit, wrong_usage},
    output::note,
};

/// Make the next key version, put it to use, and go back if need be
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask the holders' consent to making the next version
    #[command(after_help = "\
Nothing is made until a threshold of holders has run `keymoot holder consent`.

Examples:
  keymoot rotate stage                                   same holders, same threshold
  keymoot rotate stage --threshold 3 --holder ann=age1… --holder bob=age1… --holder eve=age1…")]
    Stage {
        /// Shares that rebuild the new key [default: as the primary's]
        #[arg(long, value_parser = clap::value_parser!(u8).range(2..))]
        threshold: Option<u8>,
        /// A holder of the new version; repeat it for each [default: as the primary's]
        #[arg(long = "holder", value_name = "NAME[=AGE_RECIPIENT]", value_parser = arguments::holder)]
        holders: Vec<HolderSpec>,
    },
    /// Fetch a staged version's packages, while the node that made it still has them
    #[command(after_help = "Example:\n  keymoot rotate packages v10 --out packages-v10")]
    Packages {
        /// Which version, such as v10
        #[arg(value_parser = arguments::version)]
        version: KeyVersion,
        /// Directory for the packages
        #[arg(long, value_name = "DIR", default_value = "packages")]
        out: PathBuf,
    },
    /// Withdraw what the holders were asked for
    #[command(after_help = "Example:\n  keymoot rotate withdraw 0198c7f2-…")]
    Withdraw {
        /// Id of the request
        request: String,
    },
    /// Make a version primary, once everything is proved; asking again is always safe
    #[command(after_help = "\
Examples:
  keymoot rotate activate v10 --dry-run                       what is missing?
  keymoot rotate activate v10 --exclude db2=24h --excuse eve  a dead node, a holder on leave")]
    Activate {
        #[command(flatten)]
        step: StepArgs,
        /// On a degraded node: why to go back without the version that is lost
        #[arg(long = "override", value_name = "REASON")]
        override_reason: Option<String>,
    },
    /// Give up a version before it is used; of an activating one, take it back to staged
    #[command(after_help = "Example:\n  keymoot rotate abort v10")]
    Abort {
        #[command(flatten)]
        step: StepArgs,
    },
    /// Make an older version primary again
    #[command(after_help = "\
Examples:
  keymoot rotate rollback --dry-run         what would answer what?
  keymoot rotate rollback v9")]
    Rollback {
        /// Which version [default: the newest that only decrypts]
        #[arg(value_parser = arguments::version)]
        version: Option<KeyVersion>,
        #[command(flatten)]
        leave_out: LeaveOut,
        /// On a degraded node: why to go back without the version that is lost
        #[arg(long = "override", value_name = "REASON")]
        override_reason: Option<String>,
    },
    /// Take a retired version back, within its hold; its shares then come in by `keymoot unlock`
    #[command(after_help = "Example:\n  keymoot rotate restore v9 && keymoot unlock ann.parts bob.parts")]
    Restore {
        #[command(flatten)]
        step: StepArgs,
    },
}

/// Runs one of them.
pub(crate) async fn run(context: &Context, command: Command) -> anyhow::Result<Exit> {
    let control = context.connect.settle()?.control()?;
    match command {
        Command::Stage { threshold, holders } => stage(context, &control, threshold, holders).await,
        Command::Packages { version, out } => fetch_packages(context, &control, version, &out).await,
        Command::Withdraw { request } => {
            control.request_cancel(&request).await.context("withdrawing the request")?;
            context.out.result(&json!({"id": request, "state": "cancelled"}), |_| "withdrawn".into())?;
            Ok(Exit::Done)
        }
        Command::Activate { step, override_reason } => {
            let request = activation(step.leave_out, override_reason);
            steps::finish(context, "is activated", control.activate(step.version, &request).await)
        }
        Command::Abort { step } => {
            let request = plain_step(step.leave_out);
            steps::finish(context, "is given up", control.abort(step.version, &request).await)
        }
        Command::Rollback { version, leave_out, override_reason } => {
            let version = match version {
                Some(version) => version,
                None => way_back(&control).await?,
            };
            let request = activation(leave_out, override_reason);
            steps::finish(context, "is back", control.activate(version, &request).await)
        }
        Command::Restore { step } => {
            let request = plain_step(step.leave_out);
            steps::finish(context, "is restored", control.restore(step.version, &request).await)
        }
    }
}

async fn stage(
    context: &Context,
    control: &Control,
    threshold: Option<u8>,
    holders: Vec<HolderSpec>,
) -> anyhow::Result<Exit> {
    let holders = (!holders.is_empty()).then_some(holders);
    let body = RequestBody::Stage(StageRequest { threshold, holders });
    let answer = control.request(&body).await.context("asking for the holders' consent")?;
    context.out.result(&answer, |answer| {
        format!(
            "request {}\ndigest  {}\n{} of {} consents\n",
            answer.id, answer.digest, answer.have, answer.needed
        )
    })?;
    note(format!(
        "{} holders look at it and consent, within 24 hours, each with\n  keymoot holder consent {} FILE",
        answer.needed, answer.id
    ));
    Ok(Exit::Done)
}

async fn fetch_packages(
    context: &Context,
    control: &Control,
    version: KeyVersion,
    out: &std::path::Path,
) -> anyhow::Result<Exit> {
    let answer = control.packages(version).await.context("asking for the packages")?;
    packages::prepare(out, answer.packages.iter().map(|package| &package.holder))?;
    let written = packages::write(out, &answer.packages)?;
    context.out.result(&written, |written| packages::show(written))?;
    note(format!(
        "hand each to its holder, who proves it with `keymoot holder prove FILE` before v{version} is activated"
    ));
    Ok(Exit::Done)
}

/// The newest version that only decrypts: what was primary before.
async fn way_back(control: &Control) -> anyhow::Result<KeyVersion> {
    let versions = control.versions().await.context("asking for the versions")?.versions;
    versions
        .iter()
        .filter(|version| version.state == VersionState::DecryptOnly)
        .map(|version| version.version)
        .max()
        .ok_or_else(|| wrong_usage("no version only decrypts, so there is none to go back to"))
}

fn activation(leave_out: LeaveOut, override_reason: Option<String>) -> ActivateRequest {
    let LeaveOut { exclude, excuse, dry_run } = leave_out;
    ActivateRequest { exclude, excuse, dry_run, override_reason }
}

fn plain_step(leave_out: LeaveOut) -> StepRequest {
    let LeaveOut { exclude, excuse, dry_run } = leave_out;
    StepRequest { exclude, excuse, dry_run }
}
