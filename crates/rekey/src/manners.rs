//! What a node asks of its jobs for the sake of everything else: when they may work, and how busy the others may be.

use std::time::Duration;

use keymoot_storage::source::Load;

use crate::window::Window;

/// The soft limits of a node, above which its jobs wait, and its maintenance window. A hard limit is
/// [`Manners::hard_factor`] times the soft one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manners {
    /// How far a source's slowest replica may be behind.
    pub max_replica_lag: Duration,
    /// Statements that others may be running on a source's server.
    pub max_active: u64,
    /// How many of them may wait for a lock.
    pub max_lock_waits: u64,
    /// What 99 of 100 of the node's own decryptions may take.
    pub max_decrypt_latency: Duration,
    /// Above so many times a limit jobs hibernate.
    pub hard_factor: u32,
    /// Outside of it jobs wait; none: they work around the clock.
    pub window: Option<Window>,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            max_replica_lag: Duration::from_millis(1500),
            max_active: 25,
            max_lock_waits: 5,
            max_decrypt_latency: Duration::from_millis(100),
            hard_factor: 4,
            window: None,
        }
    }
}

/// How much too much a server or a node has to do, with the reason and the number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Strain {
    /// Above a soft limit: wait, and look again each second.
    Soft(String),
    /// Above a hard limit: leave it in peace for a while.
    Hard(String),
}

impl Strain {
    /// What is shown.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Soft(reason) | Self::Hard(reason) => reason.clone(),
        }
    }
}

impl Manners {
    /// The worst that a source's server suffers; `None`: nothing.
    pub(crate) fn strain(&self, load: &Load) -> Option<Strain> {
        let found = [
            load.replica_lag.and_then(|lag| self.time("replica lag", lag, self.max_replica_lag)),
            load.lock_waits.and_then(|waits| self.number("lock waits", waits, self.max_lock_waits)),
            load.active.and_then(|active| self.number("active statements", active, self.max_active)),
            // What is no number says no more than a query that failed.
            load.throttle_query
                .filter(|answer| answer.is_nan() || *answer > 0.0)
                .map(|answer| Strain::Soft(format!("throttle query {answer} > 0"))),
        ];
        let mut found: Vec<Strain> = found.into_iter().flatten().collect();
        // The order among equals stays: of two reasons the same one is shown each time.
        found.sort_by_key(|strain| matches!(strain, Strain::Soft(_)));
        found.into_iter().next()
    }

    /// What the node's own decryptions suffer.
    pub(crate) fn foreground(&self, latency: Duration) -> Option<Strain> {
        self.time("decrypt latency", latency, self.max_decrypt_latency)
    }

    fn time(&self, what: &str, is: Duration, max: Duration) -> Option<Strain> {
        let over = |max: Duration| (is > max).then(|| format!("{what} {} > {}", shown(is), shown(max)));
        worse(over(max), over(max.saturating_mul(self.hard_factor)))
    }

    fn number(&self, what: &str, is: u64, max: u64) -> Option<Strain> {
        let over = |max: u64| (is > max).then(|| format!("{is} {what} > {max}"));
        worse(over(max), over(max.saturating_mul(self.hard_factor.into())))
    }
}

fn worse(soft: Option<String>, hard: Option<String>) -> Option<Strain> {
    let hard = hard.map(|reason| Strain::Hard(format!("{reason}, the hard limit")));
    hard.or(soft.map(Strain::Soft))
}

/// `3.2 s`, and below a second `120 ms`.
fn shown(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        return format!("{} ms", time.as_millis());
    }
    let tenths = format!("{:.1}", time.as_secs_f64());
    format!("{} s", tenths.trim_end_matches(".0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strain(load: Load) -> Option<Strain> {
        Manners::default().strain(&load)
    }

    fn lag(ms: u64) -> Load {
        Load { replica_lag: Some(Duration::from_millis(ms)), ..Load::default() }
    }

    #[test]
    fn a_limit_is_passed_above_it_and_said_with_both_numbers() {
        assert_eq!(strain(Load::default()), None);
        assert_eq!(strain(lag(1500)), None);
        assert_eq!(strain(lag(3200)), Some(Strain::Soft("replica lag 3.2 s > 1.5 s".into())));
        assert_eq!(strain(lag(9000)), Some(Strain::Hard("replica lag 9 s > 6 s, the hard limit".into())));
        let busy = Load { active: Some(57), lock_waits: Some(5), throttle_query: Some(0.0), ..Load::default() };
        assert_eq!(strain(busy), Some(Strain::Soft("57 active statements > 25".into())));
        let waits = Load { lock_waits: Some(6), ..busy };
        assert_eq!(strain(waits), Some(Strain::Soft("6 lock waits > 5".into())));
        let latency = Manners::default().foreground(Duration::from_millis(120));
        assert_eq!(latency, Some(Strain::Soft("decrypt latency 120 ms > 100 ms".into())));
    }

    #[test]
    fn a_hard_limit_is_said_before_a_soft_one() {
        let both = Load { active: Some(101), ..lag(3200) };
        assert_eq!(strain(both), Some(Strain::Hard("101 active statements > 100, the hard limit".into())));
    }

    #[test]
    fn a_throttle_query_holds_back_above_none() {
        let query = |answer| strain(Load { throttle_query: Some(answer), ..Load::default() });
        assert_eq!(query(0.0), None);
        assert_eq!(query(-1.0), None);
        assert_eq!(query(2.0), Some(Strain::Soft("throttle query 2 > 0".into())));
        assert!(query(f64::NAN).is_some());
    }
}
