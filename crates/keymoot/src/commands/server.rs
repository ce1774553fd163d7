//! `keymoot server`

use std::path::PathBuf;

use crate::{exit::Exit, output::note};

/// Run the daemon
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keymoot config check keymoot.toml && keymoot server --config keymoot.toml")]
pub struct Args {
    /// Configuration file (TOML)
    #[arg(long, env = "KEYMOOT_CONFIG", value_name = "FILE")]
    config: PathBuf,
}

/// Runs until it is told to stop.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let result: Result<(), StubError> = Err(StubError);
    match result {
        Ok(()) => Ok(Exit::Done),
        Err(error) => {
            note(format!("error: {error}"));
            Ok(Exit::of_code(error.exit_code()))
        }
    }
}
#[derive(Debug, thiserror::Error)]
#[error("stub")]
struct StubError;
impl StubError { fn exit_code(&self) -> u8 { 2 } }
