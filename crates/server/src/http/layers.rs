//! What goes around every handler: a request's id, a panic's end, metrics, and answers for what is not served.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use futures::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue};
use keymoot_api::{Problem, body::holds_secret};
use keymoot_types::{ErrorCode, Verdict};
use metrics::{counter, histogram};
use tracing::Instrument as _;

use super::problem::{VERDICT, problem_response};

/// A request's id: the client's, if it is a short word, else one of ours.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_BYTES_MAX: usize = 64;

/// The id, as handlers find it among a request's extensions.
#[derive(Debug, Clone)]
pub struct RequestId(pub HeaderValue);

/// Makes ids that differ between requests and boots, without a system call for each.
struct Ids {
    boot: u32,
    next: AtomicU64,
}

impl Ids {
    fn new() -> Arc<Self> {
        Arc::new(Self { boot: getrandom::u32().unwrap_or_default(), next: AtomicU64::new(1) })
    }

    fn of(&self, headers: &HeaderMap) -> HeaderValue {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let short = |id: &str| !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX && id.bytes().all(|b| plain(&b));
        // It stands in the log: a token that was put there by mistake must not.
        let harmless = |id: &HeaderValue| id.to_str().is_ok_and(|id| short(id) && !holds_secret(id));
        let given = headers.get(REQUEST_ID).filter(|id| harmless(id));
        given.cloned().unwrap_or_else(|| {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            HeaderValue::try_from(format!("{:08x}-{number:x}", self.boot)).unwrap_or(HeaderValue::from_static("-"))
        })
    }
}

/// Around the data listener's routes. No span: it costs more than a decryption.
pub fn data(router: Router) -> Router {
    fallbacks(router).layer(from_fn_with_state(Ids::new(), around_data))
}

/// Around the control listener's routes: a span that names method, route and id, and no header; metrics by route.
pub fn control(router: Router) -> Router {
    fallbacks(router).layer(from_fn_with_state(Ids::new(), around_control))
}

fn fallbacks(router: Router) -> Router {
    router
        .fallback(|| async {
            problem_response(Problem::new(ErrorCode::NotFound, "nothing is served at this address"))
        })
        .method_not_allowed_fallback(|| async {
            problem_response(Problem::new(ErrorCode::MethodNotAllowed, "this address has other methods"))
        })
}

async fn around_data(State(ids): State<Arc<Ids>>, request: Request, next: Next) -> Response {
    let id = ids.of(request.headers());
    let mut response = answered(request, next, &id).await;
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    // Whatever answered: without a verdict of its own it says nothing about a value.
    headers.entry(VERDICT).or_insert(HeaderValue::from_static(Verdict::Undetermined.as_str()));
    response
}

async fn around_control(State(ids): State<Arc<Ids>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = ids.of(request.headers());
    request.extensions_mut().insert(RequestId(id.clone()));
    // The pattern, not the address: a path may hold anything.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let method = request.method().clone();
    let span = tracing::info_span!("request", %method, route, id = id.to_str().unwrap_or_default());
    let mut response = answered(request, next, &id).instrument(span.clone()).await;
    response.headers_mut().insert(REQUEST_ID, id);
    let status = response.status().as_u16();
    let took = started.elapsed();
    span.in_scope(|| tracing::debug!(status, took_us = took.as_micros() as u64, "answered"));
    counter!("keymoot_control_requests_total", "route" => route.clone(), "status" => status.to_string())
        .increment(1);
    histogram!("keymoot_control_request_seconds", "route" => route).record(took);
    response
}

/// The handler's answer; a panic is one request's trouble.
async fn answered(request: Request, next: Next, id: &HeaderValue) -> Response {
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            // The panic's message may quote what was being worked on, so it is not repeated.
            tracing::error!(id = id.to_str().unwrap_or_default(), "a handler panicked");
            counter!("keymoot_panics_total").increment(1);
            problem_response(Problem::new(ErrorCode::Internal, "the request ended in a defect, which was logged"))
        }
    }
}
