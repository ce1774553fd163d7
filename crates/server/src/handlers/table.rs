//! The plumbing of the control listener's rows: who may call, the longest body and the longest answer come from the
//! table in `api`, so that none can be forgotten; a call runs in a task of its own.

use std::{future::Future, net::IpAddr, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use axum::{
    Router,
    extract::{MatchedPath, Request},
    response::Response,
    routing::{MethodFilter, on},
};
use http::StatusCode;
use keymoot_api::{
    Problem,
    routes::{Method, Route},
};
use keymoot_types::ErrorCode;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use crate::{
    audit::{self, Recorded},
    http::{
        auth::{Access, Caller},
        body::{BodyReader, CONTROL_BODY_TIMEOUT},
        layers::RequestId,
        problem::{json_response, problem_response},
        shed::{Admitted, Shed},
    },
    listen::{Peer, Tls},
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
    /// Where it came from.
    pub(super) from: Option<IpAddr>,
    /// What stood in the place of the path's `{…}`.
    pub(super) argument: String,
    pub(super) query: String,
    pub(super) body: T,
}

impl<T> Call<T> {
    pub(super) fn named(&self) -> bool {
        self.caller.is_some()
    }

    pub(super) fn caller_name(&self) -> &str {
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

/// The router under construction.
pub(super) struct Table {
    router: Router,
    state: ControlState,
    reader: BodyReader,
    shed: Arc<Shed>,
}

impl Table {
    /// Without a row.
    pub(super) fn new(state: ControlState) -> Self {
        let reader = BodyReader::new(CONTROL_BODY_TIMEOUT);
        Self { router: Router::new(), state, reader, shed: Arc::new(Shed::control()) }
    }

    /// All of its rows.
    pub(super) fn into_router(self) -> Router {
        self.router
    }

    /// Serves one row of the table.
    pub(super) fn add<T, F>(self, route: &'static Route, handler: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        F: AsyncHandler<T>,
    {
        self.add_with_state(route, move |_: ControlState, call: Call<T>| handler.call(call))
    }

    pub(super) fn add_with_state<T, F, Fut>(mut self, route: &'static Route, handler: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(ControlState, Call<T>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        let (state, reader, shed) = (self.state.clone(), self.reader.clone(), self.shed.clone());
        let serve = move |request: Request| {
            let (state, reader, handler) = (state.clone(), reader.clone(), handler.clone());
            let admitted = shed.admit();
            async move {
                let answer = answer(route, state, reader, admitted, handler, request).await;
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
    admitted: Result<Admitted, Problem>,
    handler: F,
    request: Request,
) -> Answer
where
    T: DeserializeOwned + Send + 'static,
    F: Fn(ControlState, Call<T>) -> Fut,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let (head, body) = request.into_parts();
    let caller = match state.access.load().admit(route.who, &head.headers) {
        Ok(caller) => caller,
        Err(problem) => {
            reader.linger(body);
            return Err(problem);
        }
    };
    let mut admitted = admitted?;
    let bytes = reader.read(body, route.body_bytes_max, Some(&mut admitted)).await?;
    if route.method != Method::Get {
        state.node.is_meant(&head.headers)?;
    }
    let body = keymoot_api::body::parse(&bytes)?;
    let pattern = head.extensions.get::<MatchedPath>().map_or(route.path, MatchedPath::as_str);
    let call = Call {
        node: state.node.clone(),
        caller,
        from: head.extensions.get::<Peer>().map(|peer| peer.0.ip()),
        argument: argument(pattern, head.uri.path()),
        query: head.uri.query().unwrap_or_default().to_owned(),
        body,
    };
    let request = head.extensions.get::<RequestId>().and_then(|id| id.0.to_str().ok());
    let who = call.caller.as_ref().map(|caller| caller.name.as_str());
    let who = audit::Caller { who, from: call.from, request, argument: &call.argument };
    let recorded = Recorded::of(route, &who, &bytes);
    drop(bytes);
    let node = state.node.clone();
    let work = handler(state, call);
    // A task of its own: a client that goes away, or a deadline, drops no half-done ceremony.
    let mut task = tokio::spawn(async move {
        match recorded {
            Some(recorded) => recorded.run(&node, work).await,
            None => work.await,
        }
    });
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
