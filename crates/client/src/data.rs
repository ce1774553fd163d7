//! The data API, as services call it.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use keymoot_api::{
    Base64Bytes,
    data::{
        DataKeyAnswer, DataKeyDecryptAnswer, DataKeyDecryptRequest, DataKeyRequest, DecryptAnswer, DecryptRequest,
        EncryptAnswer, EncryptRequest, KeysAnswer, OneOrMany, RewrapRequest, parse_item_answers,
    },
    routes::{self, Route},
};
use keymoot_types::KeyName;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::sleep;

use crate::{
    options::{Options, OptionsError},
    transport::{Answer, Limits, Transport},
    verdict::{self, Trouble, Verdict},
};

/// A server that wants to be left alone for longer than this gets no retries: the caller decides.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// Ten thousand answers, each with a plaintext.
const ANSWER_BYTES_MAX: usize = 128 * 1024 * 1024;

/// A client of the data API. Trouble that may pass is met by asking again a few times, with jitter.
pub struct Client {
    transport: Transport,
    limits: Limits,
    retries_max: usize,
}

impl Client {
    /// Prepares the connection; nothing is sent yet.
    pub fn new(options: &Options) -> Result<Self, OptionsError> {
        let transport = Transport::new(options)?;
        let limits = Limits { timeout: options.timeout, answer_bytes_max: ANSWER_BYTES_MAX };
        Ok(Self { transport, limits, retries_max: options.retries_max })
    }

    /// Encrypts one plaintext.
    pub async fn encrypt(
        &self,
        key: &KeyName,
        plaintext: Base64Bytes,
        associated_data: Option<Base64Bytes>,
    ) -> Verdict<EncryptAnswer> {
        let request = EncryptRequest { plaintext, associated_data, reference: None };
        self.one(&routes::ENCRYPT, key, &request).await
    }

    /// Decrypts one value.
    pub async fn decrypt(
        &self,
        key: &KeyName,
        ciphertext: String,
        associated_data: Option<Base64Bytes>,
    ) -> Verdict<DecryptAnswer> {
        let request = DecryptRequest { ciphertext, associated_data, rewrap: false, reference: None };
        self.one(&routes::DECRYPT, key, &request).await
    }

    /// Decrypts one value; one of an old version also comes back under the primary, to be stored in its place.
    pub async fn decrypt_and_rewrap(
        &self,
        key: &KeyName,
        ciphertext: String,
        associated_data: Option<Base64Bytes>,
    ) -> Verdict<DecryptAnswer> {
        let request = DecryptRequest { ciphertext, associated_data, rewrap: true, reference: None };
        self.one(&routes::DECRYPT, key, &request).await
    }

    /// Encrypts one value anew with the primary.
    pub async fn rewrap(
        &self,
        key: &KeyName,
        ciphertext: String,
        associated_data: Option<Base64Bytes>,
    ) -> Verdict<EncryptAnswer> {
        let request = RewrapRequest { ciphertext, associated_data, reference: None };
        self.one(&routes::REWRAP, key, &request).await
    }

    /// Encrypts many, in order.
    pub async fn encrypt_many(
        &self,
        key: &KeyName,
        items: Vec<EncryptRequest>,
    ) -> Result<Vec<Verdict<EncryptAnswer>>, Trouble> {
        self.many(&routes::ENCRYPT, key, items).await
    }

    /// Decrypts many, in order.
    pub async fn decrypt_many(
        &self,
        key: &KeyName,
        items: Vec<DecryptRequest>,
    ) -> Result<Vec<Verdict<DecryptAnswer>>, Trouble> {
        self.many(&routes::DECRYPT, key, items).await
    }

    /// Rewraps many, in order.
    pub async fn rewrap_many(
        &self,
        key: &KeyName,
        items: Vec<RewrapRequest>,
    ) -> Result<Vec<Verdict<EncryptAnswer>>, Trouble> {
        self.many(&routes::REWRAP, key, items).await
    }

    /// Makes a data key.
    pub async fn datakey(&self, key: &KeyName, request: &DataKeyRequest) -> Verdict<DataKeyAnswer> {
        self.one(&routes::DATAKEY, key, request).await
    }

    /// Opens a data key.
    pub async fn datakey_decrypt(&self, key: &KeyName, ciphertext: String) -> Verdict<DataKeyDecryptAnswer> {
        self.one(&routes::DATAKEY_DECRYPT, key, &DataKeyDecryptRequest { ciphertext }).await
    }

