//! `keymoot config`

use std::path::PathBuf;

use clap::Subcommand;

use crate::{cli::Context, exit::Exit};

/// Look at a configuration before the daemon does
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say everything that can be known to be wrong, with line numbers, before a start or reload
    #[command(after_help = "Example:\n  keymoot config check /etc/keymoot/keymoot.toml")]
    Check {
        /// Configuration file (TOML)
        file: PathBuf,
    },
}

/// Checks the file.
pub(crate) async fn run(context: &Context, command: &Command) -> anyhow::Result<Exit> {
    let Command::Check { file } = command;
    let report = keymoot_server::config::check_file(file).await;
    context.out.result(&report, |report| {
        let text = report.to_string();
        if text.is_empty() { format!("{}: nothing is wrong", file.display()) } else { text }
    })?;
    Ok(if report.is_ok() { Exit::Done } else { Exit::Usage })
}
