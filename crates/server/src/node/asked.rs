//! What an operator may ask the holders for. It is judged when it is asked, so that nobody consents to what can't be
//! done.

use keymoot_api::{
    Problem,
    init::HolderSpec,
    rotate::{ImportRequest, ReleaseRequest, RequestBody, ReshareRequest, RetireOverrideRequest, StageRequest},
};
use keymoot_quorum::reshare;
use keymoot_rekey::Sources as _;
use keymoot_types::{
    Digest, HolderName, KeyName, KeyVersion, KeyringId, Manifest, SourceName, VersionState,
    manifest::VersionRecord,
};
use serde::Serialize;

use super::{Core, Node, bad_request, conflict, import, init, window::WindowAsked};

/// The longest reason; it is shown to every holder.
const REASON_CHARS_MAX: usize = 1000;

/// What is consented to, in full. Its canonical form is what the digest is over.
#[derive(Debug, Serialize)]
pub(super) struct Asked {
    pub(super) id: String,
    pub(super) keyring_id: KeyringId,
    #[serde(flatten)]
    pub(super) what: What,
}

/// By operation.
#[derive(Debug, Serialize)]
#[serde(tag = "operation", rename_all = "kebab-case")]
pub(super) enum What {
    /// Make the next version.
    Stage {
        threshold: u8,
        holders: Vec<HolderSpec>,
        /// The number that the next one exceeds, where the operator named the highest that ever was.
        #[serde(skip_serializing_if = "Option::is_none")]
        highest: Option<KeyVersion>,
    },
    /// New shares of a version.
    Reshare(NewShares),
    /// The same, because shares are lost.
    Replace(NewShares),
    /// Bring a forgotten version back.
    Import(ImportRequest),
    /// Retire without evidence.
    RetireOverride(RetireOverrideRequest),
    /// Restarted members get the keys from an unlocked one.
    Window(WindowAsked),
    /// Write the values of a source in clear again.
    Release(ReleasedColumn),
}

/// The column that is to be in clear: another one under its name is not.
#[derive(Debug, Serialize)]
pub(super) struct ReleasedColumn {
    pub(super) source: SourceName,
    table: String,
    column: String,
    key: KeyName,
    /// Of the whole declaration, without its credentials.
    pub(super) declaration: Digest,
}

/// Who is to hold a version from now on.
#[derive(Debug, Serialize)]
pub(super) struct NewShares {
    pub(super) version: KeyVersion,
    pub(super) threshold: u8,
    pub(super) holders: Vec<HolderSpec>,
    /// Holders of the present set whose share is lost.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) lost: Vec<HolderName>,
}

impl What {
    /// The operation's word.
    pub(super) fn operation(&self) -> &'static str {
        match self {
            Self::Stage { .. } => "stage",
            Self::Reshare(_) => "reshare",
            Self::Replace(_) => "replace",
            Self::Import(_) => "import",
            Self::RetireOverride(_) => "retire-override",
            Self::Window(_) => "window",
            Self::Release(_) => "release",
        }
    }

    /// The version that it is about; a stage has none yet, and a release is about no version.
    pub(super) fn version(&self) -> Option<KeyVersion> {
        match self {
            Self::Stage { .. } | Self::Window(_) | Self::Release(_) => None,
            Self::Reshare(new) | Self::Replace(new) => Some(new.version),
            Self::Import(import) => Some(import.version),
            Self::RetireOverride(retire) => Some(retire.version),
        }
    }

    /// Who is to get a share.
    pub(super) fn holders(&self) -> &[HolderSpec] {
        match self {
            Self::Stage { holders, .. } => holders,
            Self::Reshare(new) | Self::Replace(new) => &new.holders,
            Self::Import(_) | Self::RetireOverride(_) | Self::Window(_) | Self::Release(_) => &[],
        }
    }

    /// The threshold of what is to be made.
    pub(super) fn threshold(&self) -> Option<u8> {
        match self {
            Self::Stage { threshold, .. } => Some(*threshold),
            Self::Reshare(new) | Self::Replace(new) => Some(new.threshold),
            Self::Import(_) | Self::RetireOverride(_) | Self::Window(_) | Self::Release(_) => None,
        }
    }
}

impl Node {
    /// Judges a request and fills in what it leaves to be as it is now.
    pub(super) fn asked_for(&self, core: &Core, body: RequestBody) -> Result<What, Problem> {
        let manifest = core.manifest()?.manifest();
        match body {
            RequestBody::Stage(stage) => self.stage_asked(core, manifest, stage),
            RequestBody::Reshare(new) => Ok(What::Reshare(self.shares_asked(core, new)?)),
            RequestBody::Replace(new) => {
                let mut asked = self.shares_asked(core, new)?;
                asked.lost = lost(core.record(asked.version)?, &asked.holders);
                Ok(What::Replace(asked))
            }
            RequestBody::Import(asked) => {
                if let Some(known) = manifest.version(asked.version) {
                    let detail =
                        format!("v{} is known and {}: there is nothing to import", known.version, known.state);
                    return Err(conflict(detail));
                }
                import::witness(core, &asked, &self.config.load())?;
                Ok(What::Import(asked))
            }
            RequestBody::RetireOverride(asked) => retire_asked(core, asked),
            RequestBody::Window(asked) => Ok(What::Window(self.window_asked(core, asked)?)),
            RequestBody::Release(asked) => self.release_asked(manifest, asked),
        }
    }

