//! The control API: one method a request. Nothing is retried here: a person, or a loop that knows the ceremony,
//! decides whether asking again is right.

use std::time::Duration;

use keymoot_api::{
    Problem,
    census::{CensusAnswer, CensusRequest},
    init::{InitAnswer, InitRequest, PackagesAnswer},
    rekey::{
        Job, JobAnswer, JobsAnswer, LimitsRequest, PauseRequest, PlanAnswer, PlanRequest, QuarantineAnswer,
        RekeyRequest,
    },
    rotate::{
        ActivateRequest, ConsentAnswer, ConsentRequest, RequestAnswer, RequestBody, RequestDetail, RetireRequest,
        StepAnswer, StepRequest, VersionsAnswer,
    },
    routes::{self, Route},
    status::{ReadyAnswer, StatusAnswer},
    unlock::{DegradedRequest, PartsAnswer, PartsRequest},
    upkeep::{
        AuditAnswer, CertificatesAnswer, ConfirmRequest, ManifestAnswer, MembersAnswer, MembersRequest, Nothing,
        ReloadAnswer,
    },
};
use keymoot_types::{KeyVersion, SourceName};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    options::{Options, OptionsError},
    transport::{Answer, Limits, Transport, TransportError},
    verdict,
};

/// Over the server's own limit, so that the server's answer comes first.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(5);
/// A ceremony asks many nodes at once, and one that lies must not fill the memory.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why a request was not carried out, or why it is not known whether it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Keymoot says why.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// No whole answer came.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// An answer came that is not Keymoot's.
    #[error("an answer with status {status} that is not Keymoot's: {reason}")]
    NotAnAnswer {
        /// The HTTP status.
        status: u16,
        /// What is wrong with it.
        reason: String,
    },
}

type Result<T> = std::result::Result<T, ControlError>;

/// A client of one node's control API.
pub struct Control {
    transport: Transport,
}

impl Control {
    /// Prepares the connection; nothing is sent yet.
    pub fn new(options: &Options) -> std::result::Result<Self, OptionsError> {
        Ok(Self { transport: Transport::new(options)? })
    }

    /// Whether the process answers.
    pub async fn live(&self) -> Result<()> {
        let answer = self.send(&routes::LIVEZ, routes::LIVEZ.path, NO_BODY).await?;
        if answer.status == 200 { Ok(()) } else { Err(refusal(&answer)) }
    }

    /// Whether services can be answered, and why not.
    pub async fn ready(&self) -> Result<ReadyAnswer> {
        let answer = self.send(&routes::READYZ, routes::READYZ.path, NO_BODY).await?;
        if matches!(answer.status, 200 | 503) { read(&answer) } else { Err(refusal(&answer)) }
    }

    /// How the node is.
    pub async fn status(&self) -> Result<StatusAnswer> {
        self.get(&routes::STATUS, &[]).await
    }

    /// Makes the keyring.
    pub async fn init(&self, request: &InitRequest) -> Result<InitAnswer> {
        self.ask(&routes::INIT, &[], request).await
    }

    /// Gives shares to unlock. An answer is an answer even when every part was refused.
    pub async fn unlock(&self, request: &PartsRequest) -> Result<PartsAnswer> {
        self.parts(&routes::UNLOCK_PARTS, &[], request).await
    }

    /// Wipes what was collected.
    pub async fn unlock_reset(&self) -> Result<()> {
        self.done(&routes::UNLOCK_RESET, &[], NO_BODY).await
    }

    /// Unlocks without versions that are lost.
    pub async fn unlock_degraded(&self, request: &DegradedRequest) -> Result<StatusAnswer> {
        self.ask(&routes::UNLOCK_DEGRADED, &[], request).await
    }

    /// Proves possession of shares.
    pub async fn prove(&self, request: &PartsRequest) -> Result<PartsAnswer> {
        self.parts(&routes::PROVE_PARTS, &[], request).await
    }

    /// Wipes every key.
    pub async fn seal(&self) -> Result<()> {
        self.done(&routes::SEAL, &[], NOTHING).await
    }

    /// Asks for the holders' consent.
    pub async fn request(&self, body: &RequestBody) -> Result<RequestAnswer> {
        self.ask(&routes::REQUESTS, &[], body).await
    }

    /// What is asked for.
    pub async fn request_detail(&self, id: &str) -> Result<RequestDetail> {
        self.get(&routes::REQUEST, &[id]).await
    }

    /// A holder's consent.
    pub async fn consent(&self, id: &str, request: &ConsentRequest) -> Result<ConsentAnswer> {
        self.parts(&routes::REQUEST_CONSENT, &[id], request).await
    }

