//! Faults to try things on: a node that answers services as if it were in trouble, so that a team can test what
//! its own code does then. Only `keymoot dev` asks for one; no configuration can.

use std::time::Duration;

use axum::{
    Router,
    extract::Request,
    middleware::{Next, from_fn},
};

use super::shed::Shed;

/// How long a slow node takes.
pub const SLOW: Duration = Duration::from_secs(5);

/// What the data listener is to suffer from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// There is room for no request: each is refused, with a time to come back.
    Overloaded,
    /// Every answer is right, and takes [`SLOW`].
    Slow,
}

/// How much the data listener takes on.
pub fn shed(fault: Option<Fault>) -> Shed {
    if fault == Some(Fault::Overloaded) { Shed::new(0, 0) } else { Shed::default() }
}

/// Around the data listener's routes.
pub fn around(router: Router, fault: Option<Fault>) -> Router {
    if fault != Some(Fault::Slow) {
        return router;
    }
    router.layer(from_fn(|request: Request, next: Next| async {
        tokio::time::sleep(SLOW).await;
        next.run(request).await
    }))
}