    fn stage_asked(&self, core: &Core, manifest: &Manifest, asked: StageRequest) -> Result<What, Problem> {
        none_unfinished(manifest)?;
        let primary = manifest.version(manifest.primary).ok_or_else(|| conflict("there is no primary"))?;
        let holders = asked.holders.unwrap_or_else(|| holders_now(primary));
        let threshold = asked.threshold.unwrap_or(primary.share_set.threshold);
        init::checked_holders(&holders, threshold, &self.config.load())?;
        // Whether there will be a number, and how high it must be, is settled now: what anybody sends afterwards does
        // not undo consents. It is taken when the version is made.
        let next = self.next_version(core, asked.highest)?;
        let highest = asked.highest.and_then(|_| KeyVersion::new(next.get() - 1).ok());
        Ok(What::Stage { threshold, holders, highest })
    }

    fn release_asked(&self, manifest: &Manifest, asked: ReleaseRequest) -> Result<What, Problem> {
        let source = &asked.source;
        let Some(opened) = self.sources.source(source) else {
            return Err(bad_request(format!("source {source} is not declared")));
        };
        let declared = manifest.declared.sources.iter().find(|declared| declared.name == *source);
        match declared.map(|declared| declared.released.as_ref()) {
            None => Err(conflict(format!("source {source} is not in the manifest yet; ask again in a moment"))),
            Some(Some(release)) => {
                let at = release.at;
                let detail = format!(
                    "source {source} was released at {at}: `keymoot rekey start --source {source}` decrypts what is left"
                );
                Err(conflict(detail))
            }
            Some(None) => {
                let spec = opened.spec();
                Ok(What::Release(ReleasedColumn {
                    source: spec.name.clone(),
                    table: spec.table.clone(),
                    column: spec.column.clone(),
                    key: spec.key.clone(),
                    declaration: spec.digest(),
                }))
            }
        }
    }

    fn shares_asked(&self, core: &Core, asked: ReshareRequest) -> Result<NewShares, Problem> {
        let ReshareRequest { version, holders, threshold } = asked;
        let manifest = core.manifest()?.manifest();
        reshare::next_set(manifest, version).map_err(|error| conflict(error.to_string()))?;
        if !core.loaded.contains_key(&version) {
            let detail =
                format!("v{version} is not loaded here: new shares are made of a key in memory; unlock it first");
            return Err(conflict(detail));
        }
        let threshold = threshold.unwrap_or(core.record(version)?.share_set.threshold);
        init::checked_holders(&holders, threshold, &self.config.load())?;
        Ok(NewShares { version, threshold, holders, lost: vec![] })
    }
}

/// One version at a time is on its way.
pub(super) fn none_unfinished(manifest: &Manifest) -> Result<(), Problem> {
    let unfinished = manifest
        .versions
        .iter()
        .find(|record| matches!(record.state, VersionState::Staged | VersionState::Activating));
    match unfinished {
        Some(record) => {
            let detail = format!("v{} is {} already; activate or abort it first", record.version, record.state);
            Err(conflict(detail))
        }
        None => Ok(()),
    }
}

fn holders_now(record: &VersionRecord) -> Vec<HolderSpec> {
    let of = |holder: &keymoot_types::manifest::Holder| HolderSpec {
        name: holder.name.clone(),
        recipient: holder.recipient.clone(),
    };
    record.share_set.holders.iter().map(of).collect()
}

/// Who holds a share now and gets none, or one for another recipient.
fn lost(record: &VersionRecord, wanted: &[HolderSpec]) -> Vec<HolderName> {
    let stays = |name: &HolderName, recipient: &Option<String>| {
        wanted.iter().any(|holder| holder.name == *name && holder.recipient == *recipient)
    };
    let holders = record.share_set.holders.iter();
    holders.filter(|holder| !stays(&holder.name, &holder.recipient)).map(|holder| holder.name.clone()).collect()
}

fn retire_asked(core: &Core, asked: RetireOverrideRequest) -> Result<What, Problem> {
    let record = core.record(asked.version)?;
    if record.state != VersionState::DecryptOnly {
        let detail = format!("v{} is {}; only a decrypt-only version is retired", record.version, record.state);
        return Err(conflict(detail));
    }
    match asked.reason.trim().chars().count() {
        0 => Err(bad_request("name the loss that is accepted, as `reason`")),
        1..=REASON_CHARS_MAX => Ok(What::RetireOverride(asked)),
        long => Err(bad_request(format!("the reason has {long} characters, and {REASON_CHARS_MAX} is the most"))),
    }
}
