//! Rekey jobs and censuses.

use std::{convert::Infallible, time::Duration};

use axum::response::{
    IntoResponse as _,
    sse::{Event, KeepAlive, Sse},
};
use futures::stream;
use keymoot_api::{
    Problem,
    census::CensusRequest,
    rekey::{
        Job, JobAnswer, JobsAnswer, Limits, LimitsRequest, PauseRequest, PlanAnswer, PlanRequest,
        QuarantineAnswer, QuarantinedRow, RekeyRequest, Setting, SourceProgress,
    },
    routes,
    upkeep::Nothing,
};
use keymoot_rekey::{JobId, JobView, Start, limits::LimitsPatch};
use keymoot_types::{ErrorCode, SourceName};

use super::table::{Answer, Call, Table, accepted, ok};
use crate::node::jobs_problem;

/// Events come no faster than this.
const EVENT_EVERY: Duration = Duration::from_millis(500);
/// Rows on a page of the quarantine.
const PAGE_ROWS: usize = 500;

/// The addresses of jobs and censuses.
pub(super) fn routes(table: Table) -> Table {
    table
        .add(&routes::REKEY_START, async |call: Call<RekeyRequest>| {
            let wish =
                Start { sources: call.body.sources, dry_run: call.body.dry_run, limits: LimitsPatch::default() };
            call.node.unlocked().await?;
            accepted(&brief(call.node.jobs.start(wish).await.map_err(jobs_problem)?))
        })
        .add(&routes::REKEY_PLAN, async |call: Call<PlanRequest>| {
            let sources = call.node.jobs.plan(call.body.sources).await.map_err(jobs_problem)?;
            ok(&PlanAnswer { sources })
        })
        .add(&routes::REKEY_LIST, async |call: Call<Nothing>| {
            let mut jobs: Vec<Job> =
                call.node.jobs.list().await.map_err(jobs_problem)?.into_iter().map(shown).collect();
            jobs.sort_by(|a, b| b.id.cmp(&a.id));
            ok(&JobsAnswer { newest: jobs.first().cloned(), jobs })
        })
        .add(&routes::REKEY_JOB, async |call: Call<Nothing>| {
            ok(&shown(call.node.jobs.view(id(&call)?).await.map_err(jobs_problem)?))
        })
        .add(&routes::REKEY_EVENTS, events)
        .add(&routes::REKEY_PAUSE, async |call: Call<PauseRequest>| {
            let time = call.body.duration.map(Duration::from);
            ok(&brief(call.node.jobs.pause(id(&call)?, time).await.map_err(jobs_problem)?))
        })
        .add(&routes::REKEY_RESUME, async |call: Call<Nothing>| {
            ok(&brief(call.node.jobs.resume(id(&call)?).await.map_err(jobs_problem)?))
        })
        .add(&routes::REKEY_CANCEL, async |call: Call<Nothing>| {
            ok(&brief(call.node.jobs.cancel(id(&call)?).await.map_err(jobs_problem)?))
        })
        .add(&routes::REKEY_LIMITS, async |call: Call<LimitsRequest>| {
            let patch = patch(&call.body)?;
            ok(&shown(call.node.jobs.set(id(&call)?, patch).await.map_err(jobs_problem)?))
        })
        .add(&routes::REKEY_QUARANTINE, async |call: Call<Nothing>| {
            let (source, after) = page(&call.query)?;
            let page = call.node.jobs.quarantine_of(id(&call)?, source.as_ref(), after.as_deref(), PAGE_ROWS);
            let page = page.await.map_err(jobs_problem)?;
            let rows = page.rows.into_iter().map(|row| QuarantinedRow {
                source: row.source,
                id: row.id,
                version: row.version,
                reason: row.reason.as_str().into(),
            });
            ok(&QuarantineAnswer { rows: rows.collect(), next: page.next })
        })
        .add(&routes::REKEY_QUARANTINE_RETRY, async |call: Call<Nothing>| {
            ok(&brief(call.node.jobs.retry(id(&call)?).await.map_err(jobs_problem)?))
        })
        .add(&routes::CENSUS_START, async |call: Call<CensusRequest>| {
            accepted(&call.node.start_census(call.body.sources).await?)
        })
        .add(&routes::CENSUS, async |call: Call<Nothing>| ok(&call.node.censuses_shown().await?))
}

