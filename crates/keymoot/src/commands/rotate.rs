//! `keymoot rotate`

pub(super) mod ask;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use keymoot_api::{
    init::HolderSpec,
    rotate::{ActivateRequest, StageRequest, StepRequest},
};
use keymoot_client::Control;
use keymoot_types::{HolderName, KeyName, KeyVersion, SourceName, VersionState};
use serde_json::json;

use super::{
    packages, status,
    steps::{self, LeaveOut, StepArgs},
    value::AssociatedData,
};
use crate::{
    arguments,
    cli::Context,
    exit::{Exit, wrong_usage},
    output::note,
    profile::Connection,
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
        /// How many shares are enough to rebuild the new key [default: as the primary's]
        #[arg(long, value_parser = clap::value_parser!(u8).range(2..))]
        threshold: Option<u8>,
        /// A holder of the new version; repeat it for each [default: as the primary's]
        #[arg(long = "holder", value_name = "NAME[=AGE_RECIPIENT]", value_parser = arguments::holder)]
        holders: Vec<HolderSpec>,
        /// The highest version that ever was, such as v10: asked for after a restore, so that no number is given twice
        #[arg(long, value_name = "VERSION", value_parser = arguments::version)]
        highest: Option<KeyVersion>,
    },
    /// Ask the holders' consent to new shares of a version, for other holders or with another threshold
    #[command(after_help = "\
The key stays the same, its shares are all made anew, and the old ones are refused once enough new ones are proved.
Resharing does not revoke: a threshold of old shares still rebuilds the key, so they are destroyed.
A holder of now who is named without a recipient keeps theirs.

Examples:
  keymoot rotate reshare --holder ann --holder bob --holder joe=age1…     eve goes, joe comes
  keymoot rotate reshare v9 --threshold 3                                 the same holders, three of them needed")]
    Reshare {
        /// Which version, such as v10 [default: the primary]
        #[arg(value_parser = arguments::version)]
        version: Option<KeyVersion>,
        /// A holder from now on, all of them; repeat it for each [default: as now]
        #[arg(long = "holder", value_name = "NAME[=AGE_RECIPIENT]", value_parser = arguments::holder)]
        holders: Vec<HolderSpec>,
        /// How many shares are enough from now on [default: as now]
        #[arg(long, value_parser = clap::value_parser!(u8).range(2..))]
        threshold: Option<u8>,
    },
    /// Ask the holders' consent to new shares because a holder's is lost: a laptop, a person
    #[command(after_help = "\
Everybody gets a new share. Until enough of them are proved the old ones work; whoever finds the laptop still holds one
share, so `keymoot status` counts it.

Examples:
  keymoot rotate replace bob --with bob=age1…       the same person, with a new identity
  keymoot rotate replace bob --with joe=age1…       another person
  keymoot rotate replace bob                        nobody")]
    Replace {
        /// Whose share is lost
        holder: HolderName,
        /// Who gets their place
        #[arg(long, value_name = "NAME[=AGE_RECIPIENT]", value_parser = arguments::holder)]
        with: Option<HolderSpec>,
        /// Which version, such as v10 [default: the primary]
        #[arg(long, value_parser = arguments::version)]
        version: Option<KeyVersion>,
    },
    /// Ask the holders' consent to throw a version away without evidence, accepting a loss
    #[command(after_help = "\
Values of it are lost, and answer `undetermined` for ever. `keymoot retire` is the way with evidence.

Example:
  keymoot rotate retire-override v9 --reason \"the archive of 2019 is lost with it, agreed by …\"")]
    RetireOverride {
        /// Which version, such as v9
        #[arg(value_parser = arguments::version)]
        version: KeyVersion,
        /// The loss that is accepted, in words; the holders see it
        #[arg(long)]
        reason: String,
    },
    /// Ask the holders' consent to write a column's values in clear again
    #[command(after_help = "\
Once enough have consented a job decrypts the column, and nothing encrypts it again by itself. Remove `adopt` from its
declaration; to adopt it once more, declare it under another name.

Example:
  keymoot rotate release customers.note")]
    Release {
        /// The source, as the configuration names it
        source: SourceName,
    },
    /// Ask the holders' consent to bring a version back that a restored store has forgotten
    #[command(after_help = "\
The witness shows that the rebuilt key is right: one genuine value of that version, or a manifest that knows it.

Examples:
  keymoot rotate import v10 --witness value.txt --key auth-token
  keymoot rotate import v10 --witness - < manifest.json")]
    Import {
        /// Which version, such as v10
        #[arg(value_parser = arguments::version)]
        version: KeyVersion,
        /// File with the witness; - is stdin
        #[arg(long, value_name = "FILE")]
        witness: PathBuf,
        /// Name of the key that the value was encrypted with [default: each that is declared is tried]
        #[arg(long, value_name = "NAME")]
        key: Option<KeyName>,
        #[command(flatten)]
        associated_data: AssociatedData,
    },
    /// Fetch the packages of a version just made or shared out anew, while the node that made them has them
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
    let connection = context.connect.settle()?;
    let control = connection.control()?;
    match command {
        Command::Stage { threshold, holders, highest } => {
            let holders = (!holders.is_empty()).then_some(holders);
            ask::stage(context, &control, StageRequest { threshold, holders, highest }).await
        }
        Command::Reshare { version, holders, threshold } => {
            ask::reshare(context, &control, version, holders, threshold).await
        }
        Command::Replace { holder, with, version } => {
            ask::replace(context, &control, &holder, with, version).await
        }
        Command::RetireOverride { version, reason } => {
            ask::retire_override(context, &control, version, reason).await
        }
        Command::Release { source } => ask::release(context, &control, source).await,
        Command::Import { version, witness, key, associated_data } => {
            ask::import(context, &control, version, &witness, key, &associated_data).await
        }
        Command::Packages { version, out } => fetch_packages(context, &control, version, &out).await,
        Command::Withdraw { request } => {
            control.request_cancel(&request).await.context("withdrawing the request")?;
            context.out.result(&json!({"id": request, "state": "cancelled"}), |_| "withdrawn".into())?;
            Ok(Exit::Done)
        }
        Command::Activate { step, override_reason } => {
            let request = activation(step.leave_out, override_reason);
            let done = steps::finish(context, "is activated", control.activate(step.version, &request).await);
            shown(&connection, done).await
        }
        Command::Abort { step } => {
            let request = plain_step(step.leave_out);
            let done = steps::finish(context, "is given up", control.abort(step.version, &request).await);
            shown(&connection, done).await
        }
        Command::Rollback { version, leave_out, override_reason } => {
            let version = match version {
                Some(version) => version,
                None => way_back(&control).await?,
            };
            let request = activation(leave_out, override_reason);
            let done = steps::finish(context, "is back", control.activate(version, &request).await);
            shown(&connection, done).await
        }
        Command::Restore { step } => {
            let request = plain_step(step.leave_out);
            let done = steps::finish(context, "is restored", control.restore(step.version, &request).await);
            shown(&connection, done).await
        }
    }
}

/// What was done, or why not, and how every node stands after it. The reason comes first: the node that was asked may be
/// the one that is gone.
async fn shown(connection: &Connection, done: anyhow::Result<Exit>) -> anyhow::Result<Exit> {
    let nodes = status::afterwards(connection).await;
    let exit = done?;
    nodes.map(|()| exit)
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
    note("hand each to its holder, who opens it with `keymoot holder open FILE`: that proves it, too");
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
