//! `keymoot server`

use std::path::PathBuf;

use super::demo::daemon::end_with_parent;
use crate::{exit::Exit, output::note};

/// Run the daemon
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keymoot config check keymoot.toml && keymoot server --config keymoot.toml")]
pub(crate) struct Args {
    /// Configuration file (TOML)
    #[arg(long, env = "KEYMOOT_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// Ends when this process does: for a daemon that is tried out by `demo`
    #[arg(long, value_name = "PID", hide = true)]
    parent: Option<u32>,
}

/// Runs until it is told to stop.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    if let Some(parent) = args.parent {
        end_with_parent(parent)?;
    }
    match keymoot_server::run(&args.config) {
        Ok(()) => Ok(Exit::Done),
        Err(error) => {
            note(format!("error: {error}"));
            Ok(Exit::of_code(error.exit_code()))
        }
    }
}
