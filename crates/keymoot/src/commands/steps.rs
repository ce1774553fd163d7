//! What the steps of a version's life share: whom to leave out, and what came of it.

use keymoot_api::{
    Missing, Problem,
    rotate::{Exclusion, StepAnswer},
};
use keymoot_client::ControlError;
use keymoot_types::{ErrorCode, HolderName, KeyVersion};

use crate::{
    arguments,
    cli::Context,
    exit::Exit,
    output::{missing_table, note, printable},
};

/// A version and whom not to wait for.
#[derive(Debug, clap::Args)]
pub(crate) struct StepArgs {
    /// Which version, such as v10
    #[arg(value_parser = arguments::version)]
    pub(crate) version: KeyVersion,
    #[command(flatten)]
    pub(crate) leave_out: LeaveOut,
}

/// Whom not to wait for.
#[derive(Debug, clap::Args)]
pub(crate) struct LeaveOut {
    /// Don't wait for this member, for so long; repeat it for each
    #[arg(long, value_name = "NODE=DURATION", value_parser = arguments::exclusion)]
    pub(crate) exclude: Vec<Exclusion>,
    /// Don't wait for this holder's proof; repeat it for each
    #[arg(long, value_name = "HOLDER")]
    pub(crate) excuse: Vec<HolderName>,
    /// Only say what would happen
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Prints what came of a step. A gate that refuses is a result too: what is missing is it.
pub(crate) fn finish(
    context: &Context,
    done: &str,
    result: Result<StepAnswer, ControlError>,
) -> anyhow::Result<Exit> {
    let answer = match result {
        Ok(answer) => answer,
        Err(ControlError::Problem(problem)) if problem.code == ErrorCode::GateRefused => {
            return refused(context, &problem);
        }
        Err(error) => return Err(error.into()),
    };
    context.out.result(&answer, |answer| {
        let mut text = if answer.dry_run {
            format!("dry run: v{} stays {}\n", answer.version, answer.state)
        } else {
            format!("v{} {done}: it is {}, and v{} encrypts\n", answer.version, answer.state, answer.primary)
        };
        for effect in &answer.effects {
            text.push_str(&format!("{}\n", printable(effect)));
        }
        if !answer.missing.is_empty() {
            text.push_str(&missing_table(&answer.missing));
        }
        text
    })?;
    Ok(if answer.missing.is_empty() { Exit::Done } else { Exit::Refused })
}

/// Prints what a gate lacks.
pub(crate) fn refused(context: &Context, problem: &Problem) -> anyhow::Result<Exit> {
    note(format!("refused: {}", printable(&problem.detail)));
    context.out.result(problem, |problem| missing_table(missing_of(problem)))?;
    Ok(Exit::Refused)
}

/// What a gate lacks.
pub(crate) fn missing_of(problem: &Problem) -> &[Missing] {
    problem.missing.as_deref().unwrap_or_default()
}
