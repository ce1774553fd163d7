//! One control call, held to the table of what must be recorded.

use std::{net::IpAddr, panic::AssertUnwindSafe};

use axum::response::Response;
use futures::FutureExt as _;
use keymoot_api::{Problem, body::parse, rotate::ConsentRequest, routes::Route, unlock::Parts};
use keymoot_types::{
    ErrorCode,
    audit::{Entry, Phase},
};

use super::{
    Audit,
    facts::{self, Outcome},
    policy::{self, Policy, Rule},
};
use crate::node::Node;

type Answer = Result<Response, Problem>;

/// Who calls, and what is in the address.
pub(crate) struct Caller<'a> {
    /// The token's name.
    pub(crate) who: Option<&'a str>,
    pub(crate) from: Option<IpAddr>,
    /// The request's id.
    pub(crate) request: Option<&'a str>,
    /// What stood in the place of the path's `{…}`.
    pub(crate) argument: &'a str,
}

/// A call that is to be recorded.
pub(crate) struct Recorded {
    policy: Policy,
    from: Option<IpAddr>,
    argument: String,
    entry: Entry,
    /// Of a consent: what is done depends on them.
    parts: Parts,
}

impl Recorded {
    /// What is known before it is done; nothing where a route is not recorded.
    pub(crate) fn of(route: &Route, caller: &Caller<'_>, body: &[u8]) -> Option<Self> {
        let Rule { event, policy, .. } = policy::of(route)?;
        let mut entry = Entry::new(*event, Phase::Intent);
        if let Some(who) = caller.who {
            entry = entry.who(who);
        }
        if let Some(from) = caller.from {
            entry = entry.from(from);
        }
        if let Some(request) = caller.request {
            entry = entry.request(request);
        }
        if !caller.argument.is_empty() {
            entry = entry.fact("subject", facts::word(caller.argument.into(), 64));
        }
        for (name, value) in facts::asked(body) {
            entry = entry.fact(name, value);
        }
        let parts = match policy {
            Policy::Consent => parse::<ConsentRequest>(body).ok()?.parts,
            _ => Parts::default(),
        };
        Some(Self { policy: *policy, from: caller.from, argument: caller.argument.into(), entry, parts })
    }

    /// Does it, with a record before and behind it.
    pub(crate) async fn run(self, node: &Node, work: impl Future<Output = Answer>) -> Answer {
        let policy = self.policy(node).await?;
        match policy {
            Policy::Parts | Policy::Proofs => {
                let (answer, outcome) = Outcome::of(ended(work).await).await;
                let written = match &outcome.accepted()[..] {
                    [] => node.audit.admits(self.from),
                    holders => policy == Policy::Parts || node.audit.admits_holders(holders),
                };
                if written {
                    node.audit.offer(outcome.onto(self.entry)).await;
                }
                answer
            }
            Policy::Open => {
                let intent = node.audit.offer(self.entry.clone()).await;
                with_outcome(&node.audit, self.entry, intent, work).await
            }
            _ => guarded(&node.audit, self.entry, work).await,
        }
    }

    /// The row's word, as far as it depends on the call.
    async fn policy(&self, node: &Node) -> Result<Policy, Problem> {
        Ok(match self.policy {
            Policy::Consent => match &node.consenting(&self.argument, &self.parts).await[..] {
                [] => Policy::Parts,
                holders if node.audit.admits_holders(holders) => Policy::Guarded,
                // One consent is all that a holder has to give, so this keeps nobody from it.
                _ => return Err(too_often()),
            },
            Policy::GuardedUnlessBack if node.is_way_back(&self.argument) => Policy::Open,
            Policy::GuardedReload => {
                node.audit.reopen().await;
                Policy::Guarded
            }
            policy => policy,
        })
    }
}

fn too_often() -> Problem {
    let detail = "this share was given over and over within a minute; `keymoot status` says whether it counts";
    Problem::new(ErrorCode::RateLimited, detail)
}

/// Does it only once its intent is on disk.
pub(crate) async fn guarded(audit: &Audit, entry: Entry, work: impl Future<Output = Answer>) -> Answer {
    let intent = audit.require(entry.clone()).await.map_err(|cause| {
        tracing::error!(event = entry.event(), cause, "refused: it could not be recorded");
        Problem::new(
            ErrorCode::AuditUnavailable,
            format!("nothing was done: the audit log can't be written: {cause}"),
        )
    })?;
    with_outcome(audit, entry, Some(intent), work).await
}

async fn with_outcome(
    audit: &Audit,
    entry: Entry,
    intent: Option<u64>,
    work: impl Future<Output = Answer>,
) -> Answer {
    let (answer, outcome) = Outcome::of(ended(work).await).await;
    let done = outcome.phase == Phase::Done;
    let mut record = outcome.onto(entry);
    if let Some(intent) = intent {
        record = record.fact("intent", intent);
    }
    audit.offer(record).await;
    if done {
        audit.checkpoint_soon();
    }
    answer
}

/// A defect is an outcome too.
async fn ended(work: impl Future<Output = Answer>) -> Answer {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!("a handler panicked");
        Err(Problem::new(ErrorCode::Internal, "the request ended in a defect, which was logged"))
    })
}
