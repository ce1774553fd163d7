//! What data handlers read: one immutable snapshot, swapped whole, and the judgement of values by it.
//!
//! A value is judged in this order: sealed → text form → body byte → length → version → authentication. What is
//! not known is `undetermined`, never `invalid`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use keymoot_api::Problem;
use keymoot_keyring::{DataKeyBits, Keyring, OpenError, RekeyError, SealError};
use keymoot_rekey::Released;
use keymoot_types::{
    ErrorCode, KeyId, KeyName, KeyVersion, KeyringId, NodeState, Value, VersionState, Wiped,
    manifest::Retirement,
    value::{BodyKind, ValueError},
};
use metrics::counter;

use crate::sightings::Sightings;

/// Secret bytes of any length.
pub type Plaintext = Wiped;

/// What a node serves with, until the next snapshot.
#[derive(Debug)]
pub struct Serving {
    /// What the node can do.
    pub state: NodeState,
    /// The loaded versions; none while sealed.
    pub keyring: Option<Arc<Keyring>>,
    /// Which keyring it is; `None` where there is none.
    pub keyring_id: Option<KeyringId>,
    /// The manifest's revision; 0 where there is none.
    pub revision: u64,
    /// The version that the manifest calls primary, loaded or not.
    pub primary: Option<KeyVersion>,
    /// Every version that the manifest knows.
    pub versions: Vec<VersionFacts>,
    /// The declared keys, also while sealed.
    pub keys: Vec<KeyName>,
    /// Sources whose values become plaintext again, by their holders' consent.
    pub released: Vec<Released>,
    /// Loaded versions whose canaries decrypt: only of these may a value be called inauthentic.
    pub proved: Vec<KeyVersion>,
    /// Versions that an activation requires and that are not loaded: until they are, nothing is encrypted here.
    pub lacking: Vec<KeyVersion>,
    /// When services' values last authenticated; outlives every snapshot.
    pub last_use: Arc<LastUse>,
}

/// What the manifest says of one version.
#[derive(Debug, Clone, PartialEq)]
pub struct VersionFacts {
    /// The number.
    pub version: KeyVersion,
    /// The identity.
    pub key_id: KeyId,
    /// What it may be used for.
    pub state: VersionState,
    /// How it went out of use.
    pub retirement: Option<Retirement>,
}

impl Serving {
    /// Of a node that knows nothing yet: sealed, without keys.
    pub fn empty(last_use: Arc<LastUse>) -> Self {
        Self {
            state: NodeState::Sealed,
            keyring: None,
            keyring_id: None,
            revision: 0,
            primary: None,
            versions: Vec::new(),
            keys: Vec::new(),
            released: Vec::new(),
            proved: Vec::new(),
            lacking: Vec::new(),
            last_use,
        }
    }

    /// A declared key by its name.
    pub fn key(&self, name: &str) -> Result<&KeyName, Problem> {
        self.keys
            .iter()
            .find(|key| key.as_str() == name)
            .ok_or_else(|| Problem::new(ErrorCode::UnknownKey, "no key of this name is declared"))
    }

    /// The keyring, unless the node is sealed.
    pub fn unsealed(&self) -> Result<&Keyring, Problem> {
        match (self.state, &self.keyring) {
            (NodeState::Unlocked | NodeState::Degraded, Some(keyring)) => Ok(keyring),
            _ => Err(Problem::new(ErrorCode::Sealed, "the node is sealed: shares must be submitted first")),
        }
    }

    /// `open[version of the value, key](text)`, and that version.
    pub fn decrypt(
        &self,
        key: &KeyName,
        text: &str,
        associated_data: &[u8],
    ) -> Result<(Plaintext, KeyVersion), Problem> {
        let (keyring, value) = self.judge(text, |kind| kind != BodyKind::DataKey)?;
        let plaintext = self.opened(keyring.decrypt(key, &value, associated_data), &value)?;
        Ok((plaintext, value.version()))
    }

    /// As [`Serving::decrypt`], with the value encrypted anew if it is of an old version. That it could not be
    /// encrypted anew is no reason to withhold what it holds.
    pub fn decrypt_and_rewrap(
        &self,
        key: &KeyName,
        text: &str,
        associated_data: &[u8],
    ) -> Result<(Plaintext, KeyVersion, Option<String>), Problem> {
        let (keyring, value) = self.judge(text, |kind| kind != BodyKind::DataKey)?;
        let plaintext = self.opened(keyring.decrypt(key, &value, associated_data), &value)?;
        let rewrapped = match self.sealing() {
            Ok((_, primary)) if primary != value.version() => keyring.rekey(key, &value, associated_data).ok(),
            _ => None,
        };
        Ok((plaintext, value.version(), rewrapped.map(|value| value.to_text())))
    }

