//! `keymoot completions`

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::{
    cli::{Cli, Context},
    exit::Exit,
};

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keymoot completions bash > /etc/bash_completion.d/keymoot")]
pub(crate) struct Args {
    /// Which shell
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<Exit> {
    // Into memory first: the generator panics on a writer that fails, such as a closed pipe.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "keymoot", &mut script);
    context.out.bytes(&script)?;
    Ok(Exit::Done)
}
