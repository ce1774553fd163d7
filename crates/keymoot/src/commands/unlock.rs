//! `keymoot unlock`

use std::path::PathBuf;

use keymoot_api::unlock::{DegradedRequest, PartsAnswer, PartsRequest};
use keymoot_client::Control;
use keymoot_types::{HolderName, KeyVersion, NodeState};
use serde::Serialize;

use super::{
    fan_out::{self, Outcome},
    parts,
};
use crate::{
    arguments,
    cli::Context,
    exit::Exit,
    files,
    output::{note, printable, table},
};

/// Submit parts files to every node at once, and show who has given for which version
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A node gets a share only after its certificate was verified and it has said that it serves the share's keyring.
Parts are judged one by one, in any order, and a bad one spoils no other. The same again is always safe.

Exit codes: 0 every node is unlocked; 3 more shares are needed, or a node was not reached (it is named): come back or
run it again; 1 a part was refused for good: what to do is said with it.

Examples:
  keymoot unlock ann.parts
  keymoot unlock ann.parts bob.parts --node https://db1:8201 --node https://db2:8201
  keymoot unlock - < ann.parts
  keymoot unlock --degraded v10      start without v10, which is lost (an operator, for this boot)
  keymoot unlock --reset             wipe what was collected (an operator)")]
pub(crate) struct Args {
    /// Your parts files, one or more; - is stdin
    #[arg(value_name = "FILE", required_unless_present_any = ["reset", "degraded"])]
    files: Vec<PathBuf>,
    /// Control address of a node; repeat it for each [default: the profile's nodes]
    #[arg(long = "node", value_name = "URL")]
    nodes: Vec<String>,
    /// Wipe what was collected, first (an operator)
    #[arg(long)]
    reset: bool,
    /// Start without this version, which is lost (an operator, for this boot). Repeat it for each
    #[arg(long, value_name = "VERSION", value_parser = arguments::version)]
    degraded: Vec<KeyVersion>,
}

#[derive(Serialize)]
struct Nodes {
    nodes: Vec<Node>,
}

#[derive(Serialize)]
struct Node {
    addr: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<PartsAnswer>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    next: Vec<Next>,
    /// What keeps a node from unlocking that has all the shares.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    needs: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip)]
    exit: Exit,
}

/// What a version still needs on a node.
#[derive(Serialize)]
struct Next {
    version: KeyVersion,
    more: u8,
    /// Who could give it; only with a token that may know.
    #[serde(skip_serializing_if = "Option::is_none")]
    holders: Option<Vec<HolderName>>,
}

/// How far one node was brought, and what ended it early.
struct Submitted {
    answer: PartsAnswer,
    next: Vec<Next>,
    needs: Vec<String>,
    error: Option<anyhow::Error>,
}

/// Submits every file to every node.
pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<Exit> {
    let nodes = fan_out::nodes(&context.connect.settle()?, &args.nodes)?;
    let read =
        |file: &PathBuf| -> anyhow::Result<_> { Ok((file.display().to_string(), files::read_parts(file)?)) };
    let files = args.files.iter().map(read).collect::<anyhow::Result<Vec<_>>>()?;
    let outcomes = fan_out::each(nodes, async |control| submit(control, &args, &files).await).await;
    let nodes: Vec<_> = outcomes.into_iter().map(|outcome| node(&args, outcome)).collect();
    let exit = Exit::worst(nodes.iter().map(|node| node.exit));
    if nodes.iter().any(|node| node.error.is_some()) {
        note("not every node was done: the same again is safe, and reaches those that were left out");
    }
    context.out.result(&Nodes { nodes }, |nodes| text(&nodes.nodes))?;
    Ok(exit)
}

/// Gives one node all the files. The answer is the last one, with everything accepted and refused on the way.
async fn submit(control: &Control, args: &Args, files: &[(String, PartsRequest)]) -> anyhow::Result<Submitted> {
    if args.reset {
        control.unlock_reset().await?;
    }
    let (status, keyring_id) = fan_out::proved(control).await?;
    let answer = PartsAnswer {
        accepted: vec![],
        rejected: vec![],
        versions: status.versions,
        node: status.node,
        state: status.state,
    };
    let mut submitted = Submitted { answer, next: vec![], needs: vec![], error: None };
    for (file, request) in files {
        let (given, withheld) = fan_out::parts_for(keyring_id, request);
        submitted.take_rejected(file, withheld);
        if given.parts.0.is_empty() {
            continue;
        }
        match control.unlock(&given).await {
            Ok(answer) => submitted.take(file, answer),
            Err(error) => {
                submitted.error = Some(error.into());
                break;
            }
        }
    }
    if submitted.error.is_none() && !args.degraded.is_empty() {
        match control.unlock_degraded(&DegradedRequest { missing: args.degraded.clone() }).await {
            Ok(status) => {
                (submitted.answer.state, submitted.answer.versions) = (status.state, status.versions);
            }
            Err(error) => submitted.error = Some(error.into()),
        }
    }
    submitted.next = next(control, &submitted.answer).await;
    let serves = matches!(submitted.answer.state, NodeState::Unlocked | NodeState::Degraded);
    if submitted.next.is_empty() && !serves && !args.files.is_empty() {
        submitted.needs = control.status().await.map(|status| status.needs).unwrap_or_default();
    }
    Ok(submitted)
}

