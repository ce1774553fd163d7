//! `keymoot unlock`

use std::path::PathBuf;

use keymoot_api::unlock::{DegradedRequest, PartsAnswer, PartsRequest, RejectedPart};
use keymoot_client::Control;
use keymoot_types::KeyVersion;
use serde::Serialize;

use super::parts;
use crate::{
    arguments,
    cli::Context,
    exit::{Exit, wrong_usage},
    files,
    output::{note, printable},
};

/// Submit parts files to every node, and show who has given for which version
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Parts are judged one by one, in any order, and a bad one spoils no other. Exit code 3: more shares are needed.

Examples:
  keymoot unlock ann.parts
  keymoot unlock ann.parts bob.parts --node https://db1:8201 --node https://db2:8201
  keymoot unlock - < ann.parts
  keymoot unlock --degraded v10      start without v10, which is lost (an operator, for this boot)
  keymoot unlock --reset             wipe what was collected (an operator)")]
pub(crate) struct Args {
    /// Parts files; - is stdin
    #[arg(value_name = "FILE", required_unless_present_any = ["reset", "degraded"])]
    files: Vec<PathBuf>,
    /// Control address of a node; repeat it for each [default: the profile's nodes]
    #[arg(long = "node", value_name = "URL")]
    nodes: Vec<String>,
    /// Wipe what was collected, first
    #[arg(long)]
    reset: bool,
    /// Unlock without this version; it is lost. Repeat it for each
    #[arg(long, value_name = "VERSION", value_parser = arguments::version)]
    degraded: Vec<KeyVersion>,
}

#[derive(Serialize)]
struct Nodes {
    nodes: Vec<Node>,
}

#[derive(Serialize)]
struct Node {
    addr: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<PartsAnswer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip)]
    exit: Exit,
}

/// Submits every file to every node.
pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<Exit> {
    let connection = context.connect.settle()?;
    let requests = args.files.iter().map(|file| files::read_parts(file)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut nodes = Vec::new();
    for addr in connection.nodes(&args.nodes) {
        let control = connection.control_of(&addr)?;
        let node = match submit(&control, &args, &requests).await {
            Ok(Some((answer, exit))) => Node { addr, answer: Some(answer), error: None, exit },
            Ok(None) => Node { addr, answer: None, error: None, exit: Exit::Done },
            Err(error) => {
                let exit = Exit::of_error(&error);
                Node { addr, answer: None, error: Some(format!("{error:#}")), exit }
            }
        };
        nodes.push(node);
    }
    let exit = worst(nodes.iter().map(|node| node.exit));
    context.out.result(&Nodes { nodes }, |nodes| nodes.nodes.iter().map(text).collect())?;
    Ok(exit)
}

/// Gives one node all the files. The answer is the last one, with everything accepted and refused on the way.
async fn submit(
    control: &Control,
    args: &Args,
    requests: &[PartsRequest],
) -> anyhow::Result<Option<(PartsAnswer, Exit)>> {
    if args.reset {
        control.unlock_reset().await?;
    }
    let mut whole: Option<PartsAnswer> = None;
    for request in requests {
        let mut answer = control.unlock(request).await?;
        parts::note_rejected(&answer.rejected);
        if let Some(mut before) = whole.take() {
            before.accepted.append(&mut answer.accepted);
            before.rejected.append(&mut answer.rejected);
            answer.accepted = before.accepted;
            answer.rejected = before.rejected;
        }
        whole = Some(answer);
    }
    if !args.degraded.is_empty() {
        let status = control.unlock_degraded(&DegradedRequest { missing: args.degraded.clone() }).await?;
        note(format!("{} is {}", status.node, status.state));
        let Some(answer) = &mut whole else { return Ok(None) };
        (answer.state, answer.versions) = (status.state, status.versions);
    }
    Ok(whole.map(|answer| {
        let rejected: &[RejectedPart] = &answer.rejected;
        let exit = parts::exit_of_unlock(&answer, rejected);
        (answer, exit)
    }))
}

fn text(node: &Node) -> String {
    let Some(answer) = &node.answer else {
        return match &node.error {
            Some(error) => format!("{}: {}\n", node.addr, printable(error)),
            None => format!("{}: done\n", node.addr),
        };
    };
    let accepted: Vec<_> =
        answer.accepted.iter().map(|part| format!("v{} of {}", part.version, part.holder)).collect();
    let accepted = if accepted.is_empty() { "nothing".into() } else { accepted.join(", ") };
    let still: Vec<_> = answer
        .versions
        .iter()
        .filter(|version| (version.required || version.have > 0) && !version.validated)
        .map(|version| {
            format!("v{} needs {} more", version.version, version.threshold.saturating_sub(version.have))
        })
        .collect();
    let still = if still.is_empty() { String::new() } else { format!("; {}", still.join(", ")) };
    format!(
        "{} ({}) is {}; accepted: {accepted}{still}\n{}",
        answer.node,
        node.addr,
        answer.state,
        parts::versions_table(&answer.versions)
    )
}

/// One exit for all nodes: what won't get better by itself comes first.
fn worst(exits: impl Iterator<Item = Exit>) -> Exit {
    let rank = |exit: &Exit| {
        [Exit::Done, Exit::Partly, Exit::TryAgain, Exit::Refused, Exit::Failed, Exit::Usage]
            .iter()
            .position(|known| known == exit)
    };
    exits.max_by_key(rank).unwrap_or(Exit::Done)
}

/// Parts for `prove`: the same files, and every node is as good as another.
pub(crate) async fn prove(context: &Context, file: &std::path::Path) -> anyhow::Result<Exit> {
    let control = context.connect.settle()?.control()?;
    let request = files::read_parts(file)?;
    if request.parts.0.is_empty() {
        return Err(wrong_usage("there is no part in the file"));
    }
    let answer = control.prove(&request).await?;
    parts::note_rejected(&answer.rejected);
    let exit = if answer.rejected.is_empty() { Exit::Done } else { Exit::Failed };
    context.out.result(&answer, |answer| {
        answer
            .accepted
            .iter()
            .map(|part| format!("v{}: {} has proved possession\n", part.version, part.holder))
            .collect()
    })?;
    Ok(exit)
}
