//! Every address, once: method, path, listener, who may call, and how long a body may be.
//!
//! A path's `{name}` is filled by [`Route::path_with`]; the server gives the pattern to its router as it is.

use std::time::Duration;

/// The header of a command that names the keyring id it is meant for: a node of another keyring refuses it.
pub const KEYRING_HEADER: &str = "keymoot-keyring";

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// An HTTP method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// `GET`
    Get,
    /// `POST`
    Post,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
}

/// Which of the two listeners answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Listener {
    /// For services.
    Data,
    /// For keyholders, operators and probes.
    Control,
}

/// Who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Who {
    /// No token needed.
    Anyone,
    /// Whoever has a share, or a request's id: no token needed, and what is given decides.
    Holder,
    /// A service whose token allows the key and the operation.
    Service,
    /// An operator.
    Operator,
    /// An operator or an auditor.
    Reader,
}

/// One address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Its method.
    pub method: Method,
    /// Its path; `{name}` stands for one segment.
    pub path: &'static str,
    /// Where it is served.
    pub listener: Listener,
    /// Who may call.
    pub who: Who,
    /// The longest body, bytes.
    pub body_bytes_max: usize,
    /// The longest that an answer takes; an event stream has no end.
    pub timeout: Option<Duration>,
}

impl Route {
    const fn data(path: &'static str, body_bytes_max: usize) -> Self {
        Self {
            method: Method::Post,
            path,
            listener: Listener::Data,
            who: Who::Service,
            body_bytes_max,
            timeout: Some(Duration::from_secs(30)),
        }
    }

    const fn control(method: Method, path: &'static str, who: Who) -> Self {
        Self {
            method,
            path,
            listener: Listener::Control,
            who,
            body_bytes_max: MIB,
            // Activation itself may wait 30 seconds for the members.
            timeout: Some(Duration::from_secs(60)),
        }
    }

    /// The path with its `{…}` filled in, in order.
    pub fn path_with(&self, arguments: &[&str]) -> String {
        let mut arguments = arguments.iter();
        let fill = |segment: &'static str| {
            if segment.starts_with('{') { arguments.next().copied().unwrap_or_default() } else { segment }
        };
        self.path.split('/').map(fill).collect::<Vec<_>>().join("/")
    }
}

