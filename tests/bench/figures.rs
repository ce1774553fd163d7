//! What is measured and how it is shown: medians of alternating rounds, their spread, and ratios beside goals.

use std::time::Duration;

use hdrhistogram::Histogram;

/// What one round of load gave.
pub(crate) struct Round {
    /// Answers with status 200 in a second.
    pub(crate) per_second: f64,
    /// Microseconds from the request to the end of its answer.
    pub(crate) latency: Histogram<u64>,
    /// Answers.
    pub(crate) answers: u64,
    /// Processor seconds of the server in that time.
    pub(crate) server_cpu: f64,
}

/// The rounds of one side.
#[derive(Default)]
pub(crate) struct Side {
    rounds: Vec<Round>,
}

impl Side {
    pub(crate) fn add(&mut self, round: Round) {
        self.rounds.push(round);
    }

    /// Answers a second of each round.
    pub(crate) fn rates(&self) -> Spread {
        Spread::of(self.rounds.iter().map(|round| round.per_second))
    }

    /// Milliseconds below which this share of a round's answers came, for each round.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> Spread {
        let millis = |micros: u64| Duration::from_micros(micros).as_secs_f64() * 1e3;
        Spread::of(self.rounds.iter().map(|round| millis(round.latency.value_at_quantile(quantile))))
    }

    /// Processor microseconds of the server for one of `parts` parts of an answer, over all rounds.
    pub(crate) fn cpu_us_for_each(&self, parts: f64) -> f64 {
        let cpu: f64 = self.rounds.iter().map(|round| round.server_cpu).sum();
        let answers: f64 = self.rounds.iter().map(|round| round.answers as f64).sum();
        1e6 * cpu / (answers * parts)
    }
}

/// Lowest, median and highest of some figures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(figures: impl Iterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.collect();
        figures.sort_by(f64::total_cmp);
        let last = figures.len() - 1;
        Self {
            min: figures[0],
            median: (figures[last / 2] + figures[figures.len() / 2]) / 2.0,
            max: figures[last],
        }
    }

    pub(crate) fn scaled(self, by: f64) -> Self {
        Self { min: self.min * by, median: self.median * by, max: self.max * by }
    }
}

/// `12,345`, or `0.123` where that says more.
pub(crate) fn number(figure: f64) -> String {
    if figure < 100.0 {
        return format!("{figure:.3}");
    }
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(crate) fn heading(text: &str) {
    println!("\n{text}");
    println!("  {:<46} {:>12} {:>12} {:>12}", "", "min", "median", "max");
}

pub(crate) fn row(what: &str, spread: Spread) {
    println!("  {what:<46} {:>12} {:>12} {:>12}", number(spread.min), number(spread.median), number(spread.max));
}

/// A figure that has no spread.
pub(crate) fn figure(what: &str, figure: f64, unit: &str) {
    println!("  {what:<46} {:>12} {unit}", number(figure));
}

/// Better is more, or less.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

/// A ratio beside its goal. Nothing fails here: this machine may be busy.
pub(crate) fn ratio(what: &str, ratio: f64, goal: Goal) {
    let (sign, limit, held) = match goal {
        Goal::AtLeast(limit) => (">=", limit, ratio >= limit),
        Goal::AtMost(limit) => ("<=", limit, ratio <= limit),
    };
    let said = if held { "reached" } else { "MISSED" };
    println!("  {what:<46} {:>12} goal {sign} {limit}: {said}", format!("{ratio:.3}"));
}
