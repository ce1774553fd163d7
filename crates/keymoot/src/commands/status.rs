//! `keymoot status`

use std::{io::IsTerminal as _, time::Duration};

use anyhow::Context as _;
use keymoot_api::status::{LastProof, ManifestOrigin, StatusAnswer, WindowStatus};
use keymoot_types::NodeName;
use serde::Serialize;

use super::{fan_out, parts};
use crate::{
    cli::Context,
    exit::Exit,
    output::{note, printable, table, yes_no},
    profile::Connection,
};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(2);
/// Moves to the top left and clears what is below.
const CLEAR: &str = "\u{1b}[H\u{1b}[J";

/// Show how the node is; ends with what needs a person and with the way back that is open
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without a token names of holders, sources and peers are not shown. Of several nodes each gets a line; one that was not
reached is named, and the exit code is then 3.

Examples:
  keymoot status
  keymoot status --watch
  keymoot status --node https://db1:8201 --node https://db2:8201")]
pub(crate) struct Args {
    /// Control address of a node; repeat it for each [default: the profile's nodes]
    #[arg(long = "node", value_name = "URL")]
    nodes: Vec<String>,
    /// Show it again every two seconds, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

#[derive(Serialize)]
struct Nodes {
    nodes: Vec<Node>,
}

#[derive(Serialize)]
struct Node {
    addr: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<StatusAnswer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Shows the status, once or again and again.
pub(crate) async fn run(context: &Context, args: &Args) -> anyhow::Result<Exit> {
    let connection = context.connect.settle()?;
    if !args.watch {
        return look(context, fan_out::nodes(&connection, &args.nodes)?, "").await;
    }
    let terminal = std::io::stdout().is_terminal() && !context.out.is_json();
    loop {
        let nodes = fan_out::nodes(&connection, &args.nodes)?;
        // A node that restarts is what one watches for: no end to the watching.
        if let Err(error) = look(context, nodes, if terminal { CLEAR } else { "" }).await {
            note(format!("no status: {}", printable(&format!("{error:#}"))));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// One look at all nodes. A single one is shown whole, several with a line each.
async fn look(context: &Context, nodes: Vec<fan_out::Node>, before: &str) -> anyhow::Result<Exit> {
    let outcomes = fan_out::each(nodes, async |control| Ok(control.status().await?)).await;
    let exit = Exit::worst(outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().err()).map(Exit::of_error));
    let shown = |text: String| format!("{before}{text}");
    match <[_; 1]>::try_from(outcomes) {
        Ok([(addr, outcome)]) => {
            let status = outcome.with_context(|| format!("asking {addr} for its status"))?;
            context.out.result(&status, |status| shown(text(status)))?;
        }
        Err(outcomes) => {
            let nodes = outcomes.into_iter().map(Node::of);
            context.out.result(&Nodes { nodes: nodes.collect() }, |nodes| shown(lines(&nodes.nodes)))?;
        }
    }
    Ok(exit)
}

/// After a step: how every node is. Of a single one its answer has said all.
pub(super) async fn afterwards(connection: &Connection) -> anyhow::Result<()> {
    let nodes = fan_out::nodes(connection, &[])?;
    if nodes.len() > 1 {
        let outcomes = fan_out::each(nodes, async |control| Ok(control.status().await?)).await;
        note(lines(&outcomes.into_iter().map(Node::of).collect::<Vec<_>>()));
    }
    Ok(())
}

impl Node {
    fn of((addr, outcome): fan_out::Outcome<StatusAnswer>) -> Self {
        match outcome {
            Ok(status) => Self { addr, status: Some(status), error: None },
            Err(error) => Self { addr, status: None, error: Some(format!("{error:#}")) },
        }
    }
}

/// A line a node, then what needs a person where, then the way back.
fn lines(nodes: &[Node]) -> String {
    let rows = nodes.iter().map(|node| match &node.status {
        Some(status) => {
            let wanted = status.versions.iter().filter(|version| version.required || version.have > 0);
            let versions: Vec<_> =
                wanted.map(|version| format!("v{} {}", version.version, parts::progress(version))).collect();
            let (name, state) = (status.node.to_string(), status.state.to_string());
            [name, state, status.revision.to_string(), versions.join(", "), node.addr.clone()]
        }
        None => ["?".into(), "NOT reached".into(), String::new(), String::new(), node.addr.clone()],
    });
    let mut text = table(["node", "state", "revision", "versions", "address"], rows);
    for node in nodes {
        if let Some(error) = &node.error {
            text.push_str(&format!("{}: NOT reached: {}\n", node.addr, printable(error)));
        }
        for need in node.status.iter().flat_map(|status| &status.needs) {
            text.push_str(&format!("{}: needs a person: {}\n", node.addr, printable(need)));
        }
    }
    for status in nodes.iter().filter_map(|node| node.status.as_ref()) {
        if let Some(window) = &status.window {
            text.push_str(&format!("{}: {}", status.node, window_line(window)));
        }
        text.push_str(&format!("{}: way back: {}\n", status.node, printable(&status.way_back)));
    }
    text
}

/// The maintenance window, in a line.
fn window_line(window: &WindowStatus) -> String {
    let members = match &window.members {
        Some(members) => members.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", "),
        None => "members that a token shows".into(),
    };
    let id = window.id.as_deref().map(|id| format!(" (request {})", printable(id))).unwrap_or_default();
    match window.left_seconds {
        Some(left) => format!(
            "maintenance window{id}: {members} get the keys from here without the holders, for {} more minutes\n",
            left.div_ceil(60)
        ),
        None => format!(
            "maintenance window{id} for {members}: no keys from here: {}\n",
            printable(window.why_not.as_deref().unwrap_or_default())
        ),
    }
}

/// When a holder last proved a share, and whether it is time again.
fn proved(proof: &LastProof) -> String {
    let at = proof.proved_at.map_or_else(|| "never".into(), |at| format!("{at:.0}"));
    if proof.drill_due { format!("{at}: the yearly drill is due") } else { at }
}

fn text(status: &StatusAnswer) -> String {
    let id = status.keyring_id.map_or_else(|| "not made yet".into(), |id| id.to_string());
    let origin = match status.manifest {
        ManifestOrigin::Store => "the store's",
        ManifestOrigin::LastGood => "the last good one",
    };
    let mut text = format!(
        "node {} is {}\nkeyring {} ({id}), manifest revision {}, {origin}\n",
        status.node, status.state, status.keyring, status.revision
    );
    if !status.versions.is_empty() {
        text.push_str(&parts::versions_table(&status.versions));
    }
    if let Some(peers) = status.peers.as_ref().filter(|peers| !peers.is_empty()) {
        text.push_str(&table(
            ["peer", "state", "revision", "validated", "heard of"],
            peers.iter().map(|peer| {
                let validated: Vec<_> = peer.validated.iter().map(|version| format!("v{version}")).collect();
                let state = peer.state.map_or_else(|| "unknown".into(), |state| state.to_string());
                let heard = peer.absent.clone().unwrap_or_else(|| "now".into());
                [peer.node.to_string(), state, peer.revision.to_string(), validated.join(" "), heard]
            }),
        ));
    }
    if let Some(window) = &status.window {
        text.push_str(&window_line(window));
    }
    if let Some(sources) = status.sources.as_ref().filter(|sources| !sources.is_empty()) {
        text.push_str(&table(
            ["source", "reachable", "detail"],
            sources.iter().map(|source| {
                [source.name.to_string(), yes_no(source.reachable), source.detail.clone().unwrap_or_default()]
            }),
        ));
    }
    if let Some(released) = status.released.as_ref().filter(|released| !released.is_empty()) {
        text.push_str(&table(
            ["released: in clear again", "since"],
            released.iter().map(|released| [released.source.to_string(), format!("{:.0}", released.at)]),
        ));
    }
    if let Some(samples) = status.samples.as_ref().filter(|samples| !samples.is_empty()) {
        text.push_str(&table(
            ["sample of", "version", "authenticated"],
            samples.iter().map(|sample| {
                let share = format!("{} of {}", sample.authenticated, sample.tried);
                [sample.source.to_string(), format!("v{}", sample.version), share]
            }),
        ));
    }
    if let Some(proofs) = status.last_proofs.as_ref().filter(|proofs| !proofs.is_empty()) {
        text.push_str(&table(
            ["version", "holder", "proved"],
            proofs.iter().map(|proof| [format!("v{}", proof.version), proof.holder.to_string(), proved(proof)]),
        ));
    }
    if status.needs.is_empty() {
        text.push_str("needs nobody\n");
    }
    for need in &status.needs {
        text.push_str(&format!("needs a person: {}\n", printable(need)));
    }
    text.push_str(&format!("way back: {}\n", printable(&status.way_back)));
    text
}
