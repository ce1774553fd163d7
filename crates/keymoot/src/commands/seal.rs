//! `keymoot seal`

use serde::Serialize;

use super::fan_out;
use crate::{cli::Context, exit::Exit, output::printable};

/// Wipe every key from memory, on every node; only shares bring them back
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  keymoot seal\n  keymoot seal --node https://db2:8201")]
pub(crate) struct Args {
    /// Control address of a node; repeat it for each [default: the profile's nodes]
    #[arg(long = "node", value_name = "URL")]
    nodes: Vec<String>,
}

#[derive(Serialize)]
struct Sealed {
    addr: String,
    sealed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Seals all nodes at once; one that can't be reached keeps no other from being sealed.
pub(crate) async fn run(context: &Context, args: &Args) -> anyhow::Result<Exit> {
    let nodes = fan_out::nodes(&context.connect.settle()?, &args.nodes)?;
    let outcomes = fan_out::each(nodes, async |control| Ok(control.seal().await?)).await;
    let exit = Exit::worst(outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().err()).map(Exit::of_error));
    let nodes: Vec<_> = outcomes
        .into_iter()
        .map(|(addr, outcome)| {
            let error = outcome.err().map(|error| format!("{error:#}"));
            Sealed { addr, sealed: error.is_none(), error }
        })
        .collect();
    context.out.result(&nodes, |nodes| {
        nodes
            .iter()
            .map(|node| match &node.error {
                None => format!("{} is sealed\n", node.addr),
                Some(error) => format!("{} is NOT known to be sealed: {}\n", node.addr, printable(error)),
            })
            .collect()
    })?;
    Ok(exit)
}