/// One event whenever the job changed, and the last when it is over.
async fn events(call: Call<Nothing>) -> Answer {
    let id = id(&call)?;
    let jobs = call.node.jobs.clone();
    jobs.view(id).await.map_err(jobs_problem)?;
    let stop = call.node.stop.clone();
    let changes = jobs.subscribe();
    let stream = stream::unfold((jobs, changes, stop, false), move |(jobs, mut changes, stop, over)| async move {
        if over {
            return None;
        }
        let view = jobs.view(id).await.ok()?;
        let over = view.state.ended();
        let event = Event::default().event("progress").json_data(shown(view)).ok()?;
        if !over {
            tokio::select! {
                () = stop.cancelled() => return None,
                changed = changes.changed() => changed.ok()?,
            }
            tokio::time::sleep(EVENT_EVERY).await;
        }
        Some((Ok::<_, Infallible>(event), (jobs, changes, stop, over)))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()).into_response())
}

fn id<T>(call: &Call<T>) -> Result<JobId, Problem> {
    call.argument
        .parse()
        .map_err(|_| Problem::new(ErrorCode::NotFound, "there is no such rekey job: its id is a UUID"))
}

/// `?source=…&after=…`, all the parameters that there are. What they hold never needs to be percent-encoded.
fn page(query: &str) -> Result<(Option<SourceName>, Option<String>), Problem> {
    let wrong = |text: &str| Problem::new(ErrorCode::BadRequest, text);
    let (mut source, mut after) = (None, None);
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("after", mark)) if after.is_none() => after = Some(mark.to_owned()),
            Some(("source", name)) if source.is_none() => {
                source = Some(name.parse().map_err(|_| wrong("`source` is no name of a source"))?);
            }
            _ => return Err(wrong("the parameters here are `source` and `after`, each once")),
        }
    }
    Ok((source, after))
}

fn patch(request: &LimitsRequest) -> Result<LimitsPatch, Problem> {
    let too_large = |what: &str| Problem::new(ErrorCode::BadRequest, format!("{what} is too large"));
    Ok(LimitsPatch {
        max_rows_per_second: setting(request.max_rows_per_second)
            .map(|set| set.map(u32::try_from).transpose())
            .transpose()
            .map_err(|_| too_large("max_rows_per_second"))?,
        nice_ratio: setting(request.nice_ratio),
        concurrency: setting(request.concurrency)
            .map(|set| set.map(u8::try_from).transpose())
            .transpose()
            .map_err(|_| too_large("concurrency"))?,
    })
}

fn setting<T>(setting: Setting<T>) -> Option<Option<T>> {
    match setting {
        Setting::Unchanged => None,
        Setting::Lift => Some(None),
        Setting::Set(value) => Some(Some(value)),
    }
}

fn brief(view: JobView) -> JobAnswer {
    JobAnswer { id: view.id.to_string(), state: view.state }
}

fn shown(view: JobView) -> Job {
    Job {
        id: view.id.to_string(),
        state: view.state,
        dry_run: view.dry_run,
        started_at: view.started_at,
        ended_at: view.ended_at,
        throttled: view.throttled,
        reason: view.reason,
        paused_until: view.paused_until,
        limits: Limits {
            max_rows_per_second: view.limits.max_rows_per_second.map(u64::from),
            nice_ratio: view.limits.nice_ratio,
            concurrency: view.limits.concurrency.map(u32::from),
        },
        sources: view
            .sources
            .into_iter()
            .map(|source| SourceProgress {
                name: source.name,
                total: source.total.unwrap_or(source.scanned),
                total_exact: source.total_exact && source.total.is_some(),
                scanned: source.scanned,
                rekeyed: source.rekeyed,
                adopted: source.adopted,
                current: source.current,
                null: source.null,
                empty: source.empty,
                foreign: source.foreign,
                quarantined: source.quarantined,
                conflicts: source.conflicts,
                rows_per_second: source.rows_per_second,
                eta_seconds: source.eta_seconds,
                throttled_by: source.throttled.as_ref().map(|throttle| throttle.node.clone()),
                throttled_since: source.throttled.as_ref().map(|throttle| throttle.since),
                throttled: source.throttled.map(|throttle| throttle.reason),
                failed: source.failed,
            })
            .collect(),
    }
}
