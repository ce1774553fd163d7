//! `keymoot audit tail`

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use keymoot_api::upkeep::AuditAnswer;
use keymoot_client::{Control, ControlError};
use serde_json::{Value as Json, json};

use crate::{
    cli::Context,
    commands::rekey_watch::passes,
    exit::Exit,
    output::{note, printable},
};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// For so long a node may be away, as in a restart.
const PATIENCE: Duration = Duration::from_secs(600);
/// As many lines go into one document.
const DOCUMENT_LINES_MAX: usize = 100_000;

/// Show the newest lines of a node's audit log
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What is shown comes from the node and is not verified: for that, `keymoot audit verify` reads the file itself.
With --follow and --output json each line is a document.

Examples:
  keymoot audit tail -n 50
  keymoot audit tail --follow --output json
  keymoot audit tail --after 1200 --output json")]
pub(crate) struct Args {
    /// Show every line behind this number
    #[arg(long, value_name = "SEQ", conflicts_with = "lines")]
    after: Option<u64>,
    /// Show so many of the newest lines
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 20)]
    lines: u16,
    /// Go on with new lines until Ctrl-C
    #[arg(long)]
    follow: bool,
}

/// Shows.
pub(crate) async fn run(context: &Context, args: &Args) -> anyhow::Result<Exit> {
    let control = context.connect.settle()?.control()?;
    let mut log = Pages { control: &control, after: args.after.unwrap_or_default() };
    let mut show = Show { context, document: (context.out.is_json() && !args.follow).then(Vec::new) };
    if args.after.is_some() {
        let mut more = true;
        while more {
            let (entries, goes_on) = log.next().await.context("asking for the audit log")?;
            show.entries(entries)?;
            more = goes_on;
        }
    } else {
        show.entries(log.newest(usize::from(args.lines)).await?)?;
    }
    if args.follow {
        log.follow(&mut show).await?;
    }
    show.end()?;
    Ok(Exit::Done)
}

/// A node's log, page after page.
struct Pages<'a> {
    control: &'a Control,
    after: u64,
}

impl Pages<'_> {
    /// The next page, and whether another one is there.
    async fn next(&mut self) -> Result<(Vec<Json>, bool), ControlError> {
        let AuditAnswer { entries, next, .. } = self.control.audit(Some(self.after)).await?;
        let last = entries.last().and_then(|entry| entry.get("seq")).and_then(Json::as_u64);
        // What does not lead further is the end, whatever a node says.
        let further = last.filter(|last| *last > self.after);
        self.after = further.unwrap_or(self.after);
        Ok((entries, further.is_some() && next.is_some()))
    }

    /// The newest lines; the signed head says about where they are.
    async fn newest(&mut self, number: usize) -> anyhow::Result<Vec<Json>> {
        let head = super::signed_head(self.control).await?;
        self.after = head.map_or(0, |signed| signed.head.seq.saturating_sub(number as u64));
        let mut newest = VecDeque::new();
        let mut more = true;
        while more {
            let (entries, goes_on) = self.next().await.context("asking for the audit log")?;
            newest.extend(entries);
            newest.drain(..newest.len().saturating_sub(number));
            more = goes_on;
        }
        Ok(newest.into())
    }

    async fn follow(&mut self, show: &mut Show<'_>) -> anyhow::Result<()> {
        let mut away_since: Option<Instant> = None;
        loop {
            match self.next().await {
                Ok((entries, more)) => {
                    away_since = None;
                    show.entries(entries)?;
                    if more {
                        continue;
                    }
                }
                Err(error) if passes(&error) && away_since.is_none_or(|since| since.elapsed() <= PATIENCE) => {
                    away_since.get_or_insert_with(|| {
                        note(format!("still trying: {}", printable(&error.to_string())));
                        Instant::now()
                    });
                }
                Err(error) => return Err(error).context("following the audit log"),
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

/// Where lines go: to stdout at once, or into one document.
struct Show<'a> {
    context: &'a Context,
    document: Option<Vec<Json>>,
}

impl Show<'_> {
    fn entries(&mut self, entries: Vec<Json>) -> anyhow::Result<()> {
        let out = self.context.out;
        let Some(document) = &mut self.document else {
            let text = |entry: &Json| if out.is_json() { format!("{entry}\n") } else { line(entry) };
            return out.raw(&entries.iter().map(text).collect::<String>());
        };
        document.extend(entries);
        if document.len() > DOCUMENT_LINES_MAX {
            bail!("there are over {DOCUMENT_LINES_MAX} lines: with --follow each is a document of its own");
        }
        Ok(())
    }

    fn end(self) -> anyhow::Result<()> {
        match self.document {
            Some(document) => self.context.out.result(&json!({"entries": document}), |_| String::new()),
            None => Ok(()),
        }
    }
}

/// `121  2026-11-21T07:14:16Z  unlock-part done  by ops from 10.0.0.7  holder="ann" version=9`
fn line(entry: &Json) -> String {
    let field = |name: &str| entry.get(name).map_or_else(String::new, plain);
    let mut text = format!("{:>6}  {}  {} {}", field("seq"), field("at"), field("event"), field("phase"));
    for (word, name) in [("  by", "who"), (" from", "from"), ("  request", "request")] {
        if entry.get(name).is_some() {
            text.push_str(&format!("{word} {}", field(name)));
        }
    }
    let facts = entry.get("facts").and_then(Json::as_object);
    for (index, (name, value)) in facts.into_iter().flatten().enumerate() {
        text.push_str(&format!("{}{name}={value}", if index == 0 { "  " } else { " " }));
    }
    printable(&text) + "\n"
}

fn plain(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_people_is_one_line_whatever_is_in_it() {
        let entry = json!({"seq": 121, "at": "2026-11-21T07:14:16Z", "event": "unlock", "phase": "refused",
            "who": "ops\n\u{1b}[2J", "from": "10.0.0.7", "facts": {"code": "share\nmismatch", "version": 9}});
        assert_eq!(
            line(&entry),
            "   121  2026-11-21T07:14:16Z  unlock refused  by ops  [2J from 10.0.0.7  code=\"share\\nmismatch\" version=9\n"
        );
        assert_eq!(line(&Json::Null).lines().count(), 1);
    }
}
