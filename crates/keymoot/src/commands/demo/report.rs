//! What the demo ends with.

use std::path::PathBuf;

use keymoot_types::{KeyVersion, KeyringId};
use serde::Serialize;

use super::story::PhaseTime;
use crate::output::{printable, table};

/// The counts.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Nothing failed, nothing was left, and every row opened.
    pub(crate) succeeded: bool,
    pub(crate) keyring_id: KeyringId,
    pub(crate) holders: usize,
    pub(crate) threshold: u8,
    /// Tokens that the table began with.
    pub(crate) records: u64,
    /// Rows at the end.
    pub(crate) rows: u64,
    /// Of these, opened at the end and found to be what they were.
    pub(crate) rows_opened: u64,
    /// Answers to the services, batches of the loading and the last check not counted.
    pub(crate) requests_served: u64,
    pub(crate) failures: u64,
    pub(crate) failure_examples: Vec<String>,
    pub(crate) tokens_decrypted: u64,
    pub(crate) tokens_issued: u64,
    /// Values of v9 that there ever were: what was loaded, and what services issued before the activation.
    pub(crate) old_values: u64,
    pub(crate) replaced_by_services: u64,
    pub(crate) replaced_by_worker: u64,
    /// Rows that the worker found changed by a service since it had read them.
    pub(crate) conflicts: u64,
    /// Undetermined answers during the restart, all asked again.
    pub(crate) asked_again_during_restart: u64,
    pub(crate) slowest_answer_ms: f64,
    pub(crate) values_by_version: Vec<VersionCount>,
    pub(crate) seconds_by_phase: Vec<PhaseTime>,
    pub(crate) seconds: f64,
    /// Where everything was left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) directory: Option<PathBuf>,
}

/// How many values name a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct VersionCount {
    pub(crate) version: KeyVersion,
    pub(crate) count: u64,
}

impl Report {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let row = |what: &str, number: String| [what.to_owned(), number];
        let mut rows = vec![
            row("requests served to the services", self.requests_served.to_string()),
            row("  of these, tokens decrypted", self.tokens_decrypted.to_string()),
            row("  of these, new tokens issued", self.tokens_issued.to_string()),
            row("failures", self.failures.to_string()),
            row("asked again during the restart", self.asked_again_during_restart.to_string()),
            row("slowest answer, restart left out", format!("{:.1} ms", self.slowest_answer_ms)),
            row("old values there ever were", self.old_values.to_string()),
            row("  of these, replaced by the worker", self.replaced_by_worker.to_string()),
            row("  of these, replaced by the services", self.replaced_by_services.to_string()),
            row("times the worker found a row changed", self.conflicts.to_string()),
        ];
        for count in &self.values_by_version {
            rows.push(row(&format!("values of v{}", count.version), count.count.to_string()));
        }
        rows.push(row("rows opened at the end", format!("{} of {}", self.rows_opened, self.rows)));
        let mut text = table(["what", "count"], rows);
        let seconds = self.seconds_by_phase.iter();
        let seconds = seconds.map(|phase| [phase.phase.to_owned(), format!("{:.1}", phase.seconds)]);
        text.push_str(&table(
            ["phase", "seconds"],
            seconds.chain([["in all".into(), format!("{:.1}", self.seconds)]]),
        ));
        for example in &self.failure_examples {
            text.push_str(&format!("failed: {}\n", printable(example)));
        }
        if let Some(directory) = &self.directory {
            text.push_str(&format!(
                "left in {}: app.db (sqlite3 app.db \"SELECT id, token FROM tokens LIMIT 5\"), keymoot.toml, keymoot.log, \
                 certificate-v9.json, data/\n",
                directory.display()
            ));
        }
        text.push_str(if self.succeeded {
            "The key was replaced under load: no request failed, and nothing is left of the old one.\n"
        } else {
            "THE DEMO FAILED: look at the failures and counts above.\n"
        });
        text
    }
}
