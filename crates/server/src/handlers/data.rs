//! The data API: encrypt, decrypt, rewrap, data keys, and the list of keys.
//!
//! Order of judgement: token → key declared → token's scope → room → body → the value itself.

use std::{
    num::NonZero,
    sync::Arc,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use axum::{
    Router,
    body::{Body, HttpBody as _},
    extract::{Path, Request, State, rejection::PathRejection},
    response::Response,
    routing::{get, post},
};
use http::HeaderMap;
use keymoot_api::{
    Base64Bytes, Problem,
    data::{
        DataKeyAnswer, DataKeyBits, DataKeyDecryptAnswer, DataKeyDecryptRequest, DataKeyRequest, DecryptAnswer,
        DecryptRequest, EncryptAnswer, EncryptRequest, ItemAnswer, KeysAnswer, OneOrMany, PLAINTEXT_BYTES_MAX,
        RewrapRequest,
    },
    routes,
};
use keymoot_keyring::DataKeyBits as Bits;
use keymoot_types::{ErrorCode, KeyName, Verdict};
use metrics::{Counter, Histogram, counter, histogram};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Semaphore;

use crate::{
    config::{Operation, Role},
    http::{
        auth::Access,
        body::{BodyReader, DATA_BODY_TIMEOUT},
        problem::{problem_response, verdict_response},
        shed::Shed,
    },
    node::meant::is_meant,
    serving::Serving,
    telemetry::Foreground,
};

/// Longer bodies are worked on beside the runtime, which would otherwise stand still for milliseconds.
const INLINE_BYTES_MAX: usize = 128 * 1024;

/// What the data handlers share.
#[derive(Clone)]
pub struct DataState {
    inner: Arc<Inner>,
    bodies: BodyReader,
}

struct Inner {
    serving: Arc<ArcSwap<Serving>>,
    access: Arc<ArcSwap<Access>>,
    shed: Shed,
    /// As many long bodies are worked on at once as there are processors.
    long: Semaphore,
    meters: [Meter; 5],
    foreground: Arc<Foreground>,
}

impl DataState {
    /// Reads the two snapshots anew for every request.
    pub fn new(
        access: Arc<ArcSwap<Access>>,
        serving: Arc<ArcSwap<Serving>>,
        shed: Shed,
        foreground: Arc<Foreground>,
    ) -> Self {
        let bodies = BodyReader::new(DATA_BODY_TIMEOUT);
        let long = Semaphore::new(available_parallelism().map_or(1, NonZero::get));
        let meters = Call::ALL.map(Meter::new);
        Self { inner: Arc::new(Inner { serving, access, shed, long, meters, foreground }), bodies }
    }

    /// Gives bodies another time to arrive.
    #[must_use]
    pub fn with_body_timeout(self, timeout: Duration) -> Self {
        Self { bodies: BodyReader::new(timeout), ..self }
    }
}

/// The routes of the data listener, without what goes around them (`http::layers::data`).
pub fn routes(state: DataState) -> Router {
    Router::new()
        .route(routes::ENCRYPT.path, post(|state, path, request| answer(Call::Encrypt, state, path, request)))
        .route(routes::DECRYPT.path, post(|state, path, request| answer(Call::Decrypt, state, path, request)))
        .route(routes::REWRAP.path, post(|state, path, request| answer(Call::Rewrap, state, path, request)))
        .route(routes::DATAKEY.path, post(|state, path, request| answer(Call::DataKey, state, path, request)))
        .route(
            routes::DATAKEY_DECRYPT.path,
            post(|state, path, request| answer(Call::DataKeyDecrypt, state, path, request)),
        )
        .route(routes::KEYS.path, get(keys))
        .with_state(state)
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Encrypt,
    Decrypt,
    Rewrap,
    DataKey,
    DataKeyDecrypt,
}

impl Call {
    const ALL: [Self; 5] = [Self::Encrypt, Self::Decrypt, Self::Rewrap, Self::DataKey, Self::DataKeyDecrypt];

    fn name(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Rewrap => "rewrap",
            Self::DataKey => "datakey",
            Self::DataKeyDecrypt => "datakey_decrypt",
        }
    }

    /// What the token must allow. Who may have data keys may open them.
    fn operation(self) -> Operation {
        match self {
            Self::Encrypt => Operation::Encrypt,
            Self::Decrypt => Operation::Decrypt,
            Self::Rewrap => Operation::Rewrap,
            Self::DataKey | Self::DataKeyDecrypt => Operation::DataKey,
        }
    }

    fn body_bytes_max(self) -> usize {
        match self {
            Self::Encrypt => routes::ENCRYPT.body_bytes_max,
            Self::Decrypt => routes::DECRYPT.body_bytes_max,
            Self::Rewrap => routes::REWRAP.body_bytes_max,
            Self::DataKey => routes::DATAKEY.body_bytes_max,
            Self::DataKeyDecrypt => routes::DATAKEY_DECRYPT.body_bytes_max,
        }
    }

    /// Reads the body, does what it asks for, and writes the answer: all of it processor time.
    fn run(self, serving: &Serving, key: &KeyName, body: &[u8]) -> Result<Response, Problem> {
        // Before the body is looked at: a sealed node says so, whatever was sent.
        serving.unsealed()?;
        match self {
            Self::Encrypt => each(body, |item| encrypt(serving, key, item)),
            Self::Decrypt => each(body, |item| decrypt(serving, key, item)),
            Self::Rewrap => each(body, |item| rewrap(serving, key, item)),
            Self::DataKey => datakey(serving, key, &keymoot_api::body::parse(body)?),
            Self::DataKeyDecrypt => datakey_decrypt(serving, key, &keymoot_api::body::parse(body)?),
        }
    }
}

