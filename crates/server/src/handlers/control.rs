//! The control listener: one row of [`routes`] a handler; who may call, the longest body and the longest answer
//! come from the table in `api`, so that none can be forgotten.

use std::{future::Future, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use axum::{
    Router,
    extract::{MatchedPath, Request},
    response::{IntoResponse as _, Response},
    routing::{MethodFilter, on},
};
use http::{StatusCode, header::CONTENT_TYPE};
use keymoot_api::{
    Problem,
    routes::{self, Method, Route},
    upkeep::Nothing,
};
use keymoot_types::ErrorCode;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use super::jobs;
use crate::{
    config::Config,
    http::{
        auth::{Access, Caller},
        body::{BodyReader, CONTROL_BODY_TIMEOUT},
        problem::{json_response, problem_response},
    },
    listen::Tls,
    node::Node,
    telemetry::Metrics,
};

/// What every handler of the control listener may use.
#[derive(Clone)]
pub struct ControlState {
    /// The node.
    pub node: Arc<Node>,
    /// Who may call.
    pub access: Arc<ArcSwap<Access>>,
    /// The numbers of this process.
    pub metrics: Metrics,
    /// Exchanged by a reload.
    pub tls: Tls,
    /// Read again by a reload.
    pub config_file: PathBuf,
}

/// One admitted call.
pub(super) struct Call<T> {
    pub(super) node: Arc<Node>,
    pub(super) caller: Option<Arc<Caller>>,
    /// What stood in the place of the path's `{…}`.
    pub(super) argument: String,
    pub(super) query: String,
    pub(super) body: T,
}

impl<T> Call<T> {
    fn named(&self) -> bool {
        self.caller.is_some()
    }

    fn caller_name(&self) -> &str {
        self.caller.as_ref().map_or("nobody", |caller| &caller.name)
    }

    pub(super) fn version(&self) -> Result<keymoot_types::KeyVersion, Problem> {
        self.argument
            .parse()
            .map_err(|error| Problem::new(ErrorCode::BadRequest, format!("the version in the address: {error}")))
    }
}

pub(super) type Answer = Result<Response, Problem>;

pub(super) fn ok(answer: &impl Serialize) -> Answer {
    Ok(json_response(StatusCode::OK, answer))
}

pub(super) fn accepted(answer: &impl Serialize) -> Answer {
    Ok(json_response(StatusCode::ACCEPTED, answer))
}

/// 422 when any part was refused.
fn parts(answer: &impl Serialize, rejected: usize) -> Answer {
    let status = if rejected == 0 { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    Ok(json_response(status, answer))
}

/// The table: every address of the control listener and what it calls.
pub fn routes(state: ControlState) -> Router {
    let table = Table { router: Router::new(), state, reader: BodyReader::new(CONTROL_BODY_TIMEOUT) };
    let table = probes(table)
        .add(&routes::STATUS, async |call: Call<Nothing>| ok(&call.node.status(call.named()).await))
        .add(&routes::INIT, async |call: Call<_>| {
            Ok(json_response(StatusCode::CREATED, &call.node.init(call.body).await?))
        })
        .add(&routes::UNLOCK_PARTS, async |call: Call<_>| {
            let named = call.named();
            let answer = call.node.unlock_parts(call.body, named).await?;
            parts(&answer, answer.rejected.len())
        })
        .add(&routes::UNLOCK_RESET, async |call: Call<Nothing>| {
            call.node.unlock_reset().await;
            Ok(StatusCode::NO_CONTENT.into_response())
        })
        .add(&routes::UNLOCK_DEGRADED, async |call: Call<keymoot_api::unlock::DegradedRequest>| {
            call.node.unlock_degraded(call.body.missing).await?;
            ok(&call.node.status(true).await)
        })
        .add(&routes::PROVE_PARTS, async |call: Call<_>| {
            let named = call.named();
            let answer = call.node.prove_parts(call.body, named).await?;
            parts(&answer, answer.rejected.len())
        })
        .add(&routes::SEAL, async |call: Call<Nothing>| {
            call.node.seal().await;
            Ok(StatusCode::NO_CONTENT.into_response())
        });
    let table = rotation(table);
    jobs::routes(upkeep(table)).router
}

fn probes(table: Table) -> Table {
    table
        .add(&routes::LIVEZ, async |_: Call<Nothing>| ok(&serde_json::json!({"alive": true})))
        .add(&routes::READYZ, async |call: Call<Nothing>| {
            let answer = call.node.ready();
            let status = if answer.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            Ok(json_response(status, &answer))
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
        .add(&routes::REQUEST_CONSENT, async |call: Call<_>| {
            let named = call.named();
            let answer = call.node.consent(&call.argument, call.body, named).await?;
            parts(&answer, answer.rejected.len())
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
            ok(&call.node.retire(version, call.body).await?)
        })
        .add(&routes::VERSION_RESTORE, async |call: Call<_>| {
            let version = call.version()?;
            ok(&call.node.restore(version, call.body).await?)
        })
}

fn upkeep(table: Table) -> Table {
    table
        .add(&routes::CERTIFICATES, async |call: Call<Nothing>| ok(&call.node.certificates().await?))
        .add_with_state(&routes::RELOAD, async |state: ControlState, _: Call<Nothing>| ok(&reload(&state).await?))
        .add(&routes::MANIFEST_CONFIRM, async |call: Call<keymoot_api::upkeep::ConfirmRequest>| {
            ok(&call.node.confirm(call.body.revision, call.body.digest).await?)
        })
        .add(&routes::MANIFEST_REPUBLISH, async |call: Call<Nothing>| ok(&call.node.republish().await?))
}

/// Reads the configuration again. A bad one changes nothing; every mistake is named.
pub async fn reload(state: &ControlState) -> Result<keymoot_api::upkeep::ReloadAnswer, Problem> {
    let report = crate::config::check_file(&state.config_file).await;
    if !report.is_ok() {
        let detail = format!("the configuration stays as it was:\n{report}");
        return Err(Problem::new(ErrorCode::BadRequest, detail));
    }
    let config = Config::load(&state.config_file).map_err(|report| {
        Problem::new(ErrorCode::BadRequest, format!("the configuration stays as it was:\n{report}"))
    })?;
    let access = Access::new(&config);
    state.tls.reload(&config).map_err(|error| {
        Problem::new(ErrorCode::BadRequest, format!("the configuration stays as it was: {error}"))
    })?;
    let answer = state.node.reload(config).await?;
    state.access.store(Arc::new(access));
    Ok(answer)
}

/// The router under construction.
pub(super) struct Table {
    router: Router,
    state: ControlState,
    reader: BodyReader,
}

impl Table {
    /// Serves one row of the table.
    pub(super) fn add<T, F>(self, route: &'static Route, handler: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        F: AsyncHandler<T>,
    {
        self.add_with_state(route, move |_: ControlState, call: Call<T>| handler.call(call))
    }

    fn add_with_state<T, F, Fut>(mut self, route: &'static Route, handler: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(ControlState, Call<T>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        let (state, reader) = (self.state.clone(), self.reader.clone());
        let serve = move |request: Request| {
            let (state, reader, handler) = (state.clone(), reader.clone(), handler.clone());
            async move {
                let answer = answer(route, state, reader, handler, request).await;
                answer.unwrap_or_else(problem_response)
            }
        };
        self.router = self.router.route(route.path, on(filter(route.method), serve));
        self
    }
}

/// An async closure of one call, whose future can be sent to another thread.
pub(super) trait AsyncHandler<T>: Clone + Send + Sync + 'static {
    type Future: Future<Output = Answer> + Send + 'static;
    fn call(&self, call: Call<T>) -> Self::Future;
}

impl<T, F, Fut> AsyncHandler<T> for F
where
    F: Fn(Call<T>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Answer> + Send + 'static,
{
    type Future = Fut;

    fn call(&self, call: Call<T>) -> Fut {
        self(call)
    }
}

fn filter(method: Method) -> MethodFilter {
    match method {
        Method::Get => MethodFilter::GET,
        Method::Post => MethodFilter::POST,
        Method::Patch => MethodFilter::PATCH,
        Method::Delete => MethodFilter::DELETE,
    }
}

async fn answer<T, F, Fut>(
    route: &'static Route,
    state: ControlState,
    reader: BodyReader,
    handler: F,
    request: Request,
) -> Answer
where
    T: DeserializeOwned + Send + 'static,
    F: Fn(ControlState, Call<T>) -> Fut,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let (head, body) = request.into_parts();
    let admitted = state.access.load().admit(route.who, &head.headers);
    let caller = match admitted {
        Ok(caller) => caller,
        Err(problem) => {
            reader.linger(body);
            return Err(problem);
        }
    };
    let body = reader.json(body, route.body_bytes_max).await?;
    let pattern = head.extensions.get::<MatchedPath>().map_or(route.path, MatchedPath::as_str);
    let call = Call {
        node: state.node.clone(),
        caller,
        argument: argument(pattern, head.uri.path()),
        query: head.uri.query().unwrap_or_default().to_owned(),
        body,
    };
    // A task of its own: a client that goes away, or a deadline, drops no half-done ceremony.
    let mut task = tokio::spawn(handler(state, call));
    let outcome = match route.timeout {
        Some(limit) => timeout(limit, &mut task).await.map_err(|_| {
            let detail = "it is still being worked on; look at `status` before you repeat it";
            Problem::new(ErrorCode::Overloaded, detail)
        })?,
        None => task.await,
    };
    outcome.unwrap_or_else(|_| {
        Err(Problem::new(ErrorCode::Internal, "the request ended in a defect, which was logged"))
    })
}

/// What stands where the pattern has its `{…}`; no address here has more than one.
fn argument(pattern: &str, path: &str) -> String {
    let segments = pattern.split('/').zip(path.split('/'));
    segments
        .filter(|(pattern, _)| pattern.starts_with('{'))
        .map(|(_, segment)| segment.to_owned())
        .next()
        .unwrap_or_default()
}
