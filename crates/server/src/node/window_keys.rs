//! What is given in a maintenance window, and what a restarted member asks for.

use std::{net::IpAddr, sync::Arc, time::Duration};

use keymoot_keyring::hand_over;
use keymoot_quorum::window::may_receive;
use keymoot_types::{
    Digest, KeyVersion, KeyringId, NodeName, Wiped,
    audit::{Entry, Phase},
    window::{Peer, Window},
};

use super::{
    Core, Node, may_be_loaded,
    window::{machine_time, window_of},
};
use crate::peer::{self, wire::Answer};

/// Between two rounds of asking, at first.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(20);

/// Keys for another member, and what is to be recorded once they are sent.
pub(crate) struct Given {
    pub(crate) left: Duration,
    pub(crate) keys: Wiped,
    pub(crate) entry: Entry,
}

/// What a sealed member wants, and of whom.
struct Wanted {
    keyring_id: KeyringId,
    window: Window,
    peers: Vec<Peer>,
}

impl Node {
    /// The keys, for the member that shows this certificate; or why it gets none. Recorded before they are packed.
    pub(crate) async fn keys_for(
        &self,
        fingerprint: &Digest,
        keyring_id: KeyringId,
        from: IpAddr,
    ) -> Result<Given, String> {
        let entry = Entry::new("window-keys-given", Phase::Intent).from(from);
        let permitted = {
            let core = self.core.lock().await;
            self.permitted(&core, fingerprint, keyring_id)
        };
        let (node, ..) = permitted.inspect_err(|why| {
            tracing::warn!(%from, why, "a member asked for keys and got none");
            if self.audit.admits(Some(from)) {
                self.audit.note(entry.clone().in_phase(Phase::Refused).fact("reason", why.clone()));
            }
        })?;
        let entry = entry.fact("node", node.as_str());
        let intent = self.audit.require(entry.clone()).await;
        let intent = intent.map_err(|cause| format!("nothing was given: it can't be recorded: {cause}"))?;
        // Ended meanwhile, sealed meanwhile: what counts is now.
        let core = self.core.lock().await;
        let entry = entry.fact("intent", intent);
        let (_, left, window) = self.permitted(&core, fingerprint, keyring_id).inspect_err(|why| {
            self.audit.note(entry.clone().in_phase(Phase::Refused).fact("reason", why.clone()));
        })?;
        let keys = hand_over::pack(core.loaded.values().map(AsRef::as_ref));
        let entry = entry.fact("window", window).fact("versions", numbers(core.loaded.keys()));
        Ok(Given { left, keys, entry })
    }

    fn permitted(
        &self,
        core: &Core,
        fingerprint: &Digest,
        keyring_id: KeyringId,
    ) -> Result<(NodeName, Duration, String), String> {
        let text = |problem: keymoot_api::Problem| problem.detail;
        core.primary().map_err(text)?;
        Self::gates_open(core).map_err(text)?;
        self.alone_under_its_name().map_err(text)?;
        let manifest = core.manifest().map_err(text)?.manifest();
        if manifest.keyring_id != keyring_id {
            return Err("this node serves another keyring".into());
        }
        if !manifest.members.contains(&self.name) {
            return Err("this node is no member any longer".into());
        }
        let (node, left) = may_receive(manifest, &core.window.watch, machine_time(), fingerprint)
            .map_err(|not_given| not_given.to_string())?;
        let window = manifest.window.as_ref().map(|window| window.id.clone()).unwrap_or_default();
        Ok((node.clone(), left, window))
    }

    /// What became of the keys that were packed.
    pub(crate) fn note_given(&self, entry: Entry, failed: Option<&std::io::Error>) {
        match failed {
            None => tracing::warn!("keys given to a restarted member, in a maintenance window"),
            Some(error) => tracing::warn!(%error, "keys for a restarted member may not have arrived"),
        }
        let phase = if failed.is_some() { Phase::Failed } else { Phase::Done };
        self.audit.note(entry.in_phase(phase));
        self.audit.checkpoint_soon();
    }