async fn answer(
    call: Call,
    State(state): State<DataState>,
    key: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let started = Instant::now();
    let judged = match key {
        Ok(Path(key)) => judge(call, state.clone(), &key, request, started).await,
        Err(_) => Err(Problem::new(ErrorCode::BadRequest, "the key's name in the address is not UTF-8")),
    };
    let response = judged.unwrap_or_else(problem_response);
    if let Some(meter) = state.inner.meters.get(call as usize) {
        meter.record(started, &response);
    }
    response
}

async fn judge(
    call: Call,
    state: DataState,
    name: &str,
    request: Request,
    started: Instant,
) -> Result<Response, Problem> {
    let inner = &state.inner;
    let (head, body) = request.into_parts();
    let mut admitted = match admit(inner, call, name, &head.headers) {
        Ok(admitted) => admitted,
        Err(problem) => {
            refuse(&state.bodies, body);
            return Err(problem);
        }
    };
    let body = state.bodies.read(body, call.body_bytes_max(), Some(&mut admitted)).await?;
    // Only now: the body may have taken long.
    let serving = inner.serving.load_full();
    is_meant(&head.headers, || serving.keyring_id)?;
    if body.len() <= INLINE_BYTES_MAX {
        let judged = call.run(&serving, serving.key(name)?, &body);
        if call == Call::Decrypt {
            inner.foreground.took(started.elapsed());
        }
        return judged;
    }
    let _turn = inner.long.acquire().await.map_err(|_| stopped())?;
    let key = serving.key(name)?.clone();
    tokio::task::spawn_blocking(move || {
        let _admitted = admitted;
        call.run(&serving, &key, &body)
    })
    .await
    .map_err(|_| stopped())?
}

/// Without a body nothing is left to read away.
fn refuse(bodies: &BodyReader, body: Body) {
    if !body.is_end_stream() {
        bodies.linger(body);
    }
}

fn admit(
    inner: &Inner,
    call: Call,
    name: &str,
    headers: &HeaderMap,
) -> Result<crate::http::shed::Admitted, Problem> {
    let caller = inner.access.load().caller(headers)?;
    caller.may(inner.serving.load().key(name)?, call.operation())?;
    inner.shed.admit()
}

fn stopped() -> Problem {
    Problem::new(ErrorCode::Internal, "the work on this request ended in a defect, which was logged")
}

/// One item, or a batch of them in order, each judged by itself.
fn each<T, A>(
    body: &[u8],
    mut one: impl FnMut(T) -> (Result<A, Problem>, Option<String>),
) -> Result<Response, Problem>
where
    T: DeserializeOwned,
    A: Serialize + Referred,
{
    // Answers are about as long as requests; a decrypted and rewrapped item twice that.
    let bytes = 256 + 2 * body.len();
    match OneOrMany::<T>::parse(body)? {
        OneOrMany::One(item) => {
            let (answer, reference) = one(item);
            Ok(verdict_response(&answer?.referred(reference), Verdict::Valid, bytes))
        }
        OneOrMany::Many { items } => {
            let mut verdicts = Vec::with_capacity(items.len());
            let mut answers = Vec::with_capacity(items.len());
            for item in items {
                let (answer, reference) = one(item);
                verdicts.push(answer.as_ref().map_or_else(|problem| problem.verdict, |_| Verdict::Valid));
                answers.push(match answer {
                    Ok(answer) => ItemAnswer::Done(answer.referred(reference)),
                    Err(error) => ItemAnswer::Failed { error: Box::new(error), reference },
                });
            }
            Ok(verdict_response(&OneOrMany::Many { items: answers }, Verdict::of_batch(verdicts), bytes))
        }
    }
}

/// An answer that carries its item's reference.
trait Referred {
    fn referred(self, reference: Option<String>) -> Self;
}

impl Referred for EncryptAnswer {
    fn referred(self, reference: Option<String>) -> Self {
        Self { reference, ..self }
    }
}

