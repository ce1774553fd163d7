//! Requests: what an operator asks for and holders consent to by their shares. No agreement, no key.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use keymoot_api::{
    Problem,
    rotate::{ConsentAnswer, ConsentRequest, ConsentState, RequestAnswer, RequestBody, RequestDetail},
    unlock::AcceptedPart,
};
use keymoot_quorum::{Monotonic, PartRefusal, consent::Consents};
use keymoot_types::{Digest, ErrorCode, HolderName, KeyVersion, Manifest, VersionState};
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use super::{
    Core, Node,
    asked::{Asked, What},
    conflict,
    import::{self, Shares},
    internal, unlock, wall_clock,
};

/// How long a request is open.
const OPEN_FOR: Duration = Duration::from_secs(24 * 3600);

/// The one request that is open, or was last.
pub(super) struct OpenRequest {
    id: String,
    digest: Digest,
    what: What,
    /// The same, as its digest has it.
    asked: Json,
    requested_by: String,
    opened: Monotonic,
    expires_at: Timestamp,
    /// The primary when it was opened: its holders consent.
    primary: KeyVersion,
    giving: Giving,
    done: Option<Done>,
}

/// It was done.
struct Done {
    /// The version that was made, or that it was done to.
    version: Option<KeyVersion>,
}

/// What holders give to consent.
enum Giving {
    /// A share of the primary.
    Consents(Consents),
    /// The shares of a version that nothing here knows.
    Shares(Box<Shares>),
    /// Nothing any longer: these have consented, and it is done.
    Done(Vec<HolderName>),
}

impl OpenRequest {
    fn state(&self, now: Monotonic) -> &'static str {
        if self.done.is_some() {
            "done"
        } else if now.saturating_sub(self.opened) >= OPEN_FOR {
            "expired"
        } else {
            "open"
        }
    }

    /// Whose shares count.
    fn consent_version(&self) -> KeyVersion {
        match &self.what {
            What::Import(asked) => asked.version,
            _ => self.primary,
        }
    }

    /// Of which version a share has to come along with it, to say whose it is.
    fn vouching_version(&self) -> Option<KeyVersion> {
        match &self.giving {
            Giving::Shares(shares) if matches!(**shares, Shares::Forgotten { .. }) => Some(self.primary),
            _ => None,
        }
    }

    fn holders(&self) -> Vec<HolderName> {
        match &self.giving {
            Giving::Consents(consents) => consents.holders().to_vec(),
            Giving::Shares(shares) => shares.holders(self.consent_version()),
            Giving::Done(holders) => holders.clone(),
        }
    }

    fn have(&self) -> u8 {
        u8::try_from(self.holders().len()).unwrap_or(u8::MAX)
    }

    fn needed(&self, manifest: &Manifest) -> u8 {
        let of_primary = manifest.version(self.primary).map_or(u8::MAX, |record| record.share_set.threshold);
        match &self.giving {
            Giving::Consents(_) => of_primary,
            Giving::Shares(shares) => shares.needed(self.consent_version(), of_primary),
            Giving::Done(holders) => u8::try_from(holders.len()).unwrap_or(u8::MAX),
        }
    }

    /// Judges the parts of one call. What comes back accepted of a version in the manifest is a proof as well.
    fn give(
        &mut self,
        manifest: &Manifest,
        parts: &[(&str, &str)],
        now: Monotonic,
    ) -> Vec<Result<Consented, PartRefusal>> {
        let version = self.consent_version();
        match &mut self.giving {
            Giving::Consents(consents) => parts
                .iter()
                .map(|(name, text)| {
                    let part = consents.give(manifest, version, name, text)?;
                    Ok(Consented { version, holder: part.holder })
                })
                .collect(),
            Giving::Shares(shares) => shares
                .give(manifest, version, parts, now)
                .into_iter()
                .map(|given| given.map(|(version, holder)| Consented { version, holder }))
                .collect(),
            Giving::Done(_) => vec![],
        }
    }

    /// Wipes shares that have been here too long.
    pub(super) fn expire(&mut self, now: Monotonic) {
        if let Giving::Shares(shares) = &mut self.giving {
            shares.expire(now);
        }
    }
}

struct Consented {
    version: KeyVersion,
    holder: HolderName,
}

