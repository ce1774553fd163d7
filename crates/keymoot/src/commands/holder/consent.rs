//! `keymoot holder consent`

use std::{
    io::{self, BufRead as _, IsTerminal as _},
    path::Path,
};

use anyhow::Context as _;
use keymoot_api::{
    rotate::{ConsentAnswer, ConsentRequest, ConsentState, RequestDetail},
    unlock::{Parts, PartsRequest},
};
use keymoot_client::{Control, ControlError};
use keymoot_types::{ErrorCode, KeyVersion, Share, VersionState, part::PartName};

use super::asked::Asked;
use crate::{
    cli::Context,
    commands::{fan_out, parts},
    exit::{Exit, wrong_usage},
    files,
    output::{note, printable},
    profile::Connection,
};

/// Shows what is asked for, asks the person, and gives the shares that count.
pub(super) async fn run(context: &Context, id: &str, file: &Path, yes: bool) -> anyhow::Result<Exit> {
    let connection = context.connect.settle()?;
    let request = files::read_parts(file)?;
    let (control, detail) = find(&connection, id).await?;
    let asked = Asked::read(id, &detail)?;
    // Who holds a version now is told to operators' and auditors' tokens only.
    let present = control.versions().await.ok();
    note(asked.describe(&detail, present.as_ref().map(|answer| answer.versions.as_slice())));
    let wanted = wanted(&control, &detail, &asked).await?;
    let parts = parts_of(request, &asked, &wanted);
    if parts.0.is_empty() {
        let wanted: Vec<_> = wanted.iter().map(|version| format!("v{version}")).collect();
        return Err(wrong_usage(format!(
            "{} has no share of {} of this keyring, which is asked for",
            file.display(),
            wanted.join(" or ")
        )));
    }
    if !yes && !agreed()? {
        note("not consented; no share was sent");
        return Ok(Exit::Failed);
    }
    let answer =
        control.consent(id, &ConsentRequest { digest: asked.digest, parts }).await.context("consenting")?;
    parts::note_rejected(answer.node.as_str(), &answer.rejected);
    context.out.result(&answer, text)?;
    // This holder has done their part: that others are still to come is no failure of theirs.
    Ok(if answer.rejected.iter().all(parts::is_harmless) { Exit::Done } else { Exit::Failed })
}

/// The node that was asked keeps the request in its memory, and the others don't know it.
async fn find(connection: &Connection, id: &str) -> anyhow::Result<(Control, RequestDetail)> {
    let mut last = None;
    for addr in connection.nodes(&[]) {
        let control = connection.control_of(&addr)?;
        match control.request_detail(id).await {
            Ok(detail) => return Ok((control, detail)),
            Err(error) => {
                let unknown =
                    matches!(&error, ControlError::Problem(problem) if problem.code == ErrorCode::NotFound);
                note(format!("{addr}: {}", printable(&error.to_string())));
                // That a node could not be asked outweighs that others don't know the request.
                if !unknown || last.is_none() {
                    last = Some(error);
                }
            }
        }
    }
    match last {
        Some(error) => Err(anyhow::Error::from(error).context("looking at the request")),
        None => Err(wrong_usage("no node is named")),
    }
}

/// Whose shares count: the primary's; for an import the version's own beside them.
async fn wanted(control: &Control, detail: &RequestDetail, asked: &Asked) -> anyhow::Result<Vec<KeyVersion>> {
    let status = control.status().await.context("asking which version is primary")?;
    let primary = status.versions.iter().find(|version| version.state == VersionState::Primary);
    let mut wanted: Vec<_> = detail.consent_version.into_iter().collect();
    wanted.extend(primary.map(|version| version.version));
    if asked.operation == "import" {
        wanted.extend(asked.version);
    } else {
        wanted.truncate(1);
    }
    wanted.sort_unstable();
    wanted.dedup();
    if wanted.is_empty() {
        anyhow::bail!("the node knows of no primary version");
    }
    Ok(wanted)
}

/// The parts that are asked for; all others stay at home.
fn parts_of(request: PartsRequest, asked: &Asked, wanted: &[KeyVersion]) -> Parts {
    let (given, _) = fan_out::parts_for(asked.keyring_id, &request);
    let is_wanted = |(name, text): &(String, zeroize::Zeroizing<String>)| {
        // By the share's own word where it has one; a line with a typing error by its name.
        let version = match (Share::parse(text), name.parse::<PartName>()) {
            (Ok(share), _) => Some(share.version()),
            (Err(_), Ok(name)) => Some(name.version),
            (Err(_), Err(_)) => None,
        };
        version.is_some_and(|version| wanted.contains(&version))
    };
    Parts(given.parts.0.into_iter().filter(is_wanted).collect())
}

fn agreed() -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(wrong_usage("no terminal to ask on: look at the request above, then say --yes"));
    }
    note("Do you consent to exactly this? Your share is used, recorded and wiped. [y/N]");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn text(answer: &ConsentAnswer) -> String {
    match (answer.state, answer.version) {
        (ConsentState::Version(state), Some(version)) => format!("done: v{version} is {state}\n"),
        (ConsentState::Version(state), None) => format!("done: the version is {state}\n"),
        (ConsentState::Node(_), _) if answer.have >= answer.needed => "done\n".into(),
        (ConsentState::Node(_), _) => {
            let more = answer.needed.saturating_sub(answer.have);
            format!("{} of {} consents: {more} more\n", answer.have, answer.needed)
        }
    }
}
