//! The control listener: one row of [`routes`] a handler.

use std::{net::IpAddr, sync::Arc};

use axum::{Router, response::IntoResponse as _};
use http::{StatusCode, header::CONTENT_TYPE};
use keymoot_api::{
    Problem,
    rotate::ConsentRequest,
    routes,
    unlock::{PartsRequest, RejectedPart},
    upkeep::Nothing,
};
use keymoot_types::{
    ErrorCode,
    audit::{Entry, Phase},
};
use serde::Serialize;

pub use super::table::ControlState;
use super::{
    jobs,
    table::{Answer, Call, Table, accepted, ok},
};
use crate::{
    audit::guarded,
    config::Config,
    http::{auth::Access, problem::json_response},
};

/// The interface as a document.
const OPENAPI: &str = include_str!("../../../../docs/openapi.json");

/// 422 when any part was refused. The log hears of it while its address has allowance.
fn parts(answer: &impl Serialize, rejected: &[RejectedPart], from: Option<IpAddr>, in_allowance: bool) -> Answer {
    for part in rejected.iter().filter(|_| in_allowance) {
        let holder = part.holder.as_ref().map(|holder| holder.as_str());
        tracing::warn!(
            code = part.code.as_str(),
            version = part.version.map(|v| v.get()),
            holder,
            ?from,
            "part refused"
        );
    }
    let status = if rejected.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    Ok(json_response(status, answer))
}

/// The table: every address of the control listener and what it calls.
pub fn routes(state: ControlState) -> Router {
    let table = probes(Table::new(state))
        .add(&routes::STATUS, async |call: Call<Nothing>| ok(&call.node.status(call.named()).await))
        .add(&routes::INIT, async |call: Call<_>| {
            Ok(json_response(StatusCode::CREATED, &call.node.init(call.body).await?))
        })
        .add(&routes::UNLOCK_PARTS, async |call: Call<PartsRequest>| {
            let (named, from) = (call.named(), call.from);
            let in_allowance = call.node.hear(from, &call.body.parts)?;
            let answer = call.node.unlock_parts(call.body, named).await?;
            parts(&answer, &answer.rejected, from, in_allowance)
        })
        .add(&routes::UNLOCK_RESET, async |call: Call<Nothing>| {
            call.node.unlock_reset().await;
            Ok(StatusCode::NO_CONTENT.into_response())
        })
        .add(&routes::UNLOCK_DEGRADED, async |call: Call<keymoot_api::unlock::DegradedRequest>| {
            call.node.unlock_degraded(call.body.missing).await?;
            ok(&call.node.status(true).await)
        })
        .add(&routes::PROVE_PARTS, async |call: Call<PartsRequest>| {
            let (named, from) = (call.named(), call.from);
            let in_allowance = call.node.hear(from, &call.body.parts)?;
            let answer = call.node.prove_parts(call.body, named).await?;
            parts(&answer, &answer.rejected, from, in_allowance)
        })
        .add(&routes::SEAL, async |call: Call<Nothing>| {
            call.node.seal().await;
            Ok(StatusCode::NO_CONTENT.into_response())
        });
    let table = rotation(table);
    jobs::routes(upkeep(table)).into_router()
}

fn probes(table: Table) -> Table {
    table
        .add(&routes::LIVEZ, async |_: Call<Nothing>| ok(&serde_json::json!({"alive": true})))
        .add(&routes::READYZ, async |call: Call<Nothing>| {
            let answer = call.node.ready();
            let status = if answer.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            Ok(json_response(status, &answer))
        })
        .add(&routes::OPENAPI, async |_: Call<Nothing>| {
            Ok(([(CONTENT_TYPE, "application/json")], OPENAPI).into_response())
        })
        .add_with_state(&routes::METRICS, async |state: ControlState, call: Call<Nothing>| {
            if call.node.config.load().listen.metrics_token && call.caller.is_none() {
                return Err(Problem::new(ErrorCode::Unauthenticated, "metrics need a token here"));
            }
            call.node.measure();
            Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.metrics.render())
                .into_response())
        })
}