    /// Withdraws a request.
    pub async fn request_cancel(&self, id: &str) -> Result<()> {
        self.done(&routes::REQUEST_CANCEL, &[id], NO_BODY).await
    }

    /// Lists the versions.
    pub async fn versions(&self) -> Result<VersionsAnswer> {
        self.get(&routes::VERSIONS, &[]).await
    }

    /// A staged version's packages.
    pub async fn packages(&self, version: KeyVersion) -> Result<PackagesAnswer> {
        self.get(&routes::VERSION_PACKAGES, &[&version.to_string()]).await
    }

    /// Makes a version primary.
    pub async fn activate(&self, version: KeyVersion, request: &ActivateRequest) -> Result<StepAnswer> {
        self.ask(&routes::VERSION_ACTIVATE, &[&version.to_string()], request).await
    }

    /// Gives a version up before it is used.
    pub async fn abort(&self, version: KeyVersion, request: &StepRequest) -> Result<StepAnswer> {
        self.ask(&routes::VERSION_ABORT, &[&version.to_string()], request).await
    }

    /// Takes a version out of use.
    pub async fn retire(&self, version: KeyVersion, request: &RetireRequest) -> Result<StepAnswer> {
        self.ask(&routes::VERSION_RETIRE, &[&version.to_string()], request).await
    }

    /// Takes a retired version back.
    pub async fn restore(&self, version: KeyVersion, request: &StepRequest) -> Result<StepAnswer> {
        self.ask(&routes::VERSION_RESTORE, &[&version.to_string()], request).await
    }

    /// Adds or strikes a member.
    pub async fn members(&self, request: &MembersRequest) -> Result<MembersAnswer> {
        self.ask(&routes::MEMBERS, &[], request).await
    }

    /// Starts a job.
    pub async fn rekey_start(&self, request: &RekeyRequest) -> Result<JobAnswer> {
        self.ask(&routes::REKEY_START, &[], request).await
    }

    /// Looks at sources before a job.
    pub async fn rekey_plan(&self, request: &PlanRequest) -> Result<PlanAnswer> {
        self.ask(&routes::REKEY_PLAN, &[], request).await
    }

    /// The newest job, and all jobs.
    pub async fn rekey_jobs(&self) -> Result<JobsAnswer> {
        self.get(&routes::REKEY_LIST, &[]).await
    }

    /// One job.
    pub async fn rekey_job(&self, id: &str) -> Result<Job> {
        self.get(&routes::REKEY_JOB, &[id]).await
    }

    /// Pauses a job.
    pub async fn rekey_pause(&self, id: &str, request: &PauseRequest) -> Result<JobAnswer> {
        self.ask(&routes::REKEY_PAUSE, &[id], request).await
    }

    /// Resumes a job.
    pub async fn rekey_resume(&self, id: &str) -> Result<JobAnswer> {
        self.ask(&routes::REKEY_RESUME, &[id], &Nothing {}).await
    }

    /// Cancels a job.
    pub async fn rekey_cancel(&self, id: &str) -> Result<JobAnswer> {
        self.ask(&routes::REKEY_CANCEL, &[id], &Nothing {}).await
    }

    /// Changes a job's limits.
    pub async fn rekey_limits(&self, id: &str, request: &LimitsRequest) -> Result<JobAnswer> {
        self.ask(&routes::REKEY_LIMITS, &[id], request).await
    }

    /// One page of the rows put aside, of all sources or of one; `after` is the `next` of the page before.
    pub async fn rekey_quarantine(
        &self,
        id: &str,
        source: Option<&SourceName>,
        after: Option<&str>,
    ) -> Result<QuarantineAnswer> {
        let route = &routes::REKEY_QUARANTINE;
        let mut path = with_after(route.path_with(&[id]), after);
        if let Some(source) = source {
            path.push_str(&format!("{}source={source}", if after.is_some() { '&' } else { '?' }));
        }
        let answer = self.send(route, &path, NO_BODY).await?;
        success(&answer)
    }

    /// Tries the rows put aside again.
    pub async fn rekey_quarantine_retry(&self, id: &str) -> Result<JobAnswer> {
        self.ask(&routes::REKEY_QUARANTINE_RETRY, &[id], &Nothing {}).await
    }

    /// Starts counting.
    pub async fn census_start(&self, request: &CensusRequest) -> Result<CensusAnswer> {
        self.ask(&routes::CENSUS_START, &[], request).await
    }

    /// The latest counts.
    pub async fn census(&self) -> Result<CensusAnswer> {
        self.get(&routes::CENSUS, &[]).await
    }

