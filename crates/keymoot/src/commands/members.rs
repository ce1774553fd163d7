//! `keymoot members`

use anyhow::Context as _;
use clap::Subcommand;
use keymoot_api::upkeep::{MembersAnswer, MembersRequest};
use keymoot_types::NodeName;

use crate::{cli::Context, exit::Exit};

/// Change which nodes belong to the cluster: every gate waits for all of them
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Add a node; from now on the gates wait for it
    #[command(after_help = "Example:\n  keymoot members add db4")]
    Add {
        /// Its `cluster.node`
        node: NodeName,
    },
    /// Declare a node destroyed, for good: no gate waits for it any longer. It must be silent
    #[command(after_help = "Example:\n  keymoot members destroyed db2")]
    Destroyed {
        /// Its `cluster.node`
        node: NodeName,
    },
}

/// Runs one of them; the manifest tells the other nodes.
pub(crate) async fn run(context: &Context, command: Command) -> anyhow::Result<Exit> {
    let control = context.connect.settle()?.control()?;
    let request = match command {
        Command::Add { node } => MembersRequest::Add(node),
        Command::Destroyed { node } => MembersRequest::Destroyed(node),
    };
    let answer = control.members(&request).await.context("changing the members")?;
    context.out.result(&answer, |MembersAnswer { members }| {
        let members: Vec<_> = members.iter().map(NodeName::as_str).collect();
        format!("members: {}\n", members.join(", "))
    })?;
    Ok(Exit::Done)
}
