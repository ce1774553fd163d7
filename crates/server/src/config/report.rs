//! What was found in a configuration: everything at once, each finding with its line.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::Serialize;

/// More findings than this help nobody; the rest is counted.
const FINDINGS_MAX: usize = 200;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The daemon would not start, or refuse the reload.
    Error,
    /// It would start; somebody should know.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One finding. Its text names no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Counted from 1; none where the file as a whole is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// How bad.
    pub severity: Severity,
    /// What, and what to do.
    pub text: String,
}

/// Everything that was found in one file, ascending by line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The file.
    pub file: PathBuf,
    /// The findings.
    pub findings: Vec<Finding>,
    /// How many more there were.
    pub left_out: usize,
}

impl Report {
    /// Nothing found yet.
    pub fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), findings: Vec::new(), left_out: 0 }
    }

    pub(super) fn add(&mut self, line: Option<usize>, severity: Severity, text: String) {
        if self.findings.len() >= FINDINGS_MAX {
            self.left_out += 1;
        } else {
            self.findings.push(Finding { line, severity, text });
        }
    }

    pub(super) fn error(&mut self, line: impl Into<Option<usize>>, text: impl Into<String>) {
        self.add(line.into(), Severity::Error, text.into());
    }

    pub(super) fn warning(&mut self, line: impl Into<Option<usize>>, text: impl Into<String>) {
        self.add(line.into(), Severity::Warning, text.into());
    }

    pub(super) fn sort(&mut self) {
        self.findings.sort_by_key(|finding| finding.line);
    }

    /// Whether the daemon may start with it: warnings are allowed. What was left out may be an error.
    pub fn is_ok(&self) -> bool {
        self.left_out == 0 && self.findings.iter().all(|finding| finding.severity != Severity::Error)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        for Finding { line, severity, text } in &self.findings {
            match line {
                Some(line) => writeln!(f, "{file}:{line}: {severity}: {text}")?,
                None => writeln!(f, "{file}: {severity}: {text}")?,
            }
        }
        if self.left_out > 0 {
            writeln!(f, "{file}: error: and {} more", self.left_out)?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}
