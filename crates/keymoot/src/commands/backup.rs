//! `keymoot backup`

use std::path::PathBuf;

use keymoot_server::{
    config::Config,
    node::backup::{self, BackupError, Header},
};
use serde_json::json;

use crate::{cli::Context, exit::Exit, output::note};

/// Copy all that the keyring knows besides its keys into one file; run it where the daemon runs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It may run beside the daemon. There is no key, share or token in the file; the holders' shares are what opens values.

Examples:
  keymoot backup --config keymoot.toml --out /mnt/backups/keymoot.backup
  keymoot inspect /mnt/backups/keymoot.backup")]
pub(crate) struct Args {
    /// Configuration file (TOML) of the daemon
    #[arg(long, env = "KEYMOOT_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// The file to write; one that exists is replaced once the new one is whole [default: KEYRING-rREVISION.backup]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Makes the file.
pub(crate) async fn run(context: &Context, args: &Args) -> anyhow::Result<Exit> {
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(report) => {
            note(report.to_string());
            return Ok(Exit::Usage);
        }
    };
    let backup = match backup::make(&config).await {
        Ok(backup) => backup,
        Err(error) => return failed(error),
    };
    let Header { keyring, revision, .. } = &backup.header;
    let out = args.out.clone().unwrap_or_else(|| format!("{keyring}-r{revision}.backup").into());
    if let Err(error) = backup::write_file(&backup, &out) {
        return failed(error);
    }
    let Header { keyring, revision, digest, records, .. } = &backup.header;
    let found =
        json!({"file": out, "keyring": keyring, "revision": revision, "digest": digest, "records": records});
    context.out.result(&found, |_| {
        format!("{}\n{keyring}, revision {revision}, {records} records\ndigest {digest}\n", out.display())
    })?;
    note(
        "keep the revision and the digest where the file is not: after a restore they are what an operator confirms",
    );
    Ok(Exit::Done)
}

/// A store that does not answer now may answer later.
pub(super) fn failed(error: BackupError) -> anyhow::Result<Exit> {
    let exit = match &error {
        BackupError::Store(_) => Exit::TryAgain,
        BackupError::Open(_) => Exit::Usage,
        _ => return Err(error.into()),
    };
    note(format!("error: {error}"));
    Ok(exit)
}
