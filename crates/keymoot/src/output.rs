//! What goes to stdout and stderr.
//!
//! A result is one JSON document or text on stdout; progress and messages go to stderr. Tables and colour only on
//! a terminal; elsewhere columns are separated by tabs.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use clap::ValueEnum;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use keymoot_api::Missing;
use serde::Serialize;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    /// In this format.
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    /// Prints a result: as a document, or as the text made from it.
    pub(crate) fn result<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        match self.format {
            Format::Json => self.raw(&format!("{}\n", serde_json::to_string_pretty(value)?)),
            Format::Text => {
                let text = text(value);
                self.raw(&if text.is_empty() || text.ends_with('\n') { text } else { format!("{text}\n") })
            }
        }
    }

    /// Whether results are documents.
    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Prints text as it is.
    pub(crate) fn raw(self, text: &str) -> anyhow::Result<()> {
        let mut out = anstream::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("writing to stdout")
    }

    /// Prints bytes as they are: a plaintext.
    pub(crate) fn bytes(self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).context("writing to stdout")
    }
}

/// A message, on stderr. Nobody reads it where stderr is closed, and that is no failure.
pub(crate) fn note(text: impl AsRef<str>) {
    writeln!(anstream::stderr(), "{}", text.as_ref()).unwrap_or_default();
}

/// Whether a person sees stderr, where bars and questions go.
pub(crate) fn on_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Rows under a heading: a table on a terminal, tabs elsewhere.
pub(crate) fn table<const N: usize>(heading: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    table_for(io::stdout().is_terminal(), heading, rows)
}

fn table_for<const N: usize>(
    terminal: bool,
    heading: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let rows = rows.into_iter().map(|row| row.map(|cell| printable(&cell)));
    if terminal {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header(heading).add_rows(rows);
        return format!("{table}\n");
    }
    let mut text = format!("{}\n", heading.join("\t"));
    for row in rows {
        text.push_str(&row.join("\t"));
        text.push('\n');
    }
    text
}

/// What a gate lacks, as a table.
pub(crate) fn missing_table(missing: &[Missing]) -> String {
    table(
        ["missing", "who", "what to do"],
        missing.iter().map(|missing| {
            [missing.code.clone(), missing.who.clone().unwrap_or_default(), missing.detail.clone()]
        }),
    )
}

/// Without control characters: what a node says must not drive a terminal or break a line.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `yes` or `no`.
pub(crate) fn yes_no(flag: bool) -> String {
    if flag { "yes" } else { "no" }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_terminal_columns_are_separated_by_tabs_and_nothing_else() {
        let rows = || [["9".to_owned(), "a\u{1b}[31m\tb".to_owned()]];
        assert_eq!(table_for(false, ["version", "who"], rows()), "version\twho\n9\ta [31m b\n");
        assert!(table_for(true, ["version", "who"], rows()).contains('│'));
    }
}