    /// `seal[primary, key](plaintext)` in text form, and the primary.
    pub fn encrypt(
        &self,
        key: &KeyName,
        plaintext: &[u8],
        associated_data: &[u8],
    ) -> Result<(String, KeyVersion), Problem> {
        let (keyring, _) = self.sealing()?;
        let value = keyring.encrypt(key, plaintext, associated_data).map_err(|error| self.not_sealed(error))?;
        Ok((value.to_text(), value.version()))
    }

    /// The same plaintext under the primary; of a wrapped data key, the same data key.
    pub fn rewrap(
        &self,
        key: &KeyName,
        text: &str,
        associated_data: &[u8],
    ) -> Result<(String, KeyVersion), Problem> {
        let (_, value) = self.judge(text, |_| true)?;
        let (keyring, _) = self.sealing()?;
        match keyring.rekey(key, &value, associated_data) {
            Ok(rekeyed) => {
                self.last_use.used(value.version());
                Ok((rekeyed.to_text(), rekeyed.version()))
            }
            Err(RekeyError::Open(error)) => Err(self.not_opened(error, &value)),
            Err(RekeyError::Seal(error)) => Err(self.not_sealed(error)),
            Err(error @ RekeyError::SelfCheck) => Err(Problem::new(ErrorCode::Internal, error.to_string())),
        }
    }

    /// A new data key: wrapped, itself, and the version that wraps it.
    pub fn datakey(&self, key: &KeyName, bits: DataKeyBits) -> Result<(String, Plaintext, KeyVersion), Problem> {
        let (keyring, _) = self.sealing()?;
        let (value, data_key) = keyring.wrap_data_key(key, bits).map_err(|error| self.not_sealed(error))?;
        Ok((value.to_text(), data_key, value.version()))
    }

    /// Opens a wrapped data key.
    pub fn datakey_decrypt(&self, key: &KeyName, text: &str) -> Result<(Plaintext, KeyVersion), Problem> {
        let (keyring, value) = self.judge(text, |kind| kind == BodyKind::DataKey)?;
        let data_key = self.opened(keyring.unwrap_data_key(key, &value), &value)?;
        Ok((data_key, value.version()))
    }

    /// All that can be said before a key is tried.
    fn judge(&self, text: &str, wanted: fn(BodyKind) -> bool) -> Result<(&Keyring, Value), Problem> {
        let keyring = self.unsealed()?;
        let value = Value::parse(text).map_err(|error| match error {
            ValueError::UnsupportedFormat(_) => Problem::new(ErrorCode::UnsupportedFormat, error.to_string()),
            _ => Problem::new(ErrorCode::MalformedCiphertext, error.to_string()),
        })?;
        if !wanted(value.kind()) {
            return Err(wrong_kind());
        }
        self.judge_version(keyring, value.version())?;
        Ok((keyring, value))
    }

    fn judge_version(&self, keyring: &Keyring, version: KeyVersion) -> Result<(), Problem> {
        let unavailable = |why: &str| problem(ErrorCode::KeyVersionUnavailable, version, why);
        let Some(facts) = self.versions.iter().find(|facts| facts.version == version) else {
            if let Some(known) = self.versions.iter().map(|facts| facts.version).max() {
                self.last_use.sightings.saw(version, known);
            }
            return Err(problem(ErrorCode::UnknownKeyVersion, version, "is not known here"));
        };
        match (facts.state, &facts.retirement) {
            (VersionState::Activating | VersionState::Primary | VersionState::DecryptOnly, _) => {
                if keyring.holds(version) { Ok(()) } else { Err(unavailable("is not loaded on this node")) }
            }
            (VersionState::Staged, _) => Err(unavailable("is staged, and decrypts nothing yet")),
            (VersionState::Aborted, _) => Err(unavailable("was aborted")),
            (VersionState::Retired, Some(Retirement { override_reason: None, hold_ended: Some(_), .. })) => {
                Err(problem(ErrorCode::KeyVersionRetired, version, "is retired, and its hold is over"))
            }
            (VersionState::Retired, _) => {
                self.last_use.retired_asked(version);
                Err(unavailable("is retired; within the hold an operator can restore it"))
            }
        }
    }

    /// The keyring and the primary, if new values may be made.
    fn sealing(&self) -> Result<(&Keyring, KeyVersion), Problem> {
        let keyring = self.unsealed()?;
        match keyring.primary() {
            // A keyring has a primary only where one may encrypt: on a degraded node only after a rollback.
            Some(primary) => Ok((keyring, primary)),
            None => Err(self.nothing_encrypts()),
        }
    }

    fn nothing_encrypts(&self) -> Problem {
        let (version, detail) = match self.lacking.first() {
            Some(version) => {
                let detail = format!(
                    "v{version} is required and not loaded here: until its shares come this node encrypts nothing"
                );
                (Some(*version), detail)
            }
            None => (self.primary, "the node is degraded and encrypts nothing until a rollback".into()),
        };
        Problem { version, ..Problem::new(ErrorCode::KeyVersionUnavailable, detail) }
    }