impl Node {
    /// `POST requests`. Nothing is made yet, and no number is taken.
    pub(crate) async fn open_request(&self, request: RequestBody, by: &str) -> Result<RequestAnswer, Problem> {
        let mut core = self.core.lock().await;
        core.primary()?;
        // Holders are not to be asked for what can't be recorded now.
        self.follow(&mut core).await;
        Self::gates_open(&core)?;
        self.alone_under_its_name()?;
        if let Some(why) = &core.store_away {
            return Err(Problem::new(ErrorCode::StoreUnavailable, format!("nothing was asked for: {why}")));
        }
        let now = self.now();
        if let Some(open) = core.request.as_ref().filter(|open| open.state(now) == "open") {
            let detail = format!("request {} is open; it must be done, cancelled or expired first", open.id);
            return Err(conflict(detail));
        }
        let what = self.asked_for(&core, request)?;
        if let What::Release(asked) = &what {
            self.not_busy_with(&asked.source).await?;
        }
        let giving = match &what {
            What::Import(asked) => {
                let witness = import::witness(&core, asked, &self.config.load())?;
                Giving::Shares(Box::new(Shares::new(asked.version, witness)))
            }
            _ => Giving::Consents(Consents::default()),
        };
        let manifest = core.manifest()?.manifest();
        let id = uuid::Uuid::now_v7().to_string();
        let asked = Asked { id: id.clone(), keyring_id: manifest.keyring_id, what };
        let no_form = |_| internal("the request has no canonical form");
        let json = serde_json::to_value(&asked).map_err(no_form)?;
        let canonical = serde_json_canonicalizer::to_vec(&json).map_err(no_form)?;
        let opened = OpenRequest {
            digest: Digest::new(Sha256::digest(&canonical).into()),
            requested_by: by.into(),
            opened: now,
            expires_at: wall_clock()
                .saturating_add(SignedDuration::try_from(OPEN_FOR).unwrap_or_default())
                .unwrap_or(Timestamp::MAX),
            primary: manifest.primary,
            giving,
            done: None,
            id,
            what: asked.what,
            asked: json,
        };
        let answer = RequestAnswer {
            id: opened.id.clone(),
            digest: opened.digest,
            operation: opened.what.operation().into(),
            version: opened.what.version(),
            needed: opened.needed(manifest),
            have: 0,
        };
        tracing::info!(id = opened.id, digest = %opened.digest, by, operation = answer.operation, "request opened");
        core.request = Some(opened);
        Ok(answer)
    }

    /// `GET requests/{id}`: what is consented to.
    pub(crate) async fn request(&self, id: &str, named: bool) -> Result<RequestDetail, Problem> {
        let core = self.core.lock().await;
        let open = known(&core, id)?;
        let (mut witness, mut reason, mut source) = (None, None, None);
        match &open.what {
            What::Import(asked) => witness = Some(asked.witness.clone()),
            What::RetireOverride(asked) => reason = Some(asked.reason.clone()),
            What::Release(asked) => source = Some(asked.source.clone()),
            _ => {}
        }
        Ok(RequestDetail {
            id: open.id.clone(),
            digest: open.digest,
            operation: open.what.operation().into(),
            version: open.done.as_ref().and_then(|done| done.version).or(open.what.version()),
            needed: open.needed(core.manifest()?.manifest()),
            have: open.have(),
            consent_version: Some(open.consent_version()),
            vouching_version: open.vouching_version(),
            state: open.state(self.now()).into(),
            threshold: open.what.threshold(),
            holders: open.what.holders().to_vec(),
            witness,
            reason,
            source,
            asked: open.asked.clone(),
            consented: named.then(|| open.holders()),
            requested_by: named.then(|| open.requested_by.clone()),
            expires_at: Some(open.expires_at),
        })
    }

    /// `DELETE requests/{id}`.
    pub(crate) async fn cancel_request(&self, id: &str) -> Result<(), Problem> {
        let mut core = self.core.lock().await;
        if let Some(ended) = self.end_window(&mut core, id).await {
            return ended;
        }
        if known(&core, id)?.done.is_some() {
            return Err(conflict("the request is done, and can't be withdrawn any longer"));
        }
        core.request = None;
        tracing::info!(id, "request cancelled");
        Ok(())
    }

