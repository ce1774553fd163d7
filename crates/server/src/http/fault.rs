//! Faults to try things on: a node that answers services as if it were in trouble, so that a team can test what
//! its own code does then. Only `keymoot dev` asks for one; no configuration can.

use std::time::Duration;

use axum::{
    Router,
    extract::Request,
    middleware::{Next, from_fn},
};
use keymoot_types::ErrorCode;

use super::problem::{later, problem_response};

/// How long a slow node takes.
pub const SLOW: Duration = Duration::from_secs(5);

/// What the data listener is to suffer from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Every request is refused, with a time to come back.
    Overloaded,
    /// Every answer is right, and takes [`SLOW`].
    Slow,
}

/// Around the data listener's routes.
pub fn around(router: Router, fault: Option<Fault>) -> Router {
    match fault {
        None => router,
        Some(Fault::Overloaded) => router.layer(from_fn(|_: Request, _: Next| async {
            problem_response(later(ErrorCode::Overloaded, "more requests are open than can be answered soon"))
        })),
        Some(Fault::Slow) => router.layer(from_fn(|request: Request, next: Next| async {
            tokio::time::sleep(SLOW).await;
            next.run(request).await
        })),
    }
}
