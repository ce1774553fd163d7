//! `keymoot retire`

use std::time::{Duration, Instant};

use keymoot_api::{HumanDuration, Missing, rotate::RetireRequest};
use keymoot_client::ControlError;
use keymoot_types::{ErrorCode, KeyVersion, SourceName};

use super::steps;
use crate::{
    arguments,
    cli::Context,
    exit::Exit,
    output::{missing_table, note},
};

/// Between two attempts; a census takes longer.
const INTERVAL: Duration = Duration::from_secs(2);
/// What passes by itself: `retire` itself starts the censuses that it lacks.
const PASSES: [&str; 5] = ["not_settled", "census_running", "census_stale", "quiet_period", "max_age"];

/// Take an old version out of use, with evidence that nothing needs it; ends with a signed certificate
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Refused, with exit code 4 and a list of what is missing, until two censuses in a row find nothing left.

Examples:
  keymoot retire v9 --dry-run           what is missing?
  keymoot retire v9 --wait              wait for what passes by itself
  keymoot retire v9 --wait 2h --gone old-shop.cards")]
pub(crate) struct Args {
    /// Which version, such as v9
    #[arg(value_parser = arguments::version)]
    version: KeyVersion,
    /// Only say what is missing
    #[arg(long)]
    dry_run: bool,
    /// Ask again until only a person can help, for at most so long [default: 24h]
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "24h", value_parser = arguments::duration)]
    wait: Option<HumanDuration>,
    /// A source that exists no longer; the certificate says so. Repeat it for each
    #[arg(long, value_name = "SOURCE")]
    gone: Vec<SourceName>,
}

/// Asks, and with `--wait` asks again.
pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<Exit> {
    let control = context.connect.settle()?.control()?;
    let request = RetireRequest { dry_run: args.dry_run, gone: args.gone, ..RetireRequest::default() };
    let begun = Instant::now();
    let mut shown: Vec<Missing> = Vec::new();
    loop {
        let result = control.retire(args.version, &request).await;
        let Err(ControlError::Problem(problem)) = &result else {
            return steps::finish(context, "is retired", result);
        };
        let missing = steps::missing_of(problem);
        let waits = args.wait.is_some_and(|wait| begun.elapsed() < wait.get());
        if !waits || problem.code != ErrorCode::GateRefused || !passes(missing) {
            return steps::finish(context, "is retired", result);
        }
        if codes(&shown).ne(codes(missing)) {
            note(format!("waiting:\n{}", missing_table(missing)));
            shown = missing.to_vec();
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Only whether other things are missing: a detail that counts seconds changes with every attempt.
fn codes(missing: &[Missing]) -> impl Iterator<Item = (&str, Option<&str>)> {
    missing.iter().map(|missing| (missing.code.as_str(), missing.who.as_deref()))
}

fn passes(missing: &[Missing]) -> bool {
    !missing.is_empty() && missing.iter().all(|missing| PASSES.contains(&missing.code.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_person_can_mend_is_not_waited_for() {
        let running = Missing::new("census_running", "x");
        assert!(passes(std::slice::from_ref(&running)));
        assert!(!passes(&[running, Missing::new("values_left", "x")]));
        assert!(!passes(&[]));
    }
}
