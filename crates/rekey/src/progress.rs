//! One line that tells how far a source is.

use std::fmt::Write as _;

use crate::view::SourceView;

/// `460,900 of ~752,865 (61 %) · 41,200 rows/s · 3 lost to writers · 1 quarantined · throttled: … · 1m19s left`
///
/// `~` stands before an estimated total. Parts that have nothing to tell are left out.
pub fn line(source: &SourceView, throttled: Option<&str>) -> String {
    let mut line = grouped(source.scanned);
    if let Some(total) = source.total {
        let about = if source.total_exact { "" } else { "~" };
        // Writing to a string can't fail.
        write!(line, " of {about}{}", grouped(total)).unwrap_or_default();
        if let Some(percent) = source.scanned.saturating_mul(100).checked_div(total) {
            write!(line, " ({} %)", percent.min(100)).unwrap_or_default();
        }
    }
    let mut part = |text: String| line.extend([" · ", text.as_str()]);
    if let Some(reason) = &source.failed {
        part(format!("failed: {reason}"));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate that people look at")]
    let rate = source.rows_per_second.round() as u64;
    if rate > 0 {
        part(format!("{} rows/s", grouped(rate)));
    }
    if source.conflicts > 0 {
        part(format!("{} lost to writers", grouped(source.conflicts)));
    }
    if source.quarantined > 0 {
        part(format!("{} quarantined", grouped(source.quarantined)));
    }
    if let Some(reason) = throttled {
        part(format!("throttled: {reason}"));
    }
    if let Some(seconds) = source.eta_seconds {
        part(format!("{} left", span(seconds)));
    }
    line
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The two greatest units: `45s`, `1m19s`, `2h5m`, `3d4h`.
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, ..) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{JobState, SourceRecord};

    #[test]
    fn the_line_is_the_one_that_administrators_know() {
        let mut view = SourceView::of(&SourceRecord::new("a.b".parse().unwrap()), JobState::Running, 0.0);
        assert_eq!(line(&view, None), "0");
        view.total = Some(752_865);
        view.scanned = 460_900;
        view.rows_per_second = 41_200.0;
        view.conflicts = 3;
        view.quarantined = 1;
        view.eta_seconds = Some(79);
        assert_eq!(
            line(&view, Some("replica lag 3.2 s > 1.5 s")),
            "460,900 of ~752,865 (61 %) · 41,200 rows/s · 3 lost to writers · 1 quarantined · \
             throttled: replica lag 3.2 s > 1.5 s · 1m19s left"
        );
        view.total = Some(0);
        view.total_exact = true;
        assert!(line(&view, None).starts_with("460,900 of 0 · "));
        assert_eq!([span(59), span(3600), span(90_000)], ["59s", "1h0m", "1d1h"]);
    }
}
