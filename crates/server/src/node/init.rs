//! `init`: a keyring, its first version, one package a holder. The root key is wiped once they are made.

use std::{sync::Arc, time::Duration};

use keymoot_api::{
    Problem, SecretText,
    init::{HolderSpec, InitAnswer, InitRequest, Package},
};
use keymoot_keyring::{Keyring, stage};
use keymoot_quorum::revise;
use keymoot_types::{
    ErrorCode, HolderName, KeyName, KeyVersion, KeyringName, Manifest, Share,
    manifest::{ManifestDocument, ShareSet},
    part::PartsFile,
};

use super::{Core, Node, bad_request, chain, conflict, internal, store_problem, wall_clock};
use crate::config::{Config, Key};

const UNLOCKED_ONCE: &str = "keyring/unlocked-once";

impl Node {
    /// Makes the keyring. Until its first unlock it may be made again: a lost answer is no end.
    pub(crate) async fn init(&self, request: InitRequest) -> Result<InitAnswer, Problem> {
        let config = self.config.load_full();
        if request.keyring != config.keyring {
            let detail = format!("this node is configured for keyring {}", config.keyring);
            return Err(bad_request(detail));
        }
        let holders = checked_holders(&request.holders, request.threshold, &config)?;
        let version = request.first_version.unwrap_or(KeyVersion::MIN);
        let mut core = self.core.lock().await;
        self.may_be_initialised(&core).await?;

        let keyring_id = stage::new_keyring_id().map_err(|error| internal(&error.to_string()))?;
        let staged = stage::stage(keyring_id, version, request.threshold, &holders)
            .map_err(|error| bad_request(error.to_string()))?;
        let packages = packages(&config.keyring, &staged.share_set, &staged.shares)?;
        let mut manifest = revise::first(
            config.keyring.clone(),
            keyring_id,
            config.cluster.members.clone(),
            &staged,
            wall_clock(),
        );
        declare(&mut manifest, &config);
        canaries(&mut manifest, [&staged.validated], &config);
        let document = revise::seal(manifest, [&staged.validated])
            .map_err(|error| internal(&format!("the first manifest is not well-formed: {error}")))?;
        drop(staged);

        self.write_first(&document).await?;
        *core = Core { elapsed: core.elapsed, ..Core::default() };
        self.keep(&mut core, document);
        self.rebuild(&mut core);
        tracing::info!(%keyring_id, version = version.get(), holders = holders.len(), "keyring made");
        Ok(InitAnswer { keyring_id, version, packages })
    }

    async fn may_be_initialised(&self, core: &Core) -> Result<(), Problem> {
        let refuse = || conflict("the keyring exists and was unlocked before: it can't be made again");
        if self.files.was_unlocked() || !core.loaded.is_empty() {
            return Err(refuse());
        }
        if core.last_good_damaged.is_some() && core.adopted.is_none() {
            return Err(conflict("a manifest is here and can't be read; see `status`"));
        }
        // Only the store's positive answer that there was none allows to go on.
        match self.metadata.get(UNLOCKED_ONCE).await {
            Ok(None) => {}
            Ok(Some(_)) => return Err(refuse()),
            Err(error) => return Err(store_problem(&error)),
        }
        let stored = self.metadata.list(chain::PREFIX).await.map_err(|error| store_problem(&error))?;
        if stored.len() > 1 { Err(refuse()) } else { Ok(()) }
    }

    async fn write_first(&self, document: &ManifestDocument) -> Result<(), Problem> {
        let key = chain::key(1);
        let before = self.metadata.get(&key).await.map_err(|error| store_problem(&error))?;
        let stamp = before.map(|record| record.stamp);
        self.metadata.swap(&key, stamp, document.canonical()).await.map_err(|error| store_problem(&error))?;
        Ok(())
    }

    /// Remembers in both places that this keyring was unlocked: from now on `init` is over. What fails is done again
    /// with the next look at the store: forgotten in both, the keyring could be made anew over its values.
    pub(super) async fn remember_unlocked(&self, core: &mut Core) {
        if core.remembered {
            return;
        }
        let noted = self.files.remember_unlocked();
        if let Err(error) = &noted {
            tracing::error!(%error, "could not note that this keyring was unlocked");
        }
        // A store that is away is asked elsewhere, without the lock.
        if core.store_away.is_none() {
            let stored = self.metadata.put(UNLOCKED_ONCE, b"").await;
            if let Err(error) = &stored {
                tracing::warn!(%error, "could not note in the store that this keyring was unlocked");
            }
            core.remembered = noted.is_ok() && stored.is_ok();
        }
    }
}

