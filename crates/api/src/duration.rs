//! Spans of time as people write them: `24h`, `10m`, `90d`, `1h30m`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Milliseconds of each unit, largest first: the order in which they must stand.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A span of time: one or more of `<number><unit>`, units `d`, `h`, `m`, `s`, `ms`, from large to small.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(Duration);

/// Why a text is not a span of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Nothing, or no number where one should be.
    #[error("a span of time is written as 24h, 10m, 90d or 1h30m")]
    NotADuration,
    /// A number without unit: seconds or hours can't be guessed.
    #[error("a span of time needs a unit: d, h, m, s or ms")]
    NoUnit,
    /// A unit twice, or a larger one behind a smaller one.
    #[error("the units of a span of time stand from large to small, each once")]
    Order,
    /// More than can be counted in milliseconds.
    #[error("the span of time is too long")]
    TooLong,
}

impl HumanDuration {
    /// From a duration; what is below a millisecond is not written.
    pub const fn new(duration: Duration) -> Self {
        Self(duration)
    }

    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for HumanDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut rest = text;
        let mut total_ms: u64 = 0;
        let mut smallest: Option<usize> = None;
        if rest.is_empty() {
            return Err(DurationError::NotADuration);
        }
        while !rest.is_empty() {
            let (digits, behind) = split_while(rest, |c| c.is_ascii_digit());
            let (unit, behind) = split_while(behind, |c| c.is_ascii_alphabetic());
            if digits.is_empty() {
                return Err(DurationError::NotADuration);
            }
            if unit.is_empty() {
                return Err(DurationError::NoUnit);
            }
            let (index, unit_ms) = UNITS
                .iter()
                .enumerate()
                .find_map(|(index, (name, ms))| (*name == unit).then_some((index, *ms)))
                .ok_or(DurationError::NoUnit)?;
            if smallest.is_some_and(|smallest| index <= smallest) {
                return Err(DurationError::Order);
            }
            smallest = Some(index);
            let number: u64 = digits.parse().map_err(|_| DurationError::TooLong)?;
            total_ms = number
                .checked_mul(unit_ms)
                .and_then(|ms| total_ms.checked_add(ms))
                .ok_or(DurationError::TooLong)?;
            rest = behind;
        }
        Ok(Self(Duration::from_millis(total_ms)))
    }
}

fn split_while(text: &str, keep: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !keep(c)).unwrap_or(text.len()))
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest_ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let mut text = String::new();
        for (unit, unit_ms) in UNITS {
            if rest_ms >= unit_ms {
                text.push_str(&format!("{}{unit}", rest_ms / unit_ms));
                rest_ms %= unit_ms;
            }
        }
        f.pad(if text.is_empty() { "0s" } else { &text })
    }
}

impl From<Duration> for HumanDuration {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl From<HumanDuration> for Duration {
    fn from(duration: HumanDuration) -> Self {
        duration.0
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> u64 {
        text.parse::<HumanDuration>().unwrap().get().as_secs()
    }

    #[test]
    fn a_span_is_read_as_it_is_written() {
        assert_eq!(seconds("24h"), 86_400);
        assert_eq!(seconds("10m"), 600);
        assert_eq!(seconds("90d"), 90 * 86_400);
        assert_eq!(seconds("1h30m"), 5_400);
        assert_eq!(seconds("0s"), 0);
        assert_eq!("250ms".parse::<HumanDuration>().unwrap().get(), Duration::from_millis(250));
    }

    #[test]
    fn a_span_is_written_so_that_it_is_read_again() {
        for text in ["1d", "10m", "90d", "1h30m", "2d3h4m5s6ms", "0s"] {
            assert_eq!(text.parse::<HumanDuration>().unwrap().to_string(), text);
        }
        assert_eq!("24h".parse::<HumanDuration>().unwrap().to_string(), "1d");
    }

    #[test]
    fn what_could_be_meant_in_two_ways_is_refused() {
        for (text, error) in [
            ("", DurationError::NotADuration),
            ("h", DurationError::NotADuration),
            ("-1h", DurationError::NotADuration),
            (" 1h", DurationError::NotADuration),
            ("1.5h", DurationError::NoUnit),
            ("90", DurationError::NoUnit),
            ("1 h", DurationError::NoUnit),
            ("1w", DurationError::NoUnit),
            ("1H", DurationError::NoUnit),
            ("30m1h", DurationError::Order),
            ("1h1h", DurationError::Order),
            ("99999999999999999999d", DurationError::TooLong),
            ("9999999999999999d", DurationError::TooLong),
        ] {
            assert_eq!(text.parse::<HumanDuration>(), Err(error), "{text:?}");
        }
    }
}