    /// At a start: as long as this node is sealed, and its own manifest has a window for it, it asks the others.
    pub(crate) fn ask_for_keys(self: &Arc<Self>) {
        let node = Arc::clone(self);
        self.tasks.spawn(async move {
            let started = machine_time();
            let mut pause = PAUSE;
            while let Some(wanted) = node.wanted().await {
                // No window is open for longer than it was granted for.
                if machine_time().saturating_sub(started) > wanted.window.granted_for() {
                    return;
                }
                for peer in &wanted.peers {
                    match node.ask(peer, &wanted).await {
                        Ok(()) => break,
                        Err(error) => tracing::info!(peer = %peer.node, %error, "no keys from this member"),
                    }
                }
                tokio::select! {
                    () = node.stop.cancelled() => return,
                    () = tokio::time::sleep(jittered(pause)) => {}
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
        });
    }

    /// Only what this node has itself verified while it had keys says whom it asks.
    async fn wanted(&self) -> Option<Wanted> {
        let core = self.core.lock().await;
        self.identity.as_ref()?;
        let window = window_of(&core).filter(|window| window.members.contains(&self.name))?.clone();
        if !core.loaded.is_empty() || core.window.sealed {
            return None;
        }
        let keyring_id = core.adopted.as_ref()?.manifest().keyring_id;
        let others = window.peers.iter().filter(|peer| peer.node != self.name && peer.address.is_some());
        Some(Wanted { keyring_id, peers: others.cloned().collect(), window })
    }

    async fn ask(&self, peer: &Peer, wanted: &Wanted) -> Result<(), peer::AskError> {
        let Some(identity) = &self.identity else { return Ok(()) };
        if let Answer::Keys { left, keys } = peer::ask(identity, peer, wanted.keyring_id).await? {
            self.take_keys(&peer.node, &wanted.window, left, &keys, wanted.keyring_id).await;
        }
        Ok(())
    }

    /// Takes what its key check proves, and nothing else.
    async fn take_keys(
        &self,
        from: &NodeName,
        window: &Window,
        left: Duration,
        keys: &[u8],
        keyring_id: KeyringId,
    ) {
        let mut core = self.core.lock().await;
        if !core.loaded.is_empty() || core.window.sealed {
            return;
        }
        let Some(target) = core.target().cloned() else { return };
        let Some(arrived) = hand_over::unpack(keyring_id, keys) else {
            return tracing::error!(%from, "what this member sent is no key");
        };
        let mut taken = Vec::new();
        for key in arrived {
            let version = key.version();
            let record = target.manifest().version(version).filter(|record| may_be_loaded(record.state));
            match record.map(|record| core.unlock.receive(record, key)) {
                Some(Ok(())) => taken.push(version),
                Some(Err(error)) => tracing::error!(%from, %error, "this member sent a wrong key; it was wiped"),
                None => tracing::info!(%from, version = version.get(), "a key that is not asked for was wiped"),
            }
        }
        let spent = window.granted_for().saturating_sub(left);
        core.window.watch.heard(window, spent, machine_time());
        tracing::warn!(%from, versions = ?numbers(&taken), "keys received in a maintenance window");
        self.enter_service(&mut core).await;
        let entry = Entry::new("window-keys-received", Phase::Done).fact("node", from.as_str());
        let entry = entry.fact("window", window.id.clone()).fact("versions", numbers(&taken));
        self.audit.note(entry.fact("state", core.state().to_string()));
    }
}

fn numbers<'v>(versions: impl IntoIterator<Item = &'v KeyVersion>) -> Vec<u32> {
    versions.into_iter().map(|version| version.get()).collect()
}

/// Half to all of it: nodes that start together do not ask together.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 2];
    // Without randomness they do.
    getrandom::fill(&mut random).unwrap_or_default();
    pause / 2 + pause.mul_f64(f64::from(u16::from_be_bytes(random)) / f64::from(u16::MAX) / 2.0)
}
