//! The exit codes, in one place.

use std::process::ExitCode;

use keymoot_api::Problem;
use keymoot_client::{ControlError, OptionsError, Trouble};
use keymoot_types::ErrorCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All of it.
    Done,
    /// It failed, and trying again as it is won't help. For `decrypt`: the value is positively invalid.
    Failed,
    /// Wrong usage or configuration, a missing or unknown token included.
    Usage,
    /// Undetermined: try again (sealed, overloaded, a version not loaded, more shares needed, no answer).
    TryAgain,
    /// Refused by a gate; what is missing was listed.
    Refused,
    /// Done in part: rows are in quarantine.
    Partly,
}

impl Exit {
    /// The number.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::TryAgain => 3,
            Self::Refused => 4,
            Self::Partly => 6,
        }
    }

    /// The exit of a number that another part of the program has chosen.
    pub(crate) fn of_code(code: u8) -> Self {
        let known = [Self::Done, Self::Failed, Self::Usage, Self::TryAgain, Self::Refused, Self::Partly];
        known.into_iter().find(|exit| exit.code() == code).unwrap_or(Self::Failed)
    }

    /// What a problem's code amounts to. Only what is positively known is `Failed`: a script that takes 1 for
    /// "the value is bad" must never see it for a node in trouble.
    pub(crate) fn of_problem(code: ErrorCode) -> Self {
        match code {
            ErrorCode::MalformedCiphertext
            | ErrorCode::AuthenticationFailed
            | ErrorCode::KeyVersionRetired
            | ErrorCode::NotFound
            | ErrorCode::MethodNotAllowed
            | ErrorCode::Conflict => Self::Failed,
            ErrorCode::BadRequest
            | ErrorCode::UnknownKey
            | ErrorCode::TooLarge
            | ErrorCode::Unauthenticated
            | ErrorCode::Forbidden => Self::Usage,
            ErrorCode::KeyVersionUnavailable
            | ErrorCode::UnknownKeyVersion
            | ErrorCode::UnsupportedFormat
            | ErrorCode::InDoubt
            | ErrorCode::Sealed
            | ErrorCode::Overloaded
            | ErrorCode::RateLimited
            | ErrorCode::StoreUnavailable
            | ErrorCode::AuditUnavailable
            | ErrorCode::Internal => Self::TryAgain,
            ErrorCode::GateRefused => Self::Refused,
        }
    }

    /// One exit for many: what won't get better by itself comes first.
    pub(crate) fn worst(exits: impl IntoIterator<Item = Self>) -> Self {
        const RISING: [Exit; 6] =
            [Exit::Done, Exit::Partly, Exit::TryAgain, Exit::Refused, Exit::Failed, Exit::Usage];
        let rank = |exit: &Self| RISING.iter().position(|known| known == exit);
        exits.into_iter().max_by_key(rank).unwrap_or(Self::Done)
    }

    /// What an error amounts to, whatever was said around it.
    pub(crate) fn of_error(error: &anyhow::Error) -> Self {
        for cause in error.chain() {
            if let Some(problem) = problem_in(cause) {
                return Self::of_problem(problem.code);
            }
            if cause.is::<ControlError>() || cause.is::<Trouble>() {
                return Self::TryAgain;
            }
            if cause.is::<WrongUsage>() || cause.is::<OptionsError>() {
                return Self::Usage;
            }
        }
        Self::Failed
    }
}

/// The problem that an error carries, if a node sent one.
pub(crate) fn problem_in<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Problem> {
    if let Some(ControlError::Problem(problem)) = error.downcast_ref() {
        return Some(problem);
    }
    if let Some(Trouble::Problem(problem)) = error.downcast_ref() {
        return Some(problem);
    }
    error.downcast_ref()
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// What was asked for, or how this program is set up, is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WrongUsage(pub String);

/// An error that ends with exit code 2.
pub(crate) fn wrong_usage(text: impl Into<String>) -> anyhow::Error {
    WrongUsage(text.into()).into()
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;
    use keymoot_client::TransportError;

    use super::*;

    #[test]
    fn only_a_positive_verdict_on_a_value_looks_like_one() {
        for code in ErrorCode::ALL {
            let exit = Exit::of_problem(code);
            if code.verdict() == keymoot_types::Verdict::Invalid {
                assert_eq!(exit, Exit::Failed);
            }
            if code.status() == 503 || code.status() == 500 || code.status() == 429 {
                assert_eq!(exit, Exit::TryAgain, "{code:?}");
            }
        }
        assert_eq!(Exit::of_problem(ErrorCode::GateRefused).code(), 4);
    }

    #[test]
    fn an_error_keeps_its_code_under_what_is_said_around_it() {
        let gate = ControlError::Problem(Box::new(Problem::new(ErrorCode::GateRefused, "x")));
        let lost = ControlError::Transport(TransportError::Timeout { addr: "x".into() });
        let wrapped = |error: ControlError| Err::<(), _>(error).context("activating v10").unwrap_err();
        assert_eq!(Exit::of_error(&wrapped(gate)), Exit::Refused);
        assert_eq!(Exit::of_error(&wrapped(lost)), Exit::TryAgain);
        assert_eq!(Exit::of_error(&wrong_usage("x")), Exit::Usage);
        assert_eq!(Exit::of_error(&anyhow::anyhow!("x")), Exit::Failed);
    }
}
