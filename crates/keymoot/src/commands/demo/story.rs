//! How the demo tells what it does: phases with a title, plain lines, and a bar where something takes a while.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::output::{note, on_terminal};

/// Between two lines of progress where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// How long a phase took.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PhaseTime {
    /// Its one word.
    pub(crate) phase: &'static str,
    /// How long.
    pub(crate) seconds: f64,
}

/// The telling, which goes to stderr.
pub(crate) struct Story {
    begun: Instant,
    phase: Option<(&'static str, Instant)>,
    done: Vec<PhaseTime>,
}

impl Story {
    /// Begins.
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), phase: None, done: Vec::new() }
    }

    /// Ends the phase before and begins another.
    pub(crate) fn phase(&mut self, phase: &'static str, title: &str) {
        self.end_phase();
        note(format!("\n[{:>5.1} s] {title}", self.begun.elapsed().as_secs_f64()));
        self.phase = Some((phase, Instant::now()));
    }

    /// One line of the present phase.
    pub(crate) fn say(&self, text: impl AsRef<str>) {
        note(format!("          {}", text.as_ref()));
    }

    fn end_phase(&mut self) {
        if let Some((phase, begun)) = self.phase.take() {
            self.done.push(PhaseTime { phase, seconds: rounded(begun.elapsed()) });
        }
    }

    /// Ends, with seconds by phase and in all.
    pub(crate) fn end(mut self) -> (Vec<PhaseTime>, f64) {
        self.end_phase();
        (self.done, rounded(self.begun.elapsed()))
    }
}

/// To the millisecond.
pub(crate) fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

/// A bar on a terminal; elsewhere a line now and then.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    total: u64,
    what: &'static str,
    told: Instant,
}

impl Progress {
    /// Begins at zero.
    pub(crate) fn new(total: u64, what: &'static str) -> Self {
        let bar = on_terminal().then(|| {
            let bar = ProgressBar::new(total);
            let style =
                ProgressStyle::with_template("          {bar:36} {human_pos} of {human_len} {msg}, {eta} left");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(what);
            bar
        });
        Self { bar, total, what, told: Instant::now() }
    }

    /// So much is done now.
    pub(crate) fn at(&mut self, done: u64, more: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done.min(self.total));
            bar.set_message(format!("{}{more}", self.what));
        } else if self.told.elapsed() >= LINE_INTERVAL {
            self.told = Instant::now();
            note(format!("          {done} of {} {}{more}", self.total, self.what));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