impl Referred for DecryptAnswer {
    fn referred(self, reference: Option<String>) -> Self {
        Self { reference, ..self }
    }
}

fn bound(associated_data: &Option<Base64Bytes>) -> &[u8] {
    associated_data.as_deref().unwrap_or_default()
}

fn encrypt(
    serving: &Serving,
    key: &KeyName,
    item: EncryptRequest,
) -> (Result<EncryptAnswer, Problem>, Option<String>) {
    let sealed = if item.plaintext.len() > PLAINTEXT_BYTES_MAX {
        Err(Problem::new(ErrorCode::TooLarge, format!("a plaintext may have at most {PLAINTEXT_BYTES_MAX} bytes")))
    } else {
        serving.encrypt(key, &item.plaintext, bound(&item.associated_data))
    };
    let answer = sealed.map(|(ciphertext, version)| EncryptAnswer { ciphertext, version, reference: None });
    (answer, item.reference)
}

fn decrypt(
    serving: &Serving,
    key: &KeyName,
    item: DecryptRequest,
) -> (Result<DecryptAnswer, Problem>, Option<String>) {
    let associated_data = bound(&item.associated_data);
    let opened = if item.rewrap {
        serving.decrypt_and_rewrap(key, &item.ciphertext, associated_data)
    } else {
        serving
            .decrypt(key, &item.ciphertext, associated_data)
            .map(|(plaintext, version)| (plaintext, version, None))
    };
    let answer = opened.map(|(plaintext, version, rewrapped)| DecryptAnswer {
        plaintext: Base64Bytes::new(plaintext),
        version,
        verdict: Verdict::Valid,
        rewrapped,
        reference: None,
    });
    (answer, item.reference)
}

fn rewrap(
    serving: &Serving,
    key: &KeyName,
    item: RewrapRequest,
) -> (Result<EncryptAnswer, Problem>, Option<String>) {
    let rewrapped = serving.rewrap(key, &item.ciphertext, bound(&item.associated_data));
    let answer = rewrapped.map(|(ciphertext, version)| EncryptAnswer { ciphertext, version, reference: None });
    (answer, item.reference)
}

fn datakey(serving: &Serving, key: &KeyName, request: &DataKeyRequest) -> Result<Response, Problem> {
    let bits = match request.bits {
        DataKeyBits::Bits256 => Bits::B256,
        DataKeyBits::Bits512 => Bits::B512,
    };
    let (ciphertext, data_key, version) = serving.datakey(key, bits)?;
    let plaintext = request.plaintext.then(|| Base64Bytes::new(data_key));
    Ok(verdict_response(&DataKeyAnswer { ciphertext, plaintext, version }, Verdict::Valid, 512))
}

fn datakey_decrypt(
    serving: &Serving,
    key: &KeyName,
    request: &DataKeyDecryptRequest,
) -> Result<Response, Problem> {
    let (data_key, version) = serving.datakey_decrypt(key, &request.ciphertext)?;
    let answer = DataKeyDecryptAnswer { plaintext: Base64Bytes::new(data_key), version };
    Ok(verdict_response(&answer, Verdict::Valid, 512))
}

/// The keys that the caller may use; a service sees its own. It says nothing about any value.
async fn keys(State(state): State<DataState>, headers: HeaderMap) -> Response {
    let access = state.inner.access.load();
    let caller = match access.caller(&headers) {
        Ok(caller) => caller,
        Err(problem) => return problem_response(problem),
    };
    let seen = access.keys().iter().filter(|key| caller.role != Role::Service || caller.keys.contains(&key.name));
    let answer = KeysAnswer { keys: seen.cloned().collect(), primary: state.inner.serving.load().primary };
    verdict_response(&answer, Verdict::Undetermined, 1_024)
}

/// The numbers of one call. Their handles are kept: looking one up costs more than counting.
struct Meter {
    seconds: Histogram,
    verdicts: [(&'static str, Counter); 4],
}

impl Meter {
    fn new(call: Call) -> Self {
        let verdicts = [Verdict::Valid, Verdict::Invalid, Verdict::Undetermined, Verdict::Mixed].map(|verdict| {
            let answers =
                counter!("keymoot_answers_total", "operation" => call.name(), "verdict" => verdict.as_str());
            (verdict.as_str(), answers)
        });
        Self { seconds: histogram!("keymoot_request_seconds", "operation" => call.name()), verdicts }
    }

    fn record(&self, started: Instant, response: &Response) {
        self.seconds.record(started.elapsed());
        let verdict = response.headers().get(crate::http::problem::VERDICT);
        let counted = self.verdicts.iter().find(|(name, _)| verdict.is_some_and(|verdict| verdict == name));
        if let Some((_, answers)) = counted {
            answers.increment(1);
        }
    }
}
