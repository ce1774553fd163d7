//! `keymoot seal`

use serde::Serialize;

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

/// Seals the nodes; one that can't be reached keeps no other from being sealed.
pub(crate) async fn run(context: &Context, args: &Args) -> anyhow::Result<Exit> {
    let connection = context.connect.settle()?;
    let (mut nodes, mut exit) = (Vec::new(), Exit::Done);
    for addr in connection.nodes(&args.nodes) {
        let sealed = match connection.control_of(&addr)?.seal().await {
            Ok(()) => Sealed { addr, sealed: true, error: None },
            Err(error) => {
                let error = anyhow::Error::from(error);
                exit = Exit::of_error(&error);
                Sealed { addr, sealed: false, error: Some(format!("{error:#}")) }
            }
        };
        nodes.push(sealed);
    }
    context.out.result(&nodes, |nodes| {
        nodes
            .iter()
            .map(|node| match &node.error {
                None => format!("{} is sealed\n", node.addr),
                Some(error) => format!("{} is NOT sealed: {}\n", node.addr, printable(error)),
            })
            .collect()
    })?;
    Ok(exit)
}
