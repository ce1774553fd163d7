//! Watching a job: a bar a source on a terminal; elsewhere a line, often at first, then every 30 seconds.

use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use keymoot_api::rekey::{Job, JobState, SourceProgress};
use keymoot_client::{Control, ControlError};

use super::rekey_line::{line, total};
use crate::{
    exit::{Exit, problem_in},
    output::{note, on_terminal, printable},
};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(500);
/// Lines come often for so long…
const OFTEN: Duration = Duration::from_secs(30);
const OFTEN_INTERVAL: Duration = Duration::from_secs(2);
/// …and then so seldom.
const SELDOM_INTERVAL: Duration = Duration::from_secs(30);
/// For so long a node may be away, as in a restart.
const PATIENCE: Duration = Duration::from_secs(600);

/// How a command about a job ends.
pub(crate) fn exit_of(state: JobState) -> Exit {
    match state {
        JobState::Running | JobState::Paused | JobState::Completed => Exit::Done,
        JobState::CompletedWithQuarantine => Exit::Partly,
        JobState::Failed | JobState::Cancelled => Exit::Failed,
    }
}

/// Shows the progress on stderr until the job is over.
pub(crate) async fn watch(control: &Control, id: &str) -> anyhow::Result<Job> {
    let mut show: Box<dyn Show> =
        if on_terminal() { Box::new(Bars::default()) } else { Box::new(Lines::default()) };
    let mut away_since: Option<Instant> = None;
    loop {
        match control.rekey_job(id).await {
            Ok(job) => {
                away_since = None;
                show.show(&job);
                if job.state.ended() {
                    show.end();
                    return Ok(job);
                }
            }
            Err(error) if passes(&error) => {
                let since = *away_since.get_or_insert_with(|| {
                    note(format!("still trying: {}", printable(&error.to_string())));
                    Instant::now()
                });
                if since.elapsed() > PATIENCE {
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// A node that restarts is away for a while, and then sealed; the job goes on when it is back.
pub(crate) fn passes(error: &ControlError) -> bool {
    problem_in(error).is_none_or(|problem| Exit::of_problem(problem.code) == Exit::TryAgain)
}

trait Show {
    fn show(&mut self, job: &Job);
    fn end(&mut self);
}

#[derive(Default)]
struct Bars {
    all: MultiProgress,
    bars: Vec<ProgressBar>,
}

impl Show for Bars {
    fn show(&mut self, job: &Job) {
        while self.bars.len() < job.sources.len() {
            self.bars.push(self.all.add(ProgressBar::new_spinner().with_style(style("{spinner:20}"))));
        }
        for (bar, source) in self.bars.iter().zip(&job.sources) {
            bar.set_prefix(source.name.to_string());
            bar.set_message(line(job, source));
            measure(bar, source);
        }
    }

    fn end(&mut self) {
        for bar in &self.bars {
            bar.abandon();
        }
    }
}

/// A message that is too long for the line is cut, not broken.
fn style(measure: &str) -> ProgressStyle {
    ProgressStyle::with_template(&format!("{{prefix:24}} {measure} {{wide_msg}}"))
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A spinner until it is known how many rows there are: a bar of nothing would be full.
fn measure(bar: &ProgressBar, source: &SourceProgress) {
    let Some(total) = total(source) else {
        bar.tick();
        return;
    };
    if bar.length().is_none() {
        bar.set_style(style("{bar:20}"));
    }
    bar.set_length(total.max(source.scanned));
    bar.set_position(source.scanned);
}

#[derive(Default)]
struct Lines {
    begun: Option<Instant>,
    shown: Option<Instant>,
}

impl Show for Lines {
    fn show(&mut self, job: &Job) {
        let now = Instant::now();
        let begun = *self.begun.get_or_insert(now);
        let interval = if now.duration_since(begun) < OFTEN { OFTEN_INTERVAL } else { SELDOM_INTERVAL };
        let due = self.shown.is_none_or(|shown| now.duration_since(shown) >= interval);
        if due || job.state.ended() {
            for source in &job.sources {
                note(format!("{}: {}", source.name, line(job, source)));
            }
            self.shown = Some(now);
        }
    }

    fn end(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_bar_before_there_is_a_total() {
        let mut source: SourceProgress = serde_json::from_value(serde_json::json!({
            "name": "customers.ssn", "total": 0, "total_exact": false, "scanned": 0, "rekeyed": 0, "current": 0,
            "null": 0, "empty": 0, "quarantined": 0, "conflicts": 0, "rows_per_second": 0.0, "eta_seconds": null,
        }))
        .unwrap();
        let bar = ProgressBar::new_spinner();
        measure(&bar, &source);
        assert_eq!(bar.length(), None);
        (source.total, source.scanned) = (752_865, 500);
        measure(&bar, &source);
        assert_eq!((bar.length(), bar.position()), (Some(752_865), 500));
    }

    #[test]
    fn rows_in_quarantine_are_done_in_part() {
        assert_eq!(exit_of(JobState::CompletedWithQuarantine).code(), 6);
        assert_eq!(exit_of(JobState::Completed).code(), 0);
        assert_eq!(exit_of(JobState::Failed).code(), 1);
    }
}
