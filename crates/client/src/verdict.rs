//! What an answer says about a value.
//!
//! Only a positive statement, made twice (in the header and in the body) and borne out by the status, is a
//! verdict. Whatever else comes back (a balancer's error page, half an answer, a code from the future) is
//! undetermined, so that no trouble can be turned into a logout.

use std::time::Duration;

use keymoot_api::{Problem, data::ItemAnswer};
use keymoot_types::{ErrorCode, Verdict as Word};
use serde::de::DeserializeOwned;

use crate::transport::{Answer, TransportError};

/// What is known about a value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Verdict<T> {
    /// It went well.
    Valid(T),
    /// The value is positively known to be no good one.
    Invalid(Problem),
    /// Nothing can be said here and now. Never a reason to log anyone out.
    Undetermined(Trouble),
}

/// Why nothing can be said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Keymoot says why.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// No whole answer came.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// An answer came that is not Keymoot's, or contradicts itself.
    #[error("an answer with status {status} that is not Keymoot's: {reason}")]
    NotAnAnswer {
        /// The HTTP status.
        status: u16,
        /// What is wrong with it.
        reason: String,
    },
}

impl<T> Verdict<T> {
    /// The value, or none: for callers who treat invalid and undetermined alike.
    pub fn valid(self) -> Option<T> {
        match self {
            Self::Valid(value) => Some(value),
            Self::Invalid(_) | Self::Undetermined(_) => None,
        }
    }
}

impl Trouble {
    pub(crate) fn of(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }

    /// Whether it may pass in seconds. A doubt does not: asking again only feeds it.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Problem(problem) => {
                matches!(problem.code, ErrorCode::Overloaded | ErrorCode::RateLimited | ErrorCode::Sealed)
            }
            Self::Transport(error) => !matches!(error, TransportError::Request(_)),
            Self::NotAnAnswer { .. } => false,
        }
    }

    /// When the server wants to be asked again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem(problem) => problem.retry_after_ms.map(Duration::from_millis),
            Self::Transport(_) | Self::NotAnAnswer { .. } => None,
        }
    }
}

/// Judges the answer about one value.
pub(crate) fn judge<T: DeserializeOwned>(answer: &Answer) -> Verdict<T> {
    let not_an_answer = |reason: &str| {
        Verdict::Undetermined(Trouble::NotAnAnswer { status: answer.status, reason: reason.into() })
    };
    let Some(word) = answer.verdict.as_deref() else {
        return not_an_answer("it has no Keymoot-Verdict header");
    };
    if answer.status == 200 {
        if word != Word::Valid.as_str() {
            return not_an_answer("its status and its verdict contradict each other");
        }
        return match serde_json::from_slice(&answer.body) {
            Ok(value) => Verdict::Valid(value),
            Err(_) => not_an_answer("its body can't be read"),
        };
    }
    match problem(answer) {
        None => not_an_answer("its body is no problem that can be read"),
        Some(problem)
            if word == Word::Invalid.as_str() && matches!(answer.status, 422 | 410) && is_invalid(&problem) =>
        {
            Verdict::Invalid(problem)
        }
        Some(problem) => Verdict::Undetermined(Trouble::of(problem)),
    }
}

/// Judges one item of a batch.
pub(crate) fn judge_item<T>(item: ItemAnswer<T>) -> Verdict<T> {
    match item {
        ItemAnswer::Done(value) => Verdict::Valid(value),
        ItemAnswer::Failed { error, .. } if is_invalid(&error) => Verdict::Invalid(*error),
        ItemAnswer::Failed { error, .. } => Verdict::Undetermined(Trouble::Problem(error)),
    }
}

/// The problem in an answer, with what the header alone says about asking again.
pub(crate) fn problem(answer: &Answer) -> Option<Problem> {
    let mut problem: Problem = serde_json::from_slice(&answer.body).ok()?;
    if problem.retry_after_ms.is_none() {
        problem.retry_after_ms = answer.retry_after.and_then(|after| u64::try_from(after.as_millis()).ok());
    }
    Some(problem)
}

/// Both what the server says and what this build knows of the code.
fn is_invalid(problem: &Problem) -> bool {
    problem.verdict == Word::Invalid && problem.code.verdict() == Word::Invalid
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
