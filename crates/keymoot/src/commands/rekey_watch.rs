//! Watching a job: a bar a source on a terminal; elsewhere a line, often at first, then every 30 seconds.

use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use keymoot_api::rekey::{Job, JobState, SourceProgress};
use keymoot_client::{Control, ControlError};

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
                if job.state.is_over() {
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
            let style = ProgressStyle::with_template("{prefix:24} {wide_bar} {percent:>3} %  {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            self.bars.push(self.all.add(ProgressBar::new(0).with_style(style)));
        }
        for (bar, source) in self.bars.iter().zip(&job.sources) {
            bar.set_prefix(source.name.to_string());
            bar.set_length(source.total.max(source.scanned));
            bar.set_position(source.scanned);
            bar.set_message(line(job, source));
        }
    }

    fn end(&mut self) {
        for bar in &self.bars {
            bar.abandon();
        }
    }
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
        if due || job.state.is_over() {
            for source in &job.sources {
                note(format!("{}: {}", source.name, line(job, source)));
            }
            self.shown = Some(now);
        }
    }

    fn end(&mut self) {}
}

/// `460900 of ~752865 (61 %) · 41200 rows/s · 3 lost to writers · 1 quarantined · throttled: … · 1m19s left`
fn line(job: &Job, source: &SourceProgress) -> String {
    let mut parts = vec![of_total(source)];
    if job.state == JobState::Running {
        parts.push(format!("{:.0} rows/s", source.rows_per_second));
    } else {
        parts.push(job.state.to_string());
    }
    if source.conflicts > 0 {
        parts.push(format!("{} lost to writers", source.conflicts));
    }
    if source.quarantined > 0 {
        parts.push(format!("{} quarantined", source.quarantined));
    }
    if let Some(throttled) = &job.throttled {
        parts.push(format!("throttled: {}", printable(throttled)));
    }
    if let Some(seconds) = source.eta_seconds {
        parts.push(format!("{} left", keymoot_api::HumanDuration::new(Duration::from_secs(seconds))));
    }
    parts.join(" · ")
}

/// `460900 of ~752865 (61 %)`; `~` stands before a total that was estimated.
pub(crate) fn of_total(source: &SourceProgress) -> String {
    let about = if source.total_exact { "" } else { "~" };
    // Before the first look at a table nothing is known of it; an empty one is done.
    let of_none = if source.total_exact { 100 } else { 0 };
    let percent = source.scanned.saturating_mul(100).checked_div(source.total).unwrap_or(of_none).min(100);
    format!("{} of {about}{} ({percent} %)", source.scanned, source.total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_and_what_stands_in_the_way() {
        let job: Job = serde_json::from_value(serde_json::json!({
            "id": "1", "state": "running", "dry_run": false, "started_at": "2026-11-21T00:00:00Z",
            "ended_at": null, "throttled": "replica lag 3.2 s > 1.5 s",
            "sources": [{"name": "customers.ssn", "total": 752865, "total_exact": false, "scanned": 460900,
                "rekeyed": 1, "current": 0, "null": 0, "empty": 0, "quarantined": 1, "conflicts": 3,
                "rows_per_second": 41200.4, "eta_seconds": 79}],
        }))
        .unwrap();
        assert_eq!(
            line(&job, &job.sources[0]),
            "460900 of ~752865 (61 %) · 41200 rows/s · 3 lost to writers · 1 quarantined · \
             throttled: replica lag 3.2 s > 1.5 s · 1m19s left"
        );
    }

    #[test]
    fn rows_in_quarantine_are_done_in_part() {
        assert_eq!(exit_of(JobState::CompletedWithQuarantine).code(), 6);
        assert_eq!(exit_of(JobState::Completed).code(), 0);
        assert_eq!(exit_of(JobState::Failed).code(), 1);
    }
}
