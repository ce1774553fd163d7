//! What `keymoot audit verify` says.

use std::path::PathBuf;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keymoot_types::{
    Digest, KeyVersion, NodeName,
    audit::{Report, SignedHead},
};
use serde::Serialize;

use super::witness::Witness;
use crate::output::printable;

/// The result, as a document.
#[derive(Serialize)]
pub(super) struct Verdict {
    whole: bool,
    /// What is wrong, in sentences.
    findings: Vec<String>,
    first_bad: Option<Place>,
    torn_tail: Option<Place>,
    files: Vec<PathBuf>,
    node: Option<NodeName>,
    /// Good lines, up to the first bad one.
    lines: u64,
    first_seq: Option<u64>,
    last_seq: Option<u64>,
    /// `hash` of the last good line.
    head: Option<Digest>,
    losses: u64,
    checkpoints: u64,
    /// The newest checkpoint.
    vouched: Option<Vouched>,
    /// The signed head from elsewhere that is found in the log.
    compared: Option<u64>,
}

#[derive(Serialize)]
struct Place {
    file: PathBuf,
    line: u64,
    seq: Option<u64>,
    reason: String,
}

#[derive(Serialize)]
struct Vouched {
    seq: u64,
    version: KeyVersion,
    public_key: String,
    pinned: bool,
}

impl Verdict {
    pub(super) fn of(files: Vec<PathBuf>, report: &Report, witness: &Witness<'_>) -> Self {
        let file = |index: usize| files.get(index).cloned().unwrap_or_default();
        let first_bad = report.first_bad.as_ref().map(|bad| Place {
            file: file(bad.file),
            line: bad.line,
            seq: Some(bad.seq),
            reason: bad.flaw.to_string(),
        });
        let torn_tail = report.torn_tail.map(|torn| Place {
            file: file(torn.file),
            line: torn.line,
            seq: None,
            reason: format!(
                "its {} bytes end without a line feed: a kill cut the write off, or it is going on just now",
                torn.bytes
            ),
        });
        let mut findings: Vec<String> = first_bad.iter().chain(&torn_tail).map(Place::text).collect();
        if report.losses > 0 {
            let first = report.first_loss.unwrap_or_default();
            findings.push(format!(
                "the daemon declared {} losses, the first in seq {first}: lines before it are gone",
                report.losses
            ));
        }
        // Behind a bad line nothing was read.
        if first_bad.is_none() {
            findings.extend(missing(report, witness));
        }
        Self {
            whole: findings.is_empty() && report.is_whole(),
            findings,
            first_bad,
            torn_tail,
            node: witness.node.clone(),
            lines: report.lines,
            first_seq: report.first_seq,
            last_seq: report.tip.map(|tip| tip.seq),
            head: report.tip.map(|tip| tip.hash),
            losses: report.losses,
            checkpoints: report.checkpoints,
            vouched: witness.vouched.as_ref().map(|signed| Vouched::of(signed, witness)),
            compared: witness.compared,
            files,
        }
    }

    pub(super) fn whole(&self) -> bool {
        self.whole
    }

    pub(super) fn text(&self) -> String {
        let mut text: String = self.findings.iter().map(|finding| format!("{}\n", printable(finding))).collect();
        let word = if self.whole { "whole" } else { "NOT WHOLE; good before that" };
        text.push_str(&format!("{word}: {} lines", self.lines));
        if let (Some(first), Some(last), Some(head), Some(node)) =
            (self.first_seq, self.last_seq, self.head, &self.node)
        {
            text.push_str(&format!(", seq {first} to {last}, of node {node}\nhead: {head}"));
        }
        text.push_str(&format!("\ncheckpoints: {}", self.checkpoints));
        if let Some(vouched) = &self.vouched {
            text.push_str(&format!("; the newest, of seq {}, {}", vouched.seq, vouched.text()));
            // The checkpoint itself is one line further.
            if let Some(last) = self.last_seq.filter(|last| *last > vouched.seq.saturating_add(1)) {
                text.push_str(&format!("\nno signature vouches yet for seq {} to {last}", vouched.seq + 1));
            }
        }
        if let Some(seq) = self.compared {
            text.push_str(&format!("\ncompared: seq {seq} is the one that was signed"));
        }
        text + "\n"
    }
}

/// What a log lacks that has no bad line.
fn missing(report: &Report, witness: &Witness<'_>) -> Vec<String> {
    let Some(tip) = report.tip else { return vec!["there is no line in it".into()] };
    let mut findings = Vec::new();
    if let Some(signed) = witness.signed.as_ref().filter(|_| witness.compared.is_none()) {
        let (first, last, signed) = (report.first_seq.unwrap_or_default(), tip.seq, signed.head.seq);
        findings.push(if signed > last {
            format!("the log ends at seq {last}, and seq {signed} was signed: its tail was cut off, or it is an older copy")
        } else if signed < first {
            format!("the log begins at seq {first}, and seq {signed} was signed: add the file before")
        } else {
            format!("seq {signed} was signed, and it is among the lines that are gone")
        });
    }
    if !witness.pinned.is_empty() && witness.vouched.is_none() {
        findings.push("no line is vouched for: there is no checkpoint that a pinned key signed".into());
    }
    findings
}

impl Place {
    fn text(&self) -> String {
        let seq = self.seq.map(|seq| format!(", seq {seq}")).unwrap_or_default();
        format!("{}, line {}{seq}: {}", self.file.display(), self.line, self.reason)
    }
}

impl Vouched {
    fn of(signed: &SignedHead, witness: &Witness<'_>) -> Self {
        Self {
            seq: signed.head.seq,
            version: signed.version,
            public_key: STANDARD.encode(signed.public_key),
            pinned: !witness.pinned.is_empty(),
        }
    }

    fn text(&self) -> String {
        let Self { version, public_key, .. } = self;
        if self.pinned {
            return format!("is signed by v{version} with the pinned key {public_key}");
        }
        format!(
            "is signed by v{version} with the key that it names itself, {public_key}: \
             without --key this proves nothing about who wrote the log"
        )
    }
}
