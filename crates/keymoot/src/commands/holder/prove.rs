//! `keymoot holder prove`

use std::path::Path;

use keymoot_api::unlock::{PartsAnswer, PartsRequest};

use crate::{
    cli::Context,
    commands::{fan_out, parts},
    exit::Exit,
    files,
    output::{note, printable},
    profile::Connection,
};

/// Proves every share of the file, to one node.
pub(super) async fn run(context: &Context, file: &Path, nodes: &[String]) -> anyhow::Result<Exit> {
    let request = files::read_parts(file)?;
    let answer = to_any(&context.connect.settle()?, nodes, &request).await?;
    context.out.result(&answer, text)?;
    Ok(exit(&answer))
}

/// Any node will do: what it records, all others read.
pub(super) async fn to_any(
    connection: &Connection,
    nodes: &[String],
    request: &PartsRequest,
) -> anyhow::Result<PartsAnswer> {
    let ask = async |control: &keymoot_client::Control| -> anyhow::Result<PartsAnswer> {
        let (status, keyring_id) = fan_out::proved(control).await?;
        let (given, withheld) = fan_out::parts_for(keyring_id, request);
        if given.parts.0.is_empty() {
            let (versions, node, state) = (status.versions, status.node, status.state);
            return Ok(PartsAnswer { accepted: vec![], rejected: withheld, versions, node, state });
        }
        let mut answer = control.prove(&given).await?;
        answer.rejected.extend(withheld);
        Ok(answer)
    };
    let skipped = |addr: &str, error: &anyhow::Error| {
        note(format!("{addr} can't take it now, so the next is asked: {}", printable(&format!("{error:#}"))));
    };
    let (addr, answer) = fan_out::any(fan_out::nodes(connection, nodes)?, ask, skipped).await?;
    parts::note_rejected(&format!("{} ({addr})", answer.node), &answer.rejected);
    Ok(answer)
}

/// What was proved, and to whom.
pub(super) fn text(answer: &PartsAnswer) -> String {
    let proved = answer.accepted.iter().map(|part| {
        format!("v{}: {} has proved possession; {} recorded it\n", part.version, part.holder, answer.node)
    });
    proved.collect()
}

/// A share that was refused proves nothing, whatever the others do.
pub(super) fn exit(answer: &PartsAnswer) -> Exit {
    if answer.rejected.is_empty() { Exit::Done } else { Exit::Failed }
}
