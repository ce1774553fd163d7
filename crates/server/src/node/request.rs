//! Requests: what an operator asks for and holders consent to by their shares. No agreement, no key.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use keymoot_api::{
    Problem,
    init::{HolderSpec, PackagesAnswer},
    rotate::{ConsentAnswer, ConsentRequest, ConsentState, RequestAnswer, RequestBody, RequestDetail},
    unlock::AcceptedPart,
};
use keymoot_keyring::stage;
use keymoot_quorum::{Monotonic, consent::Consents, revise};
use keymoot_types::{Digest, ErrorCode, HolderName, KeyVersion, VersionState};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{Core, Node, bad_request, conflict, init, internal, unlock, wall_clock};

/// How long a request is open.
const OPEN_FOR: Duration = Duration::from_secs(24 * 3600);
/// How long packages stay in the maker's memory.
const PACKAGES_FOR: Duration = Duration::from_secs(3600);

/// The one request that is open, or was last.
pub(super) struct OpenRequest {
    id: String,
    digest: Digest,
    asked: Stage,
    requested_by: String,
    opened: Monotonic,
    expires_at: Timestamp,
    consent_version: KeyVersion,
    consents: Consents,
    /// The version that was made.
    done: Option<KeyVersion>,
}

/// What is consented to, in full. Its canonical form is what the digest is over.
#[derive(Serialize)]
struct Stage {
    id: String,
    operation: &'static str,
    keyring_id: keymoot_types::KeyringId,
    threshold: u8,
    holders: Vec<HolderSpec>,
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

    fn have(&self) -> u8 {
        u8::try_from(self.consents.have()).unwrap_or(u8::MAX)
    }
}

impl Node {
    /// `POST requests`. Nothing is made yet, and no number is taken.
    pub(crate) async fn open_request(&self, request: RequestBody, by: &str) -> Result<RequestAnswer, Problem> {
        let RequestBody::Stage(stage) = request else {
            return Err(bad_request("of the operations that need consent this version has `stage`"));
        };
        let config = self.config.load_full();
        let mut core = self.core.lock().await;
        core.primary()?;
        Self::gates_open(&core)?;
        // Holders are not to be asked for what can't be recorded now.
        self.look_ahead(&mut core).await;
        if let Some(why) = &core.store_away {
            return Err(Problem::new(ErrorCode::StoreUnavailable, format!("nothing was asked for: {why}")));
        }
        let now = self.now();
        if let Some(open) = core.request.as_ref().filter(|open| open.state(now) == "open") {
            let detail = format!("request {} is open; it must be done, cancelled or expired first", open.id);
            return Err(conflict(detail));
        }
        let manifest = core.manifest()?.manifest();
        if let Some(record) = manifest
            .versions
            .iter()
            .find(|record| matches!(record.state, VersionState::Staged | VersionState::Activating))
        {
            let detail = format!("v{} is {} already; activate or abort it first", record.version, record.state);
            return Err(conflict(detail));
        }
        let primary = core.record(manifest.primary)?;
        let holders = stage.holders.unwrap_or_else(|| {
            let of_primary = primary.share_set.holders.iter();
            of_primary
                .map(|holder| HolderSpec { name: holder.name.clone(), recipient: holder.recipient.clone() })
                .collect()
        });
        let threshold = stage.threshold.unwrap_or(primary.share_set.threshold);
        init::checked_holders(&holders, threshold, &config)?;
        let id = uuid::Uuid::now_v7().to_string();
        let asked =
            Stage { id: id.clone(), operation: "stage", keyring_id: manifest.keyring_id, threshold, holders };
        let canonical =
            serde_json_canonicalizer::to_vec(&asked).map_err(|_| internal("the request has no canonical form"))?;
        let opened = OpenRequest {
            digest: Digest::new(Sha256::digest(&canonical).into()),
            requested_by: by.into(),
            opened: now,
            expires_at: wall_clock()
                .saturating_add(SignedDuration::try_from(OPEN_FOR).unwrap_or_default())
                .unwrap_or(Timestamp::MAX),
            consent_version: manifest.primary,
            consents: Consents::default(),
            done: None,
            id,
            asked,
        };
        let answer = answer(&opened, primary.share_set.threshold);
        tracing::info!(id = opened.id, digest = %opened.digest, by, "request opened: stage");
        core.request = Some(opened);
        Ok(answer)
    }

    /// `GET requests/{id}`: what is consented to.
    pub(crate) async fn request(&self, id: &str, named: bool) -> Result<RequestDetail, Problem> {
        let core = self.core.lock().await;
        let open = known(&core, id)?;
        Ok(RequestDetail {
            id: open.id.clone(),
            digest: open.digest,
            operation: open.asked.operation.into(),
            version: open.done,
            needed: core.record(open.consent_version)?.share_set.threshold,
            have: open.have(),
            consent_version: Some(open.consent_version),
            state: open.state(self.now()).into(),
            threshold: Some(open.asked.threshold),
            holders: open.asked.holders.clone(),
            witness: None,
            reason: None,
            source: None,
            members: vec![],
            duration: None,
            consented: named.then(|| open.consents.holders().to_vec()),
            requested_by: named.then(|| open.requested_by.clone()),
            expires_at: Some(open.expires_at),
        })
    }

