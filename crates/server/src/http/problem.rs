//! From a problem, or an answer, to HTTP.

use std::time::Duration;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use keymoot_api::{Problem, problem::MEDIA_TYPE};
use keymoot_types::{ErrorCode, Verdict, verdict::VERDICT_HEADER, wiped::wipe};
use serde::Serialize;

/// The header of the verdict.
pub const VERDICT: HeaderName = HeaderName::from_static(VERDICT_HEADER);
/// Clients come back between one and three times this after overload, not all at once.
const RETRY_MS: u64 = 1_000;
/// Room for an answer that says little.
const ANSWER_BYTES: usize = 512;

/// A problem as a handler's error: `?` makes one of a [`Problem`].
#[derive(Debug)]
pub struct Refused(Box<Problem>);

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        problem_response(*self.0)
    }
}

/// `overloaded` or `rate_limited`, with a time to come back that differs from client to client.
pub fn later(code: ErrorCode, detail: impl Into<String>) -> Problem {
    later_than(Duration::ZERO, code, detail)
}

/// The same where coming back before `wait` is over would be in vain.
pub fn later_than(wait: Duration, code: ErrorCode, detail: impl Into<String>) -> Problem {
    // Without randomness all come back together, which is bad, but not a reason to answer nothing.
    let jitter_ms = u64::from(getrandom::u32().unwrap_or_default()) % (2 * RETRY_MS);
    let wait = wait.max(Duration::from_millis(RETRY_MS));
    Problem::new(code, detail).with_retry(wait + Duration::from_millis(jitter_ms))
}

/// `application/problem+json` with the verdict's header, and `Retry-After` where the problem says when.
pub fn problem_response(problem: Problem) -> Response {
    let problem = match problem.code {
        ErrorCode::Overloaded | ErrorCode::RateLimited if problem.retry_after_ms.is_none() => {
            Problem { retry_after_ms: later(problem.code, "").retry_after_ms, ..problem }
        }
        _ => problem,
    };
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, &problem, Some(problem.verdict), ANSWER_BYTES);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    if let Some(after_ms) = problem.retry_after_ms {
        headers.insert(RETRY_AFTER, HeaderValue::from(after_ms.div_ceil(1_000)));
    }
    if problem.code == ErrorCode::Unauthenticated {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// JSON with a verdict, for the data listener. `bytes` is about how long it will be: what grows beyond leaves
/// copies behind that nobody wipes.
pub fn verdict_response(answer: &impl Serialize, verdict: Verdict, bytes: usize) -> Response {
    json(StatusCode::OK, answer, Some(verdict), bytes)
}

/// JSON without a verdict, for the control listener.
pub fn json_response(status: StatusCode, answer: &impl Serialize) -> Response {
    json(status, answer, None, ANSWER_BYTES)
}

/// An answer, in which plaintexts and packages may stand: wiped when it was sent. Only as far as it was written, for the
/// room behind that is as much again.
struct Written(Vec<u8>);

impl AsRef<[u8]> for Written {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn json(status: StatusCode, answer: &impl Serialize, verdict: Option<Verdict>, bytes: usize) -> Response {
    let mut body = Written(Vec::with_capacity(bytes));
    let written = serde_json::to_writer(&mut body.0, answer);
    let mut response = Response::new(Body::from(Bytes::from_owner(body)));
    *response.status_mut() = status;
    if written.is_err() {
        *response.body_mut() = Body::empty();
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let verdict = if written.is_err() { Some(Verdict::Undetermined) } else { verdict };
    if let Some(verdict) = verdict {
        headers.insert(VERDICT, HeaderValue::from_static(verdict.as_str()));
    }
    response
}
