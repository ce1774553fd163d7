//! Logs: JSON lines on stderr, text where a person looks on.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Which lines are written, such as `debug` or `info,keymoot_rekey=debug`.
pub const FILTER_ENV: &str = "KEYMOOT_LOG";

/// Begins to log. A second call changes nothing.
pub fn init_logs() {
    let (filter, mistake) = match std::env::var(FILTER_ENV).map(|text| text.parse::<EnvFilter>()) {
        Ok(Ok(filter)) => (filter, false),
        Ok(Err(_)) => (EnvFilter::new("info"), true),
        Err(_) => (EnvFilter::new("info"), false),
    };
    let registry = tracing_subscriber::registry().with(filter);
    // stdout is for what commands print.
    let begun = if io::stderr().is_terminal() {
        registry.with(fmt::layer().with_writer(io::stderr)).try_init()
    } else {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(io::stderr)).try_init()
    };
    if begun.is_ok() && mistake {
        tracing::warn!("{FILTER_ENV} can't be read as a filter, so `info` is logged");
    }
}