    /// `DELETE requests/{id}`.
    pub(crate) async fn cancel_request(&self, id: &str) -> Result<(), Problem> {
        let mut core = self.core.lock().await;
        if known(&core, id)?.done.is_some() {
            return Err(conflict("the request is done; `rotate abort` gives its version up"));
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
        let now = self.now();
        let open = known(&core, id)?;
        if open.digest != digest {
            let detail =
                format!("the digest of request {id} is {}; look at it again before you consent", open.digest);
            return Err(conflict(detail));
        }
        if open.state(now) != "open" {
            return Err(conflict(format!("request {id} is {}", open.state(now))));
        }
        let manifest = core.manifest()?.manifest().clone();
        let needed = core.record(open.consent_version)?.share_set.threshold;
        if open.consent_version != manifest.primary {
            return Err(conflict("another version became primary meanwhile; cancel the request and ask again"));
        }
        let (mut accepted, mut rejected) = (Vec::new(), Vec::new());
        for (name, text) in &parts.parts.0 {
            let Some(open) = &mut core.request else { break };
            match open.consents.give(&manifest, open.consent_version, name, text) {
                Ok(part) => {
                    let version = part.share.version();
                    tracing::info!(id, holder = %part.holder, "consent given");
                    core.proofs.note(version, &part.holder, part.set);
                    accepted.push(AcceptedPart { version, holder: part.holder });
                }
                Err(refusal) => rejected.push(unlock::rejection(refusal, named)),
            }
        }
        if let Err(problem) = self.write_proofs(&mut core).await {
            tracing::warn!(%problem, "the proofs in these consents wait to be recorded");
        }
        let have = core.request.as_ref().map_or(0, OpenRequest::have);
        let mut made = None;
        if have >= needed {
            made = Some(self.make_staged(&mut core).await?);
        }
        let parts = self.parts_answer(&core, accepted, rejected, named);
        Ok(ConsentAnswer {
            accepted: parts.accepted,
            rejected: parts.rejected,
            versions: parts.versions,
            node: parts.node,
            state: match made {
                Some(_) => ConsentState::Version(VersionState::Staged),
                None => ConsentState::Node(parts.state),
            },
            needed,
            have,
            version: made,
        })
    }

    /// Makes the version: splits it, encrypts every holder's share, publishes, wipes.
    async fn make_staged(&self, core: &mut Core) -> Result<KeyVersion, Problem> {
        let config = self.config.load_full();
        let current = core.manifest()?.clone();
        let version =
            revise::next_version(current.manifest(), None).map_err(|error| conflict(error.to_string()))?;
        let open = core.request.as_ref().ok_or_else(|| conflict("the request is gone"))?;
        let holders: Vec<(HolderName, Option<String>)> =
            open.asked.holders.iter().map(|holder| (holder.name.clone(), holder.recipient.clone())).collect();
        let staged = stage::stage(current.manifest().keyring_id, version, open.asked.threshold, &holders)
            .map_err(|error| internal(&error.to_string()))?;
        let packages = init::packages(&config.keyring, &staged)?;
        let mut manifest = revise::next(&current);
        revise::stage(&mut manifest, version, &staged, wall_clock());
        let with_staged: Vec<_> = core.loaded.values().chain([&staged.validated]).cloned().collect();
        init::canaries(&mut manifest, &with_staged, &config);
        let published = self.publish(core, manifest, std::slice::from_ref(&staged.validated)).await;
        if let Err(problem) = published {
            // The consents are spent on nothing: the shares were wiped, so holders must be asked again.
            if problem.code == ErrorCode::StoreUnavailable {
                core.request = None;
            }
            return Err(problem);
        }
        core.packages.insert(version, (self.now(), packages));
        if let Some(open) = &mut core.request {
            open.done = Some(version);
        }
        tracing::info!(version = version.get(), key_id = %staged.key_id, "version staged; its root key is wiped");
        Ok(version)
    }

    /// `GET versions/{n}/packages`.
    pub(crate) async fn packages(&self, version: KeyVersion) -> Result<PackagesAnswer, Problem> {
        let mut core = self.core.lock().await;
        core.record(version)?;
        self.expire_packages(&mut core);
        let packages = core.packages.get(&version).map(|(_, packages)| packages.clone()).ok_or_else(|| {
            Problem::new(
                ErrorCode::NotFound,
                format!("the packages of v{version} are no longer here: they stay for an hour, in the node that made them"),
            )
        })?;
        Ok(PackagesAnswer { version, packages })
    }

    pub(super) fn expire_packages(&self, core: &mut Core) {
        let now = self.now();
        core.packages.retain(|_, (made, _)| now.saturating_sub(*made) < PACKAGES_FOR);
    }
}

fn known<'a>(core: &'a Core, id: &str) -> Result<&'a OpenRequest, Problem> {
    core.request
        .as_ref()
        .filter(|open| open.id == id)
        .ok_or_else(|| Problem::new(ErrorCode::NotFound, format!("there is no request {id} here")))
}

fn answer(open: &OpenRequest, needed: u8) -> RequestAnswer {
    RequestAnswer {
        id: open.id.clone(),
        digest: open.digest,
        operation: open.asked.operation.into(),
        version: None,
        needed,
        have: open.have(),
    }
}