    /// One page of the audit log; `after` is the last sequence number already seen.
    pub async fn audit(&self, after: Option<u64>) -> Result<AuditAnswer> {
        let route = &routes::AUDIT;
        let after = after.map(|after| after.to_string());
        let path = with_after(route.path.into(), after.as_deref());
        let answer = self.send(route, &path, NO_BODY).await?;
        success(&answer)
    }

    /// Certificates of retirements.
    pub async fn certificates(&self) -> Result<CertificatesAnswer> {
        self.get(&routes::CERTIFICATES, &[]).await
    }

    /// Ends a doubt.
    pub async fn doubt_acknowledge(&self) -> Result<()> {
        self.done(&routes::DOUBT_ACKNOWLEDGE, &[], NOTHING).await
    }

    /// Reads the configuration again.
    pub async fn reload(&self) -> Result<ReloadAnswer> {
        self.ask(&routes::RELOAD, &[], &Nothing {}).await
    }

    /// Adopts a named manifest.
    pub async fn manifest_confirm(&self, request: &ConfirmRequest) -> Result<ManifestAnswer> {
        self.ask(&routes::MANIFEST_CONFIRM, &[], request).await
    }

    /// Publishes the node's own manifest anew.
    pub async fn manifest_republish(&self) -> Result<ManifestAnswer> {
        self.ask(&routes::MANIFEST_REPUBLISH, &[], &Nothing {}).await
    }

    async fn send<B: Serialize>(&self, route: &Route, path: &str, body: Option<&B>) -> Result<Answer> {
        let timeout = route.timeout.unwrap_or(TIMEOUT_MARGIN) + TIMEOUT_MARGIN;
        Ok(self.transport.send(route, path, body, Limits { timeout, answer_bytes_max: ANSWER_BYTES_MAX }).await?)
    }

    async fn get<T: DeserializeOwned>(&self, route: &Route, arguments: &[&str]) -> Result<T> {
        success(&self.send(route, &route.path_with(arguments), NO_BODY).await?)
    }

    async fn ask<B: Serialize, T: DeserializeOwned>(
        &self,
        route: &Route,
        arguments: &[&str],
        body: &B,
    ) -> Result<T> {
        success(&self.send(route, &route.path_with(arguments), Some(body)).await?)
    }

    async fn done<B: Serialize>(&self, route: &Route, arguments: &[&str], body: Option<&B>) -> Result<()> {
        let answer = self.send(route, &route.path_with(arguments), body).await?;
        if (200..300).contains(&answer.status) { Ok(()) } else { Err(refusal(&answer)) }
    }

    /// 422 carries the same answer as 200 here: it says which parts were refused.
    async fn parts<B: Serialize, T: DeserializeOwned>(
        &self,
        route: &Route,
        arguments: &[&str],
        body: &B,
    ) -> Result<T> {
        let answer = self.send(route, &route.path_with(arguments), Some(body)).await?;
        if answer.status == 422 && verdict::problem(&answer).is_none() { read(&answer) } else { success(&answer) }
    }
}

const NO_BODY: Option<&Nothing> = None;
const NOTHING: Option<&Nothing> = Some(&Nothing {});

fn success<T: DeserializeOwned>(answer: &Answer) -> Result<T> {
    if (200..300).contains(&answer.status) { read(answer) } else { Err(refusal(answer)) }
}

fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T> {
    serde_json::from_slice(&answer.body).map_err(|error| ControlError::NotAnAnswer {
        status: answer.status,
        // Where and not what: the body may hold a package.
        reason: format!("its body can't be read at line {}, column {}", error.line(), error.column()),
    })
}

fn refusal(answer: &Answer) -> ControlError {
    match verdict::problem(answer) {
        Some(problem) => ControlError::Problem(Box::new(problem)),
        None => ControlError::NotAnAnswer {
            status: answer.status,
            reason: "its body is no problem that can be read".into(),
        },
    }
}

/// `after` is our own server's text; it is escaped all the same, as it comes from a person's screen.
fn with_after(path: String, after: Option<&str>) -> String {
    let escaped = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte {
                b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' | b'.' | b'~' => {
                    char::from(byte).to_string()
                }
                _ => format!("%{byte:02X}"),
            })
            .collect()
    };
    match after {
        Some(after) => format!("{path}?after={}", escaped(after)),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_asked_for_by_an_escaped_text() {
        assert_eq!(with_after("/v1/audit".into(), None), "/v1/audit");
        assert_eq!(with_after("/v1/audit".into(), Some("17")), "/v1/audit?after=17");
        assert_eq!(with_after("/q".into(), Some("a&b=ü")), "/q?after=a%26b%3D%C3%BC");
    }
}