    fn opened(&self, opened: Result<Plaintext, OpenError>, value: &Value) -> Result<Plaintext, Problem> {
        match opened {
            Ok(plaintext) => {
                self.last_use.used(value.version());
                Ok(plaintext)
            }
            Err(error) => Err(self.not_opened(error, value)),
        }
    }

    fn not_opened(&self, error: OpenError, value: &Value) -> Problem {
        let version = value.version();
        match error {
            OpenError::NotLoaded(version) => {
                problem(ErrorCode::KeyVersionUnavailable, version, "is not loaded on this node")
            }
            OpenError::UnknownKey(key) => {
                Problem::new(ErrorCode::UnknownKey, format!("key {key} is not declared"))
            }
            OpenError::WrongKind => wrong_kind(),
            OpenError::Authentication if self.proved.contains(&version) => Problem::new(
                ErrorCode::AuthenticationFailed,
                "it was made with another key or other associated data, or was changed",
            )
            .with_version(version),
            OpenError::Authentication => {
                problem(ErrorCode::KeyVersionUnavailable, version, "is loaded, but its canaries do not decrypt")
            }
        }
    }

    fn not_sealed(&self, error: SealError) -> Problem {
        match error {
            SealError::NoPrimary => self.nothing_encrypts(),
            SealError::UnknownKey(key) => {
                Problem::new(ErrorCode::UnknownKey, format!("key {key} is not declared"))
            }
            SealError::TooLarge => Problem::new(ErrorCode::TooLarge, error.to_string()),
            SealError::Random(_) => Problem::new(ErrorCode::Internal, error.to_string()),
        }
    }
}

fn problem(code: ErrorCode, version: KeyVersion, why: &str) -> Problem {
    Problem::new(code, format!("key version {version} {why}")).with_version(version)
}

fn wrong_kind() -> Problem {
    Problem::new(
        ErrorCode::MalformedCiphertext,
        "a wrapped data key is not a value, nor a value a wrapped data key",
    )
}

/// Last use is exact to this, so that busy processors don't fight over a number.
const USE_GRAIN_MS: u64 = 1_000;
/// A retired version that is asked for is said again after this.
const ALARM_INTERVAL: Duration = Duration::from_secs(60);

/// When a value that a service sent last authenticated, for every version: what the quiet period counts from.
#[derive(Debug)]
pub struct LastUse {
    /// What the milliseconds count from.
    start: Instant,
    used_ms: ArcSwap<BTreeMap<KeyVersion, Arc<AtomicU64>>>,
    /// When the alarm about a retired version was last raised; 0 is never.
    alarm_ms: AtomicU64,
    /// Versions that were asked for and are not known.
    pub(crate) sightings: Sightings,
}

impl Default for LastUse {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            used_ms: ArcSwap::default(),
            alarm_ms: AtomicU64::new(0),
            sightings: Sightings::default(),
        }
    }
}

impl LastUse {
    /// A value of this version authenticated just now.
    pub fn used(&self, version: KeyVersion) {
        let now_ms = self.now_ms();
        if let Some(used_ms) = self.used_ms.load().get(&version) {
            if used_ms.load(Ordering::Relaxed) + USE_GRAIN_MS <= now_ms {
                used_ms.fetch_max(now_ms, Ordering::Relaxed);
            }
            return;
        }
        self.used_ms.rcu(|versions| {
            let mut versions = BTreeMap::clone(versions);
            versions.entry(version).or_default().fetch_max(now_ms, Ordering::Relaxed);
            versions
        });
    }

    /// The latest that every version can have been used since the boot, ascending. Uses within the grain of the
    /// noted one were not noted, so it may lie up to a second ahead: a quiet period ends late, never early.
    pub fn snapshot(&self) -> Vec<(KeyVersion, Instant)> {
        let at = |ms: &AtomicU64| self.start + Duration::from_millis(ms.load(Ordering::Relaxed) + USE_GRAIN_MS);
        self.used_ms.load().iter().map(|(version, ms)| (*version, at(ms))).collect()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Somebody needs what was proved to be unneeded.
    fn retired_asked(&self, version: KeyVersion) {
        counter!("keymoot_retired_values_asked_total").increment(1);
        // Never 0, which stands for never.
        let now_ms = self.now_ms() + 1;
        let last_ms = self.alarm_ms.load(Ordering::Relaxed);
        let quiet = last_ms == 0 || now_ms - last_ms.min(now_ms) >= ALARM_INTERVAL.as_millis() as u64;
        if quiet && self.alarm_ms.compare_exchange(last_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            tracing::error!(%version, "a value of a retired version was sent: it is still in use somewhere");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