fn rotation(table: Table) -> Table {
    table
        .add(&routes::REQUESTS, async |call: Call<_>| {
            let by = call.caller_name().to_owned();
            accepted(&call.node.open_request(call.body, &by).await?)
        })
        .add(&routes::REQUEST, async |call: Call<Nothing>| {
            ok(&call.node.request(&call.argument, call.named()).await?)
        })
        .add(&routes::REQUEST_CONSENT, async |call: Call<ConsentRequest>| {
            let (named, from) = (call.named(), call.from);
            let in_allowance = call.node.hear(from, &call.body.parts)?;
            let answer = call.node.consent(&call.argument, call.body, named).await?;
            parts(&answer, &answer.rejected, from, in_allowance)
        })
        .add(&routes::REQUEST_CANCEL, async |call: Call<Nothing>| {
            call.node.cancel_request(&call.argument).await?;
            Ok(StatusCode::NO_CONTENT.into_response())
        })
        .add(&routes::VERSIONS, async |call: Call<Nothing>| ok(&call.node.versions().await?))
        .add(&routes::VERSION_PACKAGES, async |call: Call<Nothing>| {
            ok(&call.node.packages(call.version()?).await?)
        })
        .add(&routes::VERSION_ACTIVATE, async |call: Call<_>| {
            let version = call.version()?;
            ok(&call.node.activate(version, call.body).await?)
        })
        .add(&routes::VERSION_ABORT, async |call: Call<_>| {
            let version = call.version()?;
            ok(&call.node.abort(version, call.body).await?)
        })
        .add(&routes::VERSION_RETIRE, async |call: Call<_>| {
            let version = call.version()?;
            let by = call.caller_name().to_owned();
            ok(&call.node.retire(version, call.body, &by).await?)
        })
        .add(&routes::VERSION_RESTORE, async |call: Call<_>| {
            let version = call.version()?;
            ok(&call.node.restore(version, call.body).await?)
        })
}

fn upkeep(table: Table) -> Table {
    table
        .add(&routes::AUDIT, async |call: Call<Nothing>| ok(&call.node.audit_page(&call.query).await?))
        .add(&routes::CERTIFICATES, async |call: Call<Nothing>| ok(&call.node.certificates().await?))
        .add_with_state(&routes::RELOAD, async |state: ControlState, _: Call<Nothing>| ok(&reload(&state).await?))
        .add(&routes::MANIFEST_CONFIRM, async |call: Call<keymoot_api::upkeep::ConfirmRequest>| {
            ok(&call.node.confirm(call.body.revision, call.body.digest).await?)
        })
        .add(&routes::MEMBERS, async |call: Call<_>| ok(&call.node.change_members(call.body).await?))
        .add(&routes::MANIFEST_REPUBLISH, async |call: Call<Nothing>| ok(&call.node.republish().await?))
}

/// The same as the route, asked for by SIGHUP: recorded first, and a new file of the audit log begun where the old
/// one was moved away.
pub async fn reload_by_signal(state: &ControlState) -> Result<(), Problem> {
    let audit = &state.node.audit;
    audit.reopen().await;
    let entry = Entry::new("reload", Phase::Intent).fact("by", "SIGHUP");
    guarded(audit, entry, async { ok(&reload(state).await?) }).await.map(drop)
}

/// Reads the configuration again. A bad one changes nothing; every mistake is named.
async fn reload(state: &ControlState) -> Result<keymoot_api::upkeep::ReloadAnswer, Problem> {
    let report = crate::config::check_for_reload(&state.config_file).await;
    if !report.is_ok() {
        let detail = format!("the configuration stays as it was:\n{report}");
        return Err(Problem::new(ErrorCode::BadRequest, detail));
    }
    let config = Config::load(&state.config_file).map_err(|report| {
        Problem::new(ErrorCode::BadRequest, format!("the configuration stays as it was:\n{report}"))
    })?;
    let access = Access::new(&config);
    state.node.may_reload(&config)?;
    state.tls.reload(&config).map_err(|error| {
        Problem::new(ErrorCode::BadRequest, format!("the configuration stays as it was: {error}"))
    })?;
    let mut answer = state.node.reload(config).await;
    answer.warnings.extend(report.findings.into_iter().map(|finding| finding.text));
    for warning in &answer.warnings {
        tracing::warn!(warning, "the new configuration is in force, with a doubt");
    }
    state.access.store(Arc::new(access));
    Ok(answer)
}
