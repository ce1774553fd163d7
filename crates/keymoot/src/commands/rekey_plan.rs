//! `keymoot rekey plan`

use anyhow::Context as _;
use keymoot_api::rekey::{PlanAnswer, PlanRequest};
use keymoot_client::Control;
use keymoot_types::{SourceName, plan::SourcePlan};

use super::rekey_line::{grouped, span};
use crate::{cli::Context, exit::Exit, output::printable};

/// Shows what a job would find; nothing is written. Refused where a source has a blocker. Where a dry run follows,
/// its document is the one result.
pub(crate) async fn plan(
    context: &Context,
    control: &Control,
    sources: Option<Vec<SourceName>>,
    dry_run: bool,
) -> anyhow::Result<Exit> {
    let answer = control.rekey_plan(&PlanRequest { sources }).await.context("asking for the plan")?;
    let exit = Exit::worst(answer.sources.iter().map(exit));
    if !(dry_run && exit == Exit::Done && context.out.is_json()) {
        context.out.result(&answer, text)?;
    }
    Ok(exit)
}

fn exit(plan: &SourcePlan) -> Exit {
    match (plan.blockers.is_empty(), &plan.not_reached) {
        (false, _) => Exit::Refused,
        (true, Some(_)) => Exit::TryAgain,
        (true, None) => Exit::Done,
    }
}

fn text(answer: &PlanAnswer) -> String {
    answer.sources.iter().map(source).collect::<Vec<_>>().join("\n")
}

fn source(plan: &SourcePlan) -> String {
    let mut lines = vec![plan.name.to_string()];
    let mut tell = |what: &str, text: &str| lines.push(format!("  {what:12} {}", printable(text)));
    plan.blockers.iter().for_each(|blocker| tell("blocker", blocker));
    plan.not_reached.iter().for_each(|why| tell("not reached", why));
    if !plan.server.is_empty() {
        tell("server", &plan.server);
    }
    if let Some(rows) = plan.rows {
        tell("rows", &format!("{}{}", if plan.rows_exact { "" } else { "~" }, grouped(rows)));
    }
    if let Some(seconds) = plan.seconds {
        tell("takes", &format!("about {} without limits", span(seconds)));
    }
    plan.index.iter().for_each(|index| tell("index", index));
    for sample in &plan.samples {
        let tried = sample.authenticated + sample.failed + sample.unavailable;
        let alarm = if sample.alarming() { ": a wrong key name or associated data?" } else { "" };
        tell("sample", &format!("v{}: {} of {tried} values open{alarm}", sample.version, sample.authenticated));
    }
    plan.not_sampled.iter().for_each(|why| tell("no sample", why));
    plan.side_effects.iter().for_each(|effect| tell("side effect", effect));
    plan.warnings.iter().for_each(|warning| tell("warning", warning));
    plan.grants.iter().for_each(|grant| tell("grant", grant));
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_everything_and_a_blocker_refuses() {
        let mut plan = SourcePlan {
            rows: Some(752_865),
            seconds: Some(79),
            index: Some("PRIMARY".into()),
            grants: vec!["GRANT SELECT ON t TO k;".into()],
            ..SourcePlan::unknown("customers.ssn".parse().unwrap())
        };
        let shown = source(&plan);
        for says in
            ["rows         ~752,865\n", "about 1m19s", "index        PRIMARY\n", "GRANT SELECT ON t TO k;\n"]
        {
            assert!(shown.contains(says), "{says} is not in\n{shown}");
        }
        assert_eq!(exit(&plan), Exit::Done);
        plan.not_reached = Some("connection refused".into());
        assert_eq!(exit(&plan), Exit::TryAgain);
        plan.blockers = vec!["the column is char(60)\nso".into()];
        assert_eq!(exit(&plan), Exit::Refused);
        assert!(source(&plan).contains("  blocker      the column is char(60) so\n"));
    }
}
