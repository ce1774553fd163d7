//! `keymoot audit`

mod tail;
mod verdict;
mod verify;
mod witness;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use keymoot_client::Control;
use keymoot_types::audit::SignedHead;

use crate::{cli::Context, exit::Exit};

/// The audit log: who did what, in lines that vouch for one another
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Tail(tail::Args),
    Verify(verify::Args),
    /// Print the newest signed head of a node's log, which the node keeps outside the log
    #[command(after_help = "\
Keep it where nobody on the node can change it: whoever has it finds that the log was cut or rebuilt since.

Example:
  keymoot audit head > db1.head && keymoot audit verify audit.jsonl --head db1.head")]
    Head,
}

/// Shows or verifies.
pub(crate) async fn run(context: &Context, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Tail(args) => tail::run(context, &args).await,
        Command::Verify(args) => verify::run(context, &args).await,
        Command::Head => {
            let head = signed_head(&context.connect.settle()?.control()?).await?;
            let Some(head) = head else {
                bail!("the node has no signed head yet: it signs its log while it is unlocked");
            };
            context.out.raw(&format!("{}\n", serde_json::to_string_pretty(&head)?))?;
            Ok(Exit::Done)
        }
    }
}

/// The newest head that the node keeps outside its log: behind the last number there is nothing else to send.
async fn signed_head(control: &Control) -> anyhow::Result<Option<SignedHead>> {
    let answer = control.audit(Some(LAST)).await.context("asking for the newest signed head of the audit log")?;
    Ok(answer.head)
}

/// No log gets so far; and every JSON reader has the number exactly.
const LAST: u64 = (1 << 53) - 1;
