//! `keymoot window`

use clap::Subcommand;
use keymoot_api::{
    HumanDuration,
    rotate::{RequestBody, WindowRequest},
};
use keymoot_client::ControlError;
use keymoot_types::{ErrorCode, NodeName};
use serde::Serialize;

use super::{fan_out, rotate::ask};
use crate::{cli::Context, exit::Exit, output::printable};

/// Let members that are restarted get the keys from an unlocked one, for some hours, with the holders' consent
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask the holders' consent to a maintenance window
    #[command(after_help = "\
The members must be there: the window is for them as they are known now, each by its own certificate. `keymoot status`
shows the window while it is open.

Example:
  keymoot window ask --member db1 --member db2 --member db3 --for 4h")]
    Ask {
        /// A member that may receive the keys; repeat it for each
        #[arg(long = "member", value_name = "NODE", required = true)]
        members: Vec<NodeName>,
        /// For how long, from the last consent on; at most 12h
        #[arg(long = "for", value_name = "DURATION")]
        granted_for: HumanDuration,
    },
    /// End a maintenance window at once, on every node
    #[command(after_help = "Example:\n  keymoot window end 0198c7f2-…")]
    End {
        /// Id of the request that granted it; `keymoot status` shows it
        request: String,
        /// Control address of a node; repeat it for each [default: the profile's nodes]
        #[arg(long = "node", value_name = "URL")]
        nodes: Vec<String>,
    },
}

#[derive(Serialize)]
struct Ended {
    addr: String,
    ended: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Runs one of them.
pub(crate) async fn run(context: &Context, command: Command) -> anyhow::Result<Exit> {
    let connection = context.connect.settle()?;
    match command {
        Command::Ask { members, granted_for } => {
            let body = RequestBody::Window(WindowRequest { members, duration: granted_for });
            ask::ask(context, &connection.control()?, &body).await
        }
        Command::End { request, nodes } => end(context, &request, fan_out::nodes(&connection, &nodes)?).await,
    }
}

/// Asks every node: one that can't hear of it from the others ends it all the same.
async fn end(context: &Context, request: &str, nodes: Vec<fan_out::Node>) -> anyhow::Result<Exit> {
    let outcomes = fan_out::each(nodes, async |control| match control.request_cancel(request).await {
        // Another node was faster.
        Err(ControlError::Problem(problem)) if problem.code == ErrorCode::NotFound => Ok(()),
        outcome => Ok(outcome?),
    })
    .await;
    let exit = Exit::worst(outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().err()).map(Exit::of_error));
    let ended = outcomes.into_iter().map(|(addr, outcome)| {
        let error = outcome.err().map(|error| format!("{error:#}"));
        Ended { addr, ended: error.is_none(), error }
    });
    context.out.result(&ended.collect::<Vec<_>>(), |nodes| {
        let line = |node: &Ended| match &node.error {
            None => format!("{} has no such window open\n", node.addr),
            Some(error) => format!("{} is NOT known to have ended it: {}\n", node.addr, printable(error)),
        };
        nodes.iter().map(line).collect()
    })?;
    Ok(exit)
}
