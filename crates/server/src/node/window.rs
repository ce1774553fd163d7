//! Maintenance windows: asked for, granted, watched and ended. What is given in one is in `window_keys`.

use std::time::Duration;

use keymoot_api::{HumanDuration, Problem, rotate::WindowRequest, status::WindowStatus};
use keymoot_quorum::{
    Monotonic, revise,
    window::{NotGiven, WINDOW_MAX, Watch},
};
use keymoot_types::{
    NodeName,
    audit::{Entry, Phase},
    window::{Peer, Spent, Window},
};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::{Core, Node, bad_request, conflict};

/// What is asked for, as holders consent to it: whoever is not in it by name and certificate gets no keys.
#[derive(Debug, Clone, Serialize)]
pub(super) struct WindowAsked {
    members: Vec<NodeName>,
    #[serde(rename = "for")]
    granted_for: HumanDuration,
    peers: Vec<Peer>,
}

/// What a node knows of the window.
#[derive(Default)]
pub(super) struct WindowState {
    pub(super) watch: Watch,
    /// Set by a seal: what somebody sealed asks nobody for keys.
    pub(super) sealed: bool,
}

impl WindowState {
    /// What heartbeats tell.
    pub(super) fn spent(&self, window: Option<&Window>) -> Option<Spent> {
        self.watch.spent(window?, machine_time())
    }
}

/// Since the machine's start, its sleep included, on a clock that nobody sets.
pub(super) fn machine_time() -> Monotonic {
    let now = clock_gettime(ClockId::Boottime);
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default())
}

impl Node {
    /// How the others reach this node and know it.
    pub(super) fn own_peer(&self) -> Option<Peer> {
        let config = self.config.load();
        let listens = config.listen.control;
        let reachable = !listens.ip().is_unspecified() && listens.port() != 0;
        let address = config.cluster.address.clone().or_else(|| reachable.then(|| listens.to_string()));
        Some(Peer { node: self.name.clone(), address, fingerprint: self.identity.as_ref()?.fingerprint })
    }

    /// Judges what an operator asks for. Members are known by their heartbeats, and so have to be there.
    pub(super) fn window_asked(&self, core: &Core, asked: WindowRequest) -> Result<WindowAsked, Problem> {
        let manifest = core.manifest()?.manifest();
        let WindowRequest { members, duration: granted_for } = asked;
        if granted_for.get() < Duration::from_secs(1) || granted_for.get() > WINDOW_MAX {
            let most = WINDOW_MAX.as_secs() / 3600;
            return Err(bad_request(format!("a window is open for at least 1s and at most {most}h")));
        }
        if members.is_empty() {
            return Err(bad_request("name the members that may receive the keys"));
        }
        let peers: Vec<Peer> = {
            let seen = self.members();
            let others = seen.present(&manifest.members).filter_map(|heard| heard.peer.clone());
            let mut peers: Vec<_> = others.chain(self.own_peer()).collect();
            peers.sort_by(|a, b| a.node.cmp(&b.node));
            peers
        };
        for (at, node) in members.iter().enumerate() {
            if !manifest.members.contains(node) {
                return Err(bad_request(format!("{node} is not a member of this keyring")));
            }
            if members.iter().take(at).any(|earlier| earlier == node) {
                return Err(bad_request(format!("{node} is named twice")));
            }
            if !peers.iter().any(|peer| peer.node == *node) {
                return Err(conflict(format!(
                    "{node} is not there, so its certificate is not known: start and unlock it, then ask again"
                )));
            }
            if !peers.iter().any(|peer| peer.node != *node && peer.address.is_some()) {
                return Err(conflict(format!(
                    "nobody could give {node} the keys: no other member says how it is reached (`cluster.address`)"
                )));
            }
        }
        Ok(WindowAsked { members, granted_for, peers })
    }

    /// Puts what was consented to into the manifest. Its time begins here.
    pub(super) async fn grant_window(
        &self,
        core: &mut Core,
        id: &str,
        asked: &WindowAsked,
    ) -> Result<(), Problem> {
        let WindowAsked { members, granted_for, peers } = asked.clone();
        let window = Window { id: id.into(), members, for_s: granted_for.get().as_secs(), peers };
        let mut next = revise::next(core.manifest()?);
        next.window = Some(window.clone());
        let published = self.publish(core, next, &[]).await;
        if window_of(core).is_some_and(|now| now.id == window.id) {
            core.window.watch.granted(&window, machine_time());
        }
        published?;
        tracing::warn!(id, members = ?window.members, seconds = window.for_s, "maintenance window granted");
        Ok(())
    }

    /// Ends the window that was granted by this request, here at once. Nothing where it is another's.
    pub(super) async fn end_window(&self, core: &mut Core, id: &str) -> Option<Result<(), Problem>> {
        let window = window_of(core).filter(|window| window.id == id)?.clone();
        core.window.watch.end(&window, machine_time());
        tracing::warn!(id, "an operator ended the maintenance window");
        let published = self.publish_without_window(core, &window).await;
        Some(published.map_err(|problem| Problem {
            detail: format!(
                "this node gives no keys any longer, and the others hear of it as soon as they can; it is not in the \
                 manifest yet: {}",
                problem.detail
            ),
            ..problem
        }))
    }

    /// Takes notice of a window in the manifest, and of what the others know about it.
    pub(super) fn hear_of_window(&self, core: &mut Core) {
        let Some(window) = window_of(core).cloned() else { return };
        let now = machine_time();
        core.window.watch.seen(&window, now);
        let Ok(document) = core.manifest() else { return };
        let members = document.manifest().members.clone();
        let seen = self.members();
        let told = seen.present(&members).filter_map(|heard| heard.window.as_ref());
        for spent in told.filter(|spent| spent.id == window.id) {
            core.window.watch.heard(&window, Duration::from_millis(spent.spent_ms), now);
        }
    }

    /// Takes a window out of the manifest whose time is over.
    pub(super) async fn look_at_window(&self, core: &mut Core) {
        let Some(window) = window_of(core).cloned() else { return };
        if core.window.watch.left(&window, machine_time()) != Err(NotGiven::Over) || core.diverged.is_some() {
            return;
        }
        match self.publish_without_window(core, &window).await {
            Ok(()) => {
                let ended = Entry::new("window-ended", Phase::Note).fact("window", window.id.clone());
                self.audit.note(ended);
                tracing::info!(id = window.id, "the maintenance window is over");
            }
            // It gives nothing all the same, and this is tried again.
            Err(problem) => tracing::debug!(%problem, "the window that is over stays in the manifest for now"),
        }
    }

    async fn publish_without_window(&self, core: &mut Core, window: &Window) -> Result<(), Problem> {
        self.follow(core).await;
        if window_of(core).is_none_or(|now| now.id != window.id) {
            return Ok(());
        }
        let mut next = revise::next(core.manifest()?);
        next.window = None;
        self.publish(core, next, &[]).await
    }
}

/// The window of the manifest that this node has adopted.
pub(super) fn window_of(core: &Core) -> Option<&Window> {
    core.adopted.as_ref()?.manifest().window.as_ref()
}

/// How it stands with the window; who it is for is shown to those who showed a token.
pub(super) fn status(core: &Core, named: bool) -> Option<WindowStatus> {
    let window = window_of(core)?;
    let left = core.window.watch.left(window, machine_time());
    Some(WindowStatus {
        id: named.then(|| window.id.clone()),
        members: named.then(|| window.members.clone()),
        granted_for: HumanDuration::new(window.granted_for()),
        left_seconds: left.ok().map(|left| left.as_secs()),
        why_not: left.err().map(|why| why.to_string()),
    })
}