    /// Lists the keys that the token allows.
    pub async fn keys(&self) -> Result<KeysAnswer, Trouble> {
        let route = &routes::KEYS;
        self.retry(|| async {
            let answer = self.transport.send::<()>(route, route.path, None, self.limits).await?;
            if answer.status == 200 { read(&answer) } else { Err(trouble(&answer)) }
        })
        .await
    }

    async fn one<B: Serialize, T: DeserializeOwned>(&self, route: &Route, key: &KeyName, body: &B) -> Verdict<T> {
        let path = route.path_with(&[key.as_str()]);
        let asked = self
            .retry(|| async {
                let answer = self.transport.send(route, &path, Some(body), self.limits).await?;
                match verdict::judge(&answer) {
                    Verdict::Undetermined(trouble) => Err(trouble),
                    judged => Ok(judged),
                }
            })
            .await;
        asked.unwrap_or_else(Verdict::Undetermined)
    }

    async fn many<B: Serialize, T: DeserializeOwned>(
        &self,
        route: &Route,
        key: &KeyName,
        items: Vec<B>,
    ) -> Result<Vec<Verdict<T>>, Trouble> {
        let path = route.path_with(&[key.as_str()]);
        let asked = items.len();
        let body = OneOrMany::Many { items };
        self.retry(|| async {
            let answer = self.transport.send(route, &path, Some(&body), self.limits).await?;
            let not_an_answer =
                |reason: &str| Trouble::NotAnAnswer { status: answer.status, reason: reason.into() };
            if answer.verdict.is_none() {
                return Err(not_an_answer("it has no Keymoot-Verdict header"));
            }
            if answer.status != 200 {
                return Err(trouble(&answer));
            }
            let items = parse_item_answers(&answer.body).map_err(|_| not_an_answer("its body can't be read"))?;
            // An answer that belongs to another question must not be matched by position.
            if items.len() != asked {
                return Err(not_an_answer("it has another number of items than was asked"));
            }
            Ok(items.into_iter().map(verdict::judge_item).collect())
        })
        .await
    }

    async fn retry<T, F: Future<Output = Result<T, Trouble>>>(
        &self,
        attempt: impl FnMut() -> F,
    ) -> Result<T, Trouble> {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(2))
            .with_jitter()
            .with_max_times(self.retries_max);
        attempt
            .retry(backoff)
            .sleep(sleep)
            .when(Trouble::may_pass)
            .adjust(|trouble: &Trouble, delay| wait(trouble.retry_after(), delay))
            .await
    }
}

/// How long to wait before asking again; `None` gives up. The server's wish counts where it is longer.
fn wait(retry_after: Option<Duration>, delay: Option<Duration>) -> Option<Duration> {
    let delay = delay?;
    match retry_after {
        Some(after) if after > RETRY_AFTER_MAX => None,
        Some(after) => Some(delay.max(after)),
        None => Some(delay),
    }
}

fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T, Trouble> {
    serde_json::from_slice(&answer.body)
        .map_err(|_| Trouble::NotAnAnswer { status: answer.status, reason: "its body can't be read".into() })
}

fn trouble(answer: &Answer) -> Trouble {
    verdict::problem(answer).map_or_else(
        || Trouble::NotAnAnswer {
            status: answer.status,
            reason: "its body is no problem that can be read".into(),
        },
        Trouble::of,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_wish_counts_and_a_long_one_ends_the_retries() {
        let (short, long) = (Duration::from_millis(50), Duration::from_secs(5));
        assert_eq!(wait(None, Some(short)), Some(short));
        assert_eq!(wait(Some(long), Some(short)), Some(long));
        assert_eq!(wait(Some(short), Some(long)), Some(long));
        assert_eq!(wait(Some(Duration::from_secs(31)), Some(short)), None);
        assert_eq!(wait(Some(short), None), None);
    }

    #[tokio::test]
    async fn a_node_that_is_not_there_is_undetermined() {
        let options = Options { retries_max: 1, ..Options::new("https://127.0.0.1:1") };
        let options = Options { connect_timeout: Duration::from_millis(200), ..options };
        let client = Client::new(&options).unwrap();
        let verdict = client.decrypt(&"auth-token".parse().unwrap(), "km:v1:x".into(), None).await;
        assert!(matches!(verdict, Verdict::Undetermined(Trouble::Transport(_))), "{verdict:?}");
    }
}