macro_rules! routes {
    ($($(#[$doc:meta])* $name:ident = $route:expr;)*) => {
        $($(#[$doc])* pub const $name: Route = $route;)*

        /// Every address.
        pub const ALL: &[Route] = &[$($name),*];
    };
}

use Method::{Delete, Get, Patch, Post};
use Who::{Anyone, Holder, Operator, Reader};

routes! {
    /// Encrypts values.
    ENCRYPT = Route::data("/v1/keys/{key}/encrypt", 32 * MIB);
    /// Decrypts values.
    DECRYPT = Route::data("/v1/keys/{key}/decrypt", 32 * MIB);
    /// Encrypts values anew with the primary.
    REWRAP = Route::data("/v1/keys/{key}/rewrap", 32 * MIB);
    /// Makes a data key.
    DATAKEY = Route::data("/v1/keys/{key}/datakey", 64 * KIB);
    /// Opens a data key.
    DATAKEY_DECRYPT = Route::data("/v1/keys/{key}/datakey/decrypt", 64 * KIB);
    /// Lists the keys that the caller may use.
    KEYS = Route { method: Get, ..Route::data("/v1/keys", KIB) };

    /// Whether the process answers.
    LIVEZ = Route::control(Get, "/livez", Anyone);
    /// Whether services can be answered.
    READYZ = Route::control(Get, "/readyz", Anyone);
    /// Prometheus.
    METRICS = Route::control(Get, "/metrics", Anyone);
    /// The interface as a document.
    OPENAPI = Route::control(Get, "/openapi.json", Anyone);
    /// How the node is.
    STATUS = Route::control(Get, "/v1/status", Anyone);
    /// Makes the keyring.
    INIT = Route::control(Post, "/v1/init", Operator);
    /// Takes shares to unlock.
    UNLOCK_PARTS = Route::control(Post, "/v1/unlock/parts", Holder);
    /// Wipes what was collected.
    UNLOCK_RESET = Route::control(Delete, "/v1/unlock", Operator);
    /// Unlocks without versions that are lost.
    UNLOCK_DEGRADED = Route::control(Post, "/v1/unlock/degraded", Operator);
    /// Takes shares as proofs.
    PROVE_PARTS = Route::control(Post, "/v1/prove/parts", Holder);
    /// Wipes every key.
    SEAL = Route::control(Post, "/v1/seal", Operator);
    /// Asks for the holders' consent.
    REQUESTS = Route::control(Post, "/v1/requests", Operator);
    /// What is asked for.
    REQUEST = Route::control(Get, "/v1/requests/{id}", Holder);
    /// A holder's consent.
    REQUEST_CONSENT = Route::control(Post, "/v1/requests/{id}/consent", Holder);
    /// Withdraws a request.
    REQUEST_CANCEL = Route::control(Delete, "/v1/requests/{id}", Operator);
    /// Lists the versions.
    VERSIONS = Route::control(Get, "/v1/versions", Reader);
    /// A staged version's packages.
    VERSION_PACKAGES = Route::control(Get, "/v1/versions/{version}/packages", Operator);
    /// Makes a version primary.
    VERSION_ACTIVATE = Route::control(Post, "/v1/versions/{version}/activate", Operator);
    /// Gives a version up before it is used.
    VERSION_ABORT = Route::control(Post, "/v1/versions/{version}/abort", Operator);
    /// Takes a version out of use.
    VERSION_RETIRE = Route::control(Post, "/v1/versions/{version}/retire", Operator);
    /// Takes a retired version back.
    VERSION_RESTORE = Route::control(Post, "/v1/versions/{version}/restore", Operator);
    /// Adds or strikes a member.
    MEMBERS = Route::control(Post, "/v1/members", Operator);
    /// Starts a job.
    REKEY_START = Route::control(Post, "/v1/rekey", Operator);
    /// Looks at sources before a job.
    REKEY_PLAN = Route::control(Post, "/v1/rekey/plan", Operator);
    /// Lists jobs.
    REKEY_LIST = Route::control(Get, "/v1/rekey", Reader);
    /// One job.
    REKEY_JOB = Route::control(Get, "/v1/rekey/{id}", Reader);
    /// One job's progress, as server-sent events.
    REKEY_EVENTS = Route { timeout: None, ..Route::control(Get, "/v1/rekey/{id}/events", Reader) };
    /// Pauses a job.
    REKEY_PAUSE = Route::control(Post, "/v1/rekey/{id}/pause", Operator);
    /// Resumes a job.
    REKEY_RESUME = Route::control(Post, "/v1/rekey/{id}/resume", Operator);
    /// Cancels a job.
    REKEY_CANCEL = Route::control(Post, "/v1/rekey/{id}/cancel", Operator);
    /// Changes a job's limits.
    REKEY_LIMITS = Route::control(Patch, "/v1/rekey/{id}", Operator);
    /// Rows put aside.
    REKEY_QUARANTINE = Route::control(Get, "/v1/rekey/{id}/quarantine", Reader);
    /// Tries them again.
    REKEY_QUARANTINE_RETRY = Route::control(Post, "/v1/rekey/{id}/quarantine/retry", Operator);
    /// Counts every source.
    CENSUS_START = Route::control(Post, "/v1/census", Operator);
    /// The latest counts.
    CENSUS = Route::control(Get, "/v1/census", Reader);
    /// The audit log.
    AUDIT = Route::control(Get, "/v1/audit", Reader);
    /// Certificates of retirements.
    CERTIFICATES = Route::control(Get, "/v1/certificates", Reader);
    /// Ends a doubt.
    DOUBT_ACKNOWLEDGE = Route::control(Post, "/v1/doubt/acknowledge", Operator);
    /// Reads the configuration again.
    RELOAD = Route::control(Post, "/v1/reload", Operator);
    /// Adopts a named manifest.
    MANIFEST_CONFIRM = Route::control(Post, "/v1/manifest/confirm", Operator);
    /// Publishes the node's own manifest anew.
    MANIFEST_REPUBLISH = Route::control(Post, "/v1/manifest/republish", Operator);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_is_served_twice() {
        for (index, route) in ALL.iter().enumerate() {
            for other in &ALL[index + 1..] {
                assert!(
                    (route.method, route.path, route.listener) != (other.method, other.path, other.listener),
                    "{route:?}"
                );
            }
        }
    }

    #[test]
    fn a_path_is_filled_in_order() {
        assert_eq!(DECRYPT.path_with(&["auth-token"]), "/v1/keys/auth-token/decrypt");
        assert_eq!(KEYS.path_with(&[]), "/v1/keys");
    }
}
