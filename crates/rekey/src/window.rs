//! The hours of the day in which jobs may work.

use std::{fmt, str::FromStr};

use jiff::{
    Timestamp,
    civil::{Date, Time},
    tz::TimeZone,
};

/// A maintenance window: every day from one time to another, over midnight too. Outside of it jobs wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    from: Time,
    to: Time,
    zone: TimeZone,
    /// As it is written and shown.
    text: String,
}

/// Why a text is no window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// Not two times of the day.
    #[error("a window is written as \"22:00-05:00\", in UTC, or with a zone: \"22:00-05:00 Europe/Berlin\"")]
    NotAWindow,
    /// Jobs would never work, or always.
    #[error("a window ends at another time than it begins")]
    Empty,
    /// This machine does not know the zone.
    #[error("the time zone {0:?} is not known on this machine")]
    UnknownZone(String),
}

impl Window {
    /// When a closed window opens; `None`: it is open now.
    pub(crate) fn opens(&self, now: Timestamp) -> Option<Timestamp> {
        let local = now.to_zoned(self.zone.clone());
        let (begun, over) = (self.from <= local.time(), self.to <= local.time());
        let open = if self.from < self.to { begun && !over } else { begun || !over };
        if open {
            return None;
        }
        let today = self.opening(local.date()).filter(|opening| *opening > now);
        // Behind the last day of the calendar nothing opens any more.
        Some(today.or_else(|| self.opening(local.date().tomorrow().ok()?)).unwrap_or(Timestamp::MAX))
    }

    /// Where the clock skips that time of the day, as much later as it skips.
    fn opening(&self, day: Date) -> Option<Timestamp> {
        let opening = day.to_datetime(self.from).to_zoned(self.zone.clone()).ok()?;
        Some(opening.timestamp())
    }
}

impl FromStr for Window {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        let (hours, zone) = text.split_once(' ').map_or((text, None), |(hours, zone)| (hours, Some(zone)));
        let (from, to) = hours.split_once('-').ok_or(WindowError::NotAWindow)?;
        let (from, to) = (time(from)?, time(to)?);
        if from == to {
            return Err(WindowError::Empty);
        }
        let zone = match zone {
            None => TimeZone::UTC,
            Some(name) => TimeZone::get(name).map_err(|_| WindowError::UnknownZone(name.into()))?,
        };
        let text = if zone == TimeZone::UTC { format!("{hours} UTC") } else { text.into() };
        Ok(Self { from, to, zone, text })
    }
}

/// `22:00`, nothing shorter or longer.
fn time(text: &str) -> Result<Time, WindowError> {
    let two = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = |text: &str| two(text).then(|| text.parse().ok()).flatten();
    let parsed =
        text.split_once(':').and_then(|(hour, minute)| Time::new(number(hour)?, number(minute)?, 0, 0).ok());
    parsed.ok_or(WindowError::NotAWindow)
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opens(window: &str, now: &str) -> Option<String> {
        let window: Window = window.parse().unwrap();
        window.opens(now.parse().unwrap()).map(|opens| opens.to_string())
    }

    #[test]
    fn a_window_over_midnight_is_open_on_both_sides_of_it() {
        let at = |now| opens("22:00-05:00", now);
        assert_eq!(at("2026-11-21T21:59:59Z").as_deref(), Some("2026-11-21T22:00:00Z"));
        assert_eq!(at("2026-11-21T22:00:00Z"), None);
        assert_eq!(at("2026-11-22T04:59:59Z"), None);
        assert_eq!(at("2026-11-22T05:00:00Z").as_deref(), Some("2026-11-22T22:00:00Z"));
    }

    #[test]
    fn a_window_within_a_day_opens_today_or_tomorrow() {
        let at = |now| opens("01:30-02:00", now);
        assert_eq!(at("2026-12-31T01:00:00Z").as_deref(), Some("2026-12-31T01:30:00Z"));
        assert_eq!(at("2026-12-31T01:45:00Z"), None);
        assert_eq!(at("2026-12-31T02:00:00Z").as_deref(), Some("2027-01-01T01:30:00Z"));
    }

    #[test]
    fn a_window_follows_the_clock_of_its_zone() {
        let at = |now| opens("22:00-05:00 Europe/Berlin", now);
        assert_eq!(at("2026-07-01T12:00:00Z").as_deref(), Some("2026-07-01T20:00:00Z"));
        assert_eq!(at("2026-12-01T12:00:00Z").as_deref(), Some("2026-12-01T21:00:00Z"));
        // On that day there is no half past two: the clock goes from 2 to 3.
        let skipped = opens("02:30-04:00 Europe/Berlin", "2026-03-29T00:59:00Z");
        assert_eq!(skipped.as_deref(), Some("2026-03-29T01:30:00Z"));
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for text in ["", "22:00", "22-05", "22:00-24:00", "22:00-5:00", "2:00pm-3:00pm", "+1:00-02:00"] {
            assert_eq!(text.parse::<Window>(), Err(WindowError::NotAWindow), "{text}");
        }
        assert_eq!("05:00-05:00".parse::<Window>(), Err(WindowError::Empty));
        assert_eq!("22:00-05:00 Mars".parse::<Window>(), Err(WindowError::UnknownZone("Mars".into())));
        assert_eq!("22:00-05:00".parse::<Window>().unwrap().to_string(), "22:00-05:00 UTC");
    }
}
