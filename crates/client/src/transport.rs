//! One request over TLS, and its whole answer.

use std::time::Duration;

use bytes::Bytes;
use keymoot_api::routes::{KEYRING_HEADER, Method, Route};
use keymoot_types::{KeyringId, Wiped, verdict::VERDICT_HEADER};
use reqwest::{
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
    redirect,
};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::options::{Options, OptionsError};

/// No whole answer came. Whether the request was carried out is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection: nothing listens, no route, TLS refused.
    #[error("{addr} can't be reached: {reason}")]
    Connect {
        /// Where.
        addr: String,
        /// What went wrong.
        reason: String,
    },
    /// No answer in time.
    #[error("{addr} did not answer in time")]
    Timeout {
        /// Where.
        addr: String,
    },
    /// The connection broke, or the answer was too long.
    #[error("the answer of {addr} did not arrive whole: {reason}")]
    Broken {
        /// Where.
        addr: String,
        /// What went wrong.
        reason: String,
    },
    /// The request could not be written; a defect of ours.
    #[error("the request can't be written: {0}")]
    Request(String),
}

/// A whole answer, not yet judged. Its body may hold a plaintext.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) verdict: Option<String>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Wiped,
}

/// What one request may cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connecting and the whole answer included.
    pub(crate) timeout: Duration,
    /// The longest answer that is read: above every one that a server gives, and far below memory.
    pub(crate) answer_bytes_max: usize,
}

pub(crate) struct Transport {
    http: reqwest::Client,
    base_url: String,
    authorization: Option<HeaderValue>,
    keyring_id: Option<KeyringId>,
}

impl Transport {
    pub(crate) fn new(options: &Options) -> Result<Self, OptionsError> {
        let builder = reqwest::Client::builder()
            // A redirect could lead a share or a token anywhere.
            .redirect(redirect::Policy::none())
            .https_only(true)
            .no_proxy()
            .connect_timeout(options.connect_timeout);
        let builder = match options.tls()? {
            Some(config) => builder.tls_backend_preconfigured(config),
            None => {
                // The system's verifier asks for the process's provider; one that is installed already is as good.
                let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
                builder
            }
        };
        let http = builder.build().map_err(|error| OptionsError::Tls(whole_reason(&error)))?;
        let authorization = match &options.token {
            None => None,
            Some(token) => {
                let text = Zeroizing::new(format!("Bearer {}", &**token));
                let mut value = HeaderValue::from_str(&text).map_err(|_| OptionsError::Token)?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self { http, base_url: options.base_url()?, authorization, keyring_id: options.keyring_id })
    }

    /// Sends one request, once.
    pub(crate) async fn send<B: Serialize>(
        &self,
        route: &Route,
        path_and_query: &str,
        body: Option<&B>,
        limits: Limits,
    ) -> Result<Answer, TransportError> {
        let method = match route.method {
            Method::Get => reqwest::Method::GET,
            Method::Post => reqwest::Method::POST,
            Method::Patch => reqwest::Method::PATCH,
            Method::Delete => reqwest::Method::DELETE,
        };
        let mut request =
            self.http.request(method, format!("{}{path_and_query}", self.base_url)).timeout(limits.timeout);
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value.clone());
        }
        if let Some(id) = self.keyring_id {
            request = request.header(KEYRING_HEADER, id.to_string());
        }
        if let Some(body) = body {
            let json = serde_json::to_vec(body).map_err(|error| TransportError::Request(error.to_string()))?;
            // The owner is wiped when the last part of the request was written.
            let json = Bytes::from_owner(Wiped::from(json));
            request = request.header(CONTENT_TYPE, "application/json").body(json);
        }
        let mut response = request.send().await.map_err(|error| self.trouble(&error))?;
        let header =
            |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let verdict = header(VERDICT_HEADER);
        let retry_after = header(RETRY_AFTER.as_str()).and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let status = response.status().as_u16();
        let mut body = Wiped::default();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.trouble(&error))? {
            if body.len() + chunk.len() > limits.answer_bytes_max {
                let reason = format!("it is longer than {} bytes", limits.answer_bytes_max);
                return Err(TransportError::Broken { addr: self.base_url.clone(), reason });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, verdict, retry_after, body })
    }

    fn trouble(&self, error: &reqwest::Error) -> TransportError {
        let addr = self.base_url.clone();
        if error.is_timeout() {
            TransportError::Timeout { addr }
        } else if error.is_connect() {
            let reason = whole_reason(error);
            let reason = remedy(error).map_or_else(|| reason.clone(), |remedy| format!("{reason}: {remedy}"));
            TransportError::Connect { addr, reason }
        } else {
            TransportError::Broken { addr, reason: whole_reason(error) }
        }
    }
}

/// The innermost causes: what reqwest itself says is only "error sending request".
fn whole_reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut reasons: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let reason = cause.to_string();
        // Wrappers repeat what they wrap.
        reasons.retain(|outer| !outer.contains(&reason));
        reasons.push(reason);
        next = cause.source();
    }
    if reasons.is_empty() { error.to_string() } else { reasons.join(": ") }
}

/// What a person can do where TLS was refused. Nothing was sent then.
fn remedy(error: &reqwest::Error) -> Option<&'static str> {
    use rustls::{CertificateError as Bad, Error};
    match tls_error(error)? {
        Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            Some("renew its certificate, unless it is this machine's clock that is wrong")
        }
        Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            Some("look at this machine's clock, and from when on its certificate is valid")
        }
        Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            Some("name the CA that signed its certificate, if this is the right address")
        }
        Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            Some("use a name that is in its certificate")
        }
        Error::PeerIncompatible(_) => Some("TLS 1.2 or 1.3 is needed: update what listens there"),
        Error::InvalidMessage(_) => Some("what listens there does not speak TLS: is it the right port?"),
        _ => None,
    }
}

/// The innermost cause, if it is TLS: an I/O error shows what it holds to nobody who only asks for its source.
fn tls_error<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(held) => tls_error(held),
        None => tls_error(error.source()?),
    }
}
