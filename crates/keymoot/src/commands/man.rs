//! `keymoot man`

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::CommandFactory as _;

use crate::{
    cli::{Cli, Context},
    exit::Exit,
    output::note,
};

/// Print the manual page, or write one a command into a directory
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  keymoot man | man -l -\n  keymoot man --out /usr/local/share/man/man1")]
pub(crate) struct Args {
    /// Directory for a page a command
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Prints or writes the pages.
pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<Exit> {
    if let Some(dir) = &args.out {
        fs::create_dir_all(dir).with_context(|| format!("can't make {}", dir.display()))?;
        clap_mangen::generate_to(Cli::command(), dir)
            .with_context(|| format!("can't write to {}", dir.display()))?;
        note(format!("written to {}", dir.display()));
    } else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page)?;
        context.out.bytes(&page)?;
    }
    Ok(Exit::Done)
}
