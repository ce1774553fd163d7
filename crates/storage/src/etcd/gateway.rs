//! Asking the members, over the JSON interface that each of them offers beside gRPC.

use std::{
    error::Error as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::{Client, RequestBuilder, Url, redirect};
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Fault, Trouble,
    address::{Address, Login},
    message::{ErrorAnswer, TokenAnswer, TxnAnswer, transaction},
};
use crate::{OpenError, away, away::Away};

/// How long all members together may take: longer than the election of a new leader.
const CALL: Duration = Duration::from_secs(4);

/// How long one of them may take: then it is stopped, cut off, or without a leader.
const ATTEMPT: Duration = Duration::from_secs(1);

/// How long a connection to one may take.
const CONNECT: Duration = Duration::from_millis(500);

/// The longest answer: a page of the longest records.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

// Codes of gRPC that the answers to errors carry.
const CANCELLED: i64 = 1;
const UNKNOWN: i64 = 2;
const DEADLINE_EXCEEDED: i64 = 4;
const OUT_OF_RANGE: i64 = 11;
const UNAVAILABLE: i64 = 14;
const DATA_LOSS: i64 = 15;
const UNAUTHENTICATED: i64 = 16;

/// The members of a cluster.
pub(super) struct Gateway {
    http: Client,
    endpoints: Vec<Url>,
    /// Which of them answered last.
    preferred: AtomicUsize,
    login: Option<Login>,
    token: Mutex<Option<String>>,
    away: Away,
}

/// An answer, and whether an earlier attempt to get it may have done the same already.
pub(super) struct Reply {
    pub(super) answer: TxnAnswer,
    pub(super) maybe_twice: bool,
}

/// Why one member gave no answer.
enum Miss {
    /// Nothing was sent.
    Nobody(String),
    /// It answered that it did nothing now.
    NotNow(String),
    /// It may have done what was asked.
    Lost(String),
    /// Another member would say the same.
    Final(Fault),
}

impl Gateway {
    /// Connects to nothing yet.
    pub(super) fn new(address: Address) -> Result<Self, OpenError> {
        let builder = Client::builder().redirect(redirect::Policy::none()).no_proxy().connect_timeout(CONNECT);
        let builder = match address.tls {
            Some(config) => builder.https_only(true).tls_backend_preconfigured(config),
            None => builder.tls_backend_preconfigured(trusting_nobody()?),
        };
        let http = builder.build().map_err(|error| OpenError::Mistaken(error.to_string()))?;
        Ok(Self {
            http,
            endpoints: address.endpoints,
            preferred: AtomicUsize::new(0),
            login: address.login,
            token: Mutex::default(),
            away: Away::default(),
        })
    }

    /// Does `success` if all of `compare` hold, else `failure`. May be asked again of another member after an answer
    /// was lost, so that what it writes must depend on what it compares.
    pub(super) async fn transact(
        &self,
        compare: &[Json],
        success: &[Json],
        failure: &[Json],
    ) -> Result<Reply, Trouble> {
        self.away.may_try(CALL).map_err(Fault::Unreachable)?;
        let body = bytes::Bytes::from(transaction(compare, success, failure).to_string());
        let end = Instant::now() + CALL;
        let mut maybe_done = false;
        let mut reason = String::new();
        for wait in away::waits() {
            let mut somebody = false;
            let first = self.preferred.load(Ordering::Relaxed);
            let order = self.endpoints.iter().enumerate().cycle().skip(first).take(self.endpoints.len());
            for (number, endpoint) in order {
                let left = end.saturating_duration_since(Instant::now()).min(ATTEMPT);
                let asked = timeout(left, self.ask(endpoint, body.clone())).await;
                match asked.unwrap_or_else(|_| Err(Miss::Lost("no answer in time".into()))) {
                    Ok(answer) => {
                        self.preferred.store(number, Ordering::Relaxed);
                        self.away.is_back();
                        return Ok(Reply { answer, maybe_twice: maybe_done });
                    }
                    Err(Miss::Final(fault)) => {
                        self.away.is_back();
                        return Err(Trouble { fault, maybe_done });
                    }
                    Err(Miss::Nobody(why)) => reason = named(endpoint, &why),
                    Err(Miss::NotNow(why)) => (somebody, reason) = (true, named(endpoint, &why)),
                    Err(Miss::Lost(why)) => {
                        (somebody, maybe_done, reason) = (true, true, named(endpoint, &why));
                    }
                }
            }
            // An election may be over soon; where nobody listens, nobody will.
            if !somebody || Instant::now() + wait >= end {
                break;
            }
            sleep(wait).await;
        }
        self.away.failed(&reason);
        Err(Trouble { fault: Fault::Unreachable(reason), maybe_done })
    }