/// How long values of a key live outside the sources, where the configuration says so.
pub(super) fn lifetime(key: &Key) -> Option<Duration> {
    if key.only_in_sources { Some(Duration::ZERO) } else { key.max_age }
}

/// Writes what the configuration declares into a manifest.
pub(super) fn declare(manifest: &mut Manifest, config: &Config) -> bool {
    let keys: Vec<_> = config
        .keys
        .iter()
        .map(|key| revise::KeyDeclaration {
            name: key.name.clone(),
            max_age_s: lifetime(key).map(|lifetime| lifetime.as_secs()),
        })
        .collect();
    let sources: Vec<_> =
        config.source_specs().iter().map(|source| (source.name.clone(), source.key.clone())).collect();
    revise::declare(manifest, &keys, &sources)
}

/// Adds the canaries that the given versions can make.
pub(super) fn canaries<'a>(
    manifest: &mut Manifest,
    versions: impl IntoIterator<Item = &'a Arc<keymoot_keyring::Validated>>,
    config: &Config,
) -> bool {
    let keys: Vec<KeyName> = config.key_names();
    let keyring = Keyring::new(versions.into_iter().cloned(), None, &keys);
    revise::add_canaries(manifest, &keyring, &keys)
}

/// Checks who is to get a share, before anything is made.
pub(super) fn checked_holders(
    holders: &[HolderSpec],
    threshold: u8,
    config: &Config,
) -> Result<Vec<(HolderName, Option<String>)>, Problem> {
    if holders.len() > 255 {
        return Err(bad_request(format!("{} holders were named, and 255 is the most", holders.len())));
    }
    if threshold < 2 || usize::from(threshold) > holders.len() {
        let detail = format!(
            "the threshold is {threshold} with {} holders; it must be at least 2 and at most their number",
            holders.len()
        );
        return Err(bad_request(detail));
    }
    let mut checked: Vec<(HolderName, Option<String>)> = Vec::new();
    for holder in holders {
        if checked.iter().any(|(name, _)| *name == holder.name) {
            return Err(bad_request(format!("holder {} is named twice", holder.name)));
        }
        match &holder.recipient {
            Some(recipient) => {
                recipient
                    .parse::<age::x25519::Recipient>()
                    .map_err(|error| bad_request(format!("the recipient of {}: {error}", holder.name)))?;
                if checked.iter().any(|(_, other)| other.as_ref() == Some(recipient)) {
                    let detail = format!("the recipient of {} is another holder's too", holder.name);
                    return Err(bad_request(detail));
                }
            }
            None if config.allow_plain_packages => {}
            None => {
                let detail = format!(
                    "holder {} has no recipient, and plain packages are not allowed; `keymoot holder keygen` makes one",
                    holder.name
                );
                return Err(bad_request(detail));
            }
        }
        checked.push((holder.name.clone(), holder.recipient.clone()));
    }
    Ok(checked)
}

/// One package a holder: an armored age file, or the parts file itself where there is no recipient.
pub(super) fn packages(
    keyring: &KeyringName,
    share_set: &ShareSet,
    shares: &[Share],
) -> Result<Vec<Package>, Problem> {
    share_set
        .holders
        .iter()
        .zip(shares)
        .map(|(holder, share)| {
            let package = package(keyring, share, holder.recipient.as_deref())?;
            Ok(Package { holder: holder.name.clone(), x: holder.x.get(), package })
        })
        .collect()
}

fn package(keyring: &KeyringName, share: &Share, recipient: Option<&str>) -> Result<SecretText, Problem> {
    let text = PartsFile::write(keyring, std::slice::from_ref(share));
    let Some(recipient) = recipient else { return Ok(text.into()) };
    let failed = |what: &str| Problem::new(ErrorCode::Internal, format!("a package could not be made: {what}"));
    let recipient: age::x25519::Recipient = recipient.parse().map_err(failed)?;
    age::encrypt_and_armor(&recipient, text.as_bytes())
        .map(SecretText::new)
        .map_err(|error| failed(&error.to_string()))
}