impl Submitted {
    fn take(&mut self, file: &str, answer: PartsAnswer) {
        let PartsAnswer { accepted, rejected, versions, node, state } = answer;
        self.answer.accepted.extend(accepted);
        (self.answer.versions, self.answer.node, self.answer.state) = (versions, node, state);
        self.take_rejected(file, rejected);
    }

    fn take_rejected(&mut self, file: &str, rejected: Vec<keymoot_api::unlock::RejectedPart>) {
        parts::note_rejected(&format!("{}: {file}", self.answer.node), &rejected);
        self.answer.rejected.extend(rejected);
    }
}

/// What is still needed, and from whom it could come.
async fn next(control: &Control, answer: &PartsAnswer) -> Vec<Next> {
    let open: Vec<_> = answer.versions.iter().filter(|version| parts::is_wanted(version)).collect();
    if open.is_empty() {
        return vec![];
    }
    // Who has given is told to a token only, and so is who holds; without one nobody has to be asked.
    let may_know = open.iter().any(|version| version.holders.is_some());
    let known = if may_know { control.versions().await.ok() } else { None };
    let holders = |version: KeyVersion, given: &[HolderName]| {
        let known = known.as_ref()?.versions.iter().find(|detail| detail.version == version)?;
        let names = known.holders.iter().map(|holder| holder.name.clone());
        Some(names.filter(|name| !given.contains(name)).collect())
    };
    open.into_iter()
        .map(|version| Next {
            version: version.version,
            more: version.threshold.saturating_sub(version.have),
            holders: holders(version.version, version.holders.as_deref().unwrap_or_default()),
        })
        .collect()
}

fn node(args: &Args, (addr, outcome): Outcome<Submitted>) -> Node {
    let submitted = match outcome {
        Ok(submitted) => submitted,
        Err(error) => {
            let exit = Exit::of_error(&error);
            return Node {
                addr,
                answer: None,
                next: vec![],
                needs: vec![],
                error: Some(format!("{error:#}")),
                exit,
            };
        }
    };
    let Submitted { answer, next, needs, error } = submitted;
    let so_far = if args.files.is_empty() && args.degraded.is_empty() {
        // To wipe what was collected was all that was asked for.
        Exit::Done
    } else {
        parts::exit_of_unlock(&answer)
    };
    let exit = Exit::worst([so_far].into_iter().chain(error.as_ref().map(Exit::of_error)));
    Node { addr, answer: Some(answer), next, needs, error: error.map(|error| format!("{error:#}")), exit }
}

fn text(nodes: &[Node]) -> String {
    let rows = nodes.iter().flat_map(|node| {
        let answer = node.answer.iter();
        answer.flat_map(|answer| answer.versions.iter().map(move |version| (answer, version)))
    });
    let shown = rows.filter(|(_, version)| version.required || version.have > 0);
    let mut text = table(
        ["node", "version", "shares", "given by"],
        shown.map(|(answer, version)| {
            let given: Vec<_> = version.holders.iter().flatten().map(ToString::to_string).collect();
            let name = format!("v{}", version.version);
            [answer.node.to_string(), name, parts::progress(version), given.join(" ")]
        }),
    );
    for node in nodes {
        let sentence = match (&node.answer, &node.error) {
            (Some(answer), None) => format!("{} is {}{}", answer.node, answer.state, next_text(&node.next)),
            (Some(answer), Some(error)) => {
                format!("{} is {}, and then: {}", answer.node, answer.state, printable(error))
            }
            (None, error) => format!("NOT done: {}", printable(error.as_deref().unwrap_or_default())),
        };
        text.push_str(&format!("{}: {sentence}\n", node.addr));
        for need in &node.needs {
            text.push_str(&format!("{}: needs a person: {}\n", node.addr, printable(need)));
        }
    }
    text
}

fn next_text(next: &[Next]) -> String {
    let each = next.iter().map(|next| {
        let (version, more) = (next.version, next.more);
        let from = match &next.holders {
            Some(holders) => {
                let names: Vec<_> = holders.iter().map(ToString::to_string).collect();
                format!(" of {}", names.join(", "))
            }
            None => String::new(),
        };
        format!("; v{version} needs {more} more{from}")
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_next_is_named_where_it_may_be_known_and_counted_where_not() {
        let next = |holders: Option<Vec<HolderName>>| [Next { version: KeyVersion::MIN, more: 1, holders }];
        assert_eq!(next_text(&next(None)), "; v1 needs 1 more");
        let names = ["bob", "eve"].map(|name| name.parse().unwrap()).to_vec();
        assert_eq!(next_text(&next(Some(names))), "; v1 needs 1 more of bob, eve");
        assert_eq!(next_text(&[]), "");
    }
}