    /// `POST requests/{id}/consent`. With the threshold it is done.
    pub(crate) async fn consent(
        &self,
        id: &str,
        consent: ConsentRequest,
        named: bool,
    ) -> Result<ConsentAnswer, Problem> {
        let ConsentRequest { digest, parts } = consent;
        let parts = keymoot_api::unlock::PartsRequest { parts };
        unlock::bounded(&parts)?;
        let mut core = self.core.lock().await;
        core.primary()?;
        known(&core, id)?;
        // Nobody consents to what can't be done now.
        self.follow(&mut core).await;
        Self::gates_open(&core)?;
        let now = self.now();
        let manifest = core.manifest()?.manifest().clone();
        let open = known(&core, id)?;
        if open.digest != digest {
            let detail =
                format!("the digest of request {id} is {}; look at it again before you consent", open.digest);
            return Err(conflict(detail));
        }
        if open.state(now) != "open" {
            return Err(conflict(format!("request {id} is {}", open.state(now))));
        }
        if open.primary != manifest.primary {
            return Err(conflict("another version became primary meanwhile; cancel the request and ask again"));
        }
        let texts: Vec<(&str, &str)> =
            parts.parts.0.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let given = core.request.as_mut().map(|open| open.give(&manifest, &texts, now)).unwrap_or_default();
        let (mut accepted, mut rejected) = (Vec::new(), Vec::new());
        for part in given {
            match part {
                Ok(Consented { version, holder }) => {
                    tracing::info!(id, %holder, "consent given");
                    if let Some(record) = manifest.version(version) {
                        core.proofs.note(&manifest, version, &holder, record.share_set.set);
                    }
                    accepted.push(AcceptedPart { version, holder });
                }
                Err(refusal) => rejected.push(unlock::rejection(refusal, named)),
            }
        }
        if !accepted.is_empty()
            && let Err(problem) = self.write_proofs(&mut core).await
        {
            tracing::warn!(%problem, "the proofs in these consents wait to be recorded");
        }
        // Where it could not be done before, consenting once more does it.
        let again = core.request.as_ref().is_some_and(|open| matches!(open.giving, Giving::Consents(_)));
        let staged = (again || !accepted.is_empty()) && self.done_with_enough(&mut core).await?;
        let open = known(&core, id)?;
        let (needed, have, version) =
            (open.needed(&manifest), open.have(), open.done.as_ref().and_then(|done| done.version));
        let parts = self.parts_answer(&core, accepted, rejected, named);
        Ok(ConsentAnswer {
            accepted: parts.accepted,
            rejected: parts.rejected,
            versions: parts.versions,
            node: parts.node,
            state: if staged {
                ConsentState::Version(VersionState::Staged)
            } else {
                ConsentState::Node(parts.state)
            },
            needed,
            have,
            version,
        })
    }

    /// Does what was asked for, once enough holders have consented. Says whether a version was staged by it.
    async fn done_with_enough(&self, core: &mut Core) -> Result<bool, Problem> {
        let manifest = core.manifest()?.manifest().clone();
        let Some(mut open) = core.request.take() else { return Ok(false) };
        let of_primary = manifest.version(open.primary).map_or(u8::MAX, |record| record.share_set.threshold);
        let holders = open.holders();
        let mut imported = None;
        let enough = match &mut open.giving {
            Giving::Consents(consents) => consents.have() >= usize::from(of_primary),
            Giving::Shares(shares) => {
                let version = open.what.version().unwrap_or(open.primary);
                imported = shares.found(version, of_primary, wall_clock());
                imported.is_some()
            }
            Giving::Done(_) => false,
        };
        if !enough {
            core.request = Some(open);
            return Ok(false);
        }
        let outcome = match (&open.what, imported) {
            (What::Release(asked), _) => self.release(core, asked).await.map(|()| None),
            (What::Stage { threshold, holders, highest }, _) => {
                self.make_staged(core, *threshold, holders, *highest).await.map(Some)
            }
            (What::Reshare(new) | What::Replace(new), _) => self.make_reshared(core, new).await.map(Some),
            (What::RetireOverride(asked), _) => {
                self.retire_by_override(core, asked.version, &asked.reason).await.map(Some)
            }
            (What::Window(asked), _) => self.grant_window(core, &open.id, asked).await.map(|()| None),
            (What::Import(_), Some((key, record))) => self.take_up(core, key, record).await.map(Some),
            (What::Import(_), None) => Err(internal("an import ended without a version")),
        };
        let done = match outcome {
            Ok(version) => Done { version },
            Err(problem) => {
                // Who has consented is still known, and another node that was faster is no reason to ask them again.
                // Of an import the shares are gone; and what the store may or may not have is not done twice.
                if problem.code == ErrorCode::Conflict && matches!(open.giving, Giving::Consents(_)) {
                    core.request = Some(open);
                }
                return Err(problem);
            }
        };
        let staged = matches!(open.what, What::Stage { .. });
        open.giving = Giving::Done(holders);
        open.done = Some(done);
        core.request = Some(open);
        Ok(staged)
    }
}

fn known<'a>(core: &'a Core, id: &str) -> Result<&'a OpenRequest, Problem> {
    core.request
        .as_ref()
        .filter(|open| open.id == id)
        .ok_or_else(|| Problem::new(ErrorCode::NotFound, format!("there is no request {id} here")))
}
