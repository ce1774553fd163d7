//! `keymoot restore-backup`

use std::path::PathBuf;

use anyhow::Context as _;
use keymoot_server::{
    config::Config,
    node::backup::{self, BYTES_MAX, Backup, Restored},
};

use super::backup::failed;
use crate::{cli::Context, exit::Exit, files, output::note};

/// Put a backup into the metadata store of a daemon that is stopped
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The store must be empty, unless --force. A manifest that lies in data_dir stays: it may be newer than the backup.
No version is made afterwards until an operator has named the highest number that ever was.

Example:
  keymoot restore-backup /mnt/backups/keymoot.backup --config keymoot.toml")]
pub(crate) struct Args {
    /// The file that `keymoot backup` wrote
    file: PathBuf,
    /// Configuration file (TOML) of the daemon
    #[arg(long, env = "KEYMOOT_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// Replace what the store holds
    #[arg(long)]
    force: bool,
}

/// Puts it back.
pub(crate) async fn run(context: &Context, args: &Args) -> anyhow::Result<Exit> {
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(report) => {
            note(report.to_string());
            return Ok(Exit::Usage);
        }
    };
    let bytes = files::read(&args.file, BYTES_MAX)?;
    let backup = Backup::parse(&bytes).with_context(|| args.file.display().to_string())?;
    let restored = match backup::restore(&config, backup, args.force).await {
        Ok(restored) => restored,
        Err(error) => return failed(error),
    };
    context.out.result(&restored, text)?;
    next_steps(&restored);
    Ok(Exit::Done)
}

fn text(restored: &Restored) -> String {
    let header = &restored.header;
    let mut text = format!(
        "{}, revision {}, {} records, backed up on {} at {}\ndigest {}\n",
        header.keyring, header.revision, header.records, header.node, header.made_at, header.digest
    );
    if let Some(replaced) = &restored.replaced {
        text.push_str(&format!("it replaces what was there: {replaced}\n"));
    }
    text
}

fn next_steps(restored: &Restored) {
    let header = &restored.header;
    note(match restored.last_good {
        None => format!(
            "start the daemon; compare revision and digest with what you noted, and confirm them: keymoot manifest \
             confirm {} {}",
            header.revision, header.digest
        ),
        Some(revision) if revision > header.revision => format!(
            "data_dir holds a newer manifest, revision {revision}: start the daemon, unlock it and publish that one: \
             keymoot manifest republish"
        ),
        Some(_) => "start the daemon and unlock it".into(),
    });
    note("the next `keymoot rotate stage` must name the highest version that ever was: --highest");
}