    async fn ask(&self, endpoint: &Url, body: bytes::Bytes) -> Result<TxnAnswer, Miss> {
        let mut request = self.request(endpoint, "/v3/kv/txn")?;
        if let Some(token) = self.token(endpoint).await? {
            request = request.header("authorization", token);
        }
        let answer = send(request.body(body)).await;
        if answer.is_err() {
            // Perhaps it was the token that is over.
            self.keep_token(None);
        }
        answer
    }

    /// A member without a leader says so, rather than to wait for one.
    fn request(&self, endpoint: &Url, path: &str) -> Result<RequestBuilder, Miss> {
        let url = endpoint.join(path).map_err(|error| Miss::Nobody(error.to_string()))?;
        Ok(self
            .http
            .post(url)
            .header("content-type", "application/json")
            .header("grpc-metadata-hasleader", "true"))
    }

    async fn token(&self, endpoint: &Url) -> Result<Option<String>, Miss> {
        let Some(login) = &self.login else { return Ok(None) };
        if let Some(token) = &*self.token.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(Some(token.clone()));
        }
        let body = zeroize::Zeroizing::new(json!({"name": login.name, "password": *login.password}).to_string());
        let request = self.request(endpoint, "/v3/auth/authenticate")?.body(body.as_bytes().to_vec());
        let TokenAnswer { token } = send(request).await.map_err(|miss| match miss {
            // Nothing was written by it.
            Miss::Lost(why) => Miss::NotNow(why),
            miss => miss,
        })?;
        self.keep_token(Some(token.clone()));
        Ok(Some(token))
    }

    fn keep_token(&self, token: Option<String>) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }
}

/// For members that speak no TLS: the client is given a verifier all the same, lest it look for the system's.
fn trusting_nobody() -> Result<rustls::ClientConfig, OpenError> {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| OpenError::Mistaken(error.to_string()))?;
    Ok(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}

async fn send<A: DeserializeOwned>(request: RequestBuilder) -> Result<A, Miss> {
    let mut response = request.send().await.map_err(|error| {
        let why = innermost(&error);
        if error.is_connect() { Miss::Nobody(why) } else { Miss::Lost(why) }
    })?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| Miss::Lost(innermost(&error)))? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(Miss::Final(Fault::Unreachable("its answer is too long".into())));
        }
        body.extend_from_slice(&chunk);
    }
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|_| Miss::Lost("its answer is not etcd's".into()));
    }
    let error: ErrorAnswer = serde_json::from_slice(&body).unwrap_or_default();
    let why = if error.error.is_empty() { format!("HTTP status {}", status.as_u16()) } else { error.error };
    Err(match error.code {
        UNAVAILABLE if why.contains("no leader") => Miss::NotNow(why),
        UNAUTHENTICATED => Miss::NotNow(why),
        CANCELLED | UNKNOWN | DEADLINE_EXCEEDED | UNAVAILABLE | 0 => Miss::Lost(why),
        OUT_OF_RANGE => Miss::Final(Fault::Compacted),
        DATA_LOSS => Miss::Final(Fault::Damaged(why)),
        _ => Miss::Final(Fault::Unreachable(why)),
    })
}

fn named(endpoint: &Url, why: &str) -> String {
    format!("{}:{}: {why}", endpoint.host_str().unwrap_or_default(), endpoint.port().unwrap_or_default())
}

/// What is behind an error; the outer ones say only that a request failed.
fn innermost(error: &reqwest::Error) -> String {
    let mut error: &dyn std::error::Error = match error.source() {
        Some(inner) => inner,
        None => return "the request failed".into(),
    };
    while let Some(inner) = error.source() {
        error = inner;
    }
    error.to_string()
}
