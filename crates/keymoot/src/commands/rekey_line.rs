//! One line that tells how far a source is.

use keymoot_api::rekey::{Job, JobState, SourceProgress};

use crate::output::printable;

/// `460,900 of ~752,865 (61 %) · 41,200 rows/s · 3 lost to writers · 1 quarantined · throttled: … · 1m19s left`
///
/// What there is nothing to tell of is left out.
pub(crate) fn line(job: &Job, source: &SourceProgress) -> String {
    let mut parts = vec![of_total(source)];
    if job.state == JobState::Running {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate that people look at")]
        let rate = source.rows_per_second.round() as u64;
        parts.push(format!("{} rows/s", grouped(rate)));
    } else {
        parts.push(job.state.to_string());
    }
    if source.conflicts > 0 {
        parts.push(format!("{} lost to writers", grouped(source.conflicts)));
    }
    if source.quarantined > 0 {
        parts.push(format!("{} quarantined", grouped(source.quarantined)));
    }
    if let Some(failed) = &source.failed {
        parts.push(format!("failed: {}", printable(failed)));
    }
    if let Some(throttled) = &source.throttled {
        parts.push(format!("throttled: {}", printable(throttled)));
    }
    if let Some(seconds) = source.eta_seconds {
        parts.push(format!("{} left", span(seconds)));
    }
    parts.join(" · ")
}

/// `customers.ssn waits on db1 since 2026-11-21T12:00:03Z: replica lag 3.2 s > 1.5 s`
pub(crate) fn waits(source: &SourceProgress) -> Option<String> {
    let on = source.throttled_by.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
    let since = source.throttled_since.map(|since| format!(" since {since:.0}")).unwrap_or_default();
    Some(format!("{} waits{on}{since}: {}", source.name, printable(source.throttled.as_ref()?)))
}

/// How many rows there are, as far as anybody has looked.
pub(crate) fn total(source: &SourceProgress) -> Option<u64> {
    (source.total_exact || source.total > 0).then_some(source.total)
}

/// `460,900 of ~752,865 (61 %)`; `~` stands before a total that was estimated.
pub(crate) fn of_total(source: &SourceProgress) -> String {
    let Some(total) = total(source) else { return "rows not counted yet".into() };
    let about = if source.total_exact { "" } else { "~" };
    // An empty table is done.
    let percent = source.scanned.saturating_mul(100).checked_div(total).unwrap_or(100).min(100);
    format!("{} of {about}{} ({percent} %)", grouped(source.scanned), grouped(total))
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
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
pub(crate) fn span(seconds: u64) -> String {
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

    fn job(throttled: &str) -> Job {
        serde_json::from_value(serde_json::json!({
            "id": "1", "state": "running", "dry_run": false, "started_at": "2026-11-21T00:00:00Z", "ended_at": null,
            "sources": [{"name": "customers.ssn", "total": 752865, "total_exact": false, "scanned": 460900,
                "rekeyed": 1, "current": 0, "null": 0, "empty": 0, "quarantined": 1, "conflicts": 3,
                "rows_per_second": 41200.4, "eta_seconds": 79, "throttled": throttled}],
        }))
        .unwrap()
    }

    #[test]
    fn the_line_is_the_one_that_administrators_know() {
        let mut job = job("replica lag 3.2 s > 1.5 s");
        assert_eq!(
            line(&job, &job.sources[0]),
            "460,900 of ~752,865 (61 %) · 41,200 rows/s · 3 lost to writers · 1 quarantined · \
             throttled: replica lag 3.2 s > 1.5 s · 1m19s left"
        );
        job.state = JobState::Paused;
        let mut source = job.sources[0].clone();
        (source.total_exact, source.eta_seconds, source.throttled) = (true, None, None);
        (source.conflicts, source.quarantined) = (0, 0);
        assert_eq!(line(&job, &source), "460,900 of 752,865 (61 %) · paused");
        assert_eq!([span(59), span(3600), span(90_000)], ["59s", "1h0m", "1d1h"]);
    }

    #[test]
    fn a_wait_is_told_with_its_node_and_its_beginning() {
        let mut source = job("replica lag 3.2 s > 1.5 s").sources.remove(0);
        source.throttled_by = Some("db1".parse().unwrap());
        source.throttled_since = Some("2026-11-21T12:00:03.25Z".parse().unwrap());
        let told = "customers.ssn waits on db1 since 2026-11-21T12:00:03Z: replica lag 3.2 s > 1.5 s";
        assert_eq!(waits(&source).as_deref(), Some(told));
        source.throttled = None;
        assert_eq!(waits(&source), None);
    }

    #[test]
    fn a_table_that_nobody_has_counted_is_not_done() {
        let mut source = job("").sources.remove(0);
        (source.scanned, source.total) = (0, 0);
        assert_eq!((total(&source), of_total(&source).as_str()), (None, "rows not counted yet"));
        source.total_exact = true;
        assert_eq!((total(&source), of_total(&source).as_str()), (Some(0), "0 of 0 (100 %)"));
    }

    #[test]
    fn what_a_server_says_drives_no_terminal_and_breaks_no_line() {
        let job = job("a\u{1b}[2Jb\r\nc");
        assert!(!line(&job, &job.sources[0]).contains(|c: char| c.is_control()));
    }
}
