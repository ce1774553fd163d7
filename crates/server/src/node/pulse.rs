//! What comes round: expired parts, the service time, the store, the end of a hold.

use std::{sync::Arc, time::Duration};

use keymoot_types::VersionState;
use metrics::gauge;
use tokio::time::MissedTickBehavior;

use super::{Core, Node, chain, moment::Moment};

const PULSE: Duration = Duration::from_secs(1);
/// Every so many pulses the store is looked at and the service time made durable.
const LOOK_EVERY: u64 = 5;
/// Less than what the listeners' runtimes get.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

impl Node {
    /// Starts the pulse; it ends with [`Node::stop`].
    pub(crate) fn start_pulse(self: &Arc<Self>) {
        let node = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut interval = tokio::time::interval(PULSE);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut beats: u64 = 0;
            loop {
                tokio::select! {
                    () = node.stop.cancelled() => break,
                    _ = interval.tick() => {}
                }
                beats += 1;
                node.beat(beats.is_multiple_of(LOOK_EVERY)).await;
            }
        });
    }

    async fn beat(&self, look: bool) {
        let mut core = self.core.lock().await;
        for (version, holder) in core.unlock.expire(self.now()) {
            tracing::info!(version = version.get(), %holder, "a part expired and was wiped");
            self.note_expired(version, &holder);
        }
        if let Some(open) = &mut core.request {
            open.expire(self.now());
        }
        self.expire_packages(&mut core);
        core.service_time(self.now());
        self.observe(&mut core);
        // Of several members each follows the others at once: a gate waits for it.
        let several = core.manifest().is_ok_and(|document| document.manifest().members.len() > 1);
        if !look && !several {
            return;
        }
        // One that is known to be away is asked without the lock: it may take seconds to say nothing, and nobody who
        // gives a share or asks how things stand should wait for that.
        if core.store_away.is_some() {
            drop(core);
            // Of a record that there never is: any answer will do.
            let answered = self.metadata.get(chain::PREFIX).await;
            core = self.core.lock().await;
            if let Err(error) = answered {
                core.store_away = Some(error.to_string());
                self.miss_a_beat();
                return;
            }
        }
        self.follow(&mut core).await;
        self.exchange_heartbeats(&mut core).await;
        self.hear_of_window(&mut core);
        if !look {
            return;
        }
        if core.loaded.is_empty() {
            return;
        }
        self.keep_again(&mut core);
        self.remember_unlocked(&mut core).await;
        if core.store_away.is_some() {
            return;
        }
        if !core.clock_resumed {
            self.resume_clock(&mut core).await;
        }
        self.load_proofs(&mut core).await;
        self.look_at_exclusions(&mut core).await;
        self.write_clock(&mut core, false).await;
        self.catch_up(&mut core).await;
        self.follow_moments(&mut core).await;
        self.follow_restored(&mut core).await;
        self.look_at_holds(&mut core).await;
        self.look_at_window(&mut core).await;
    }

    /// Wipes what the adopted manifest has taken out of use.
    pub(super) fn drop_retired(&self, core: &mut Core) {
        let Some(document) = core.adopted.clone() else { return };
        core.loaded.retain(|version, _| {
            document
                .manifest()
                .version(*version)
                .is_some_and(|record| !matches!(record.state, VersionState::Retired | VersionState::Aborted))
        });
    }

    /// A hold that is over ends with one more conclusive census.
    async fn look_at_holds(&self, core: &mut Core) {
        let Ok(document) = core.manifest().cloned() else { return };
        let hold = self.config.load().retire.hold;
        for record in &document.manifest().versions {
            let held = record.state == VersionState::Retired
                && record.retirement.as_ref().is_some_and(|retirement| {
                    retirement.hold_ended.is_none() && retirement.override_reason.is_none()
                });
            if !held {
                continue;
            }
            let Some(retired) = self.moment(core, Moment::Retired, record.version).await else { continue };
            let over = retired + hold;
            if core.service_time(self.now()) >= over {
                self.end_hold(core, record.version, over).await;
            }
        }
    }

    /// Stops background work behind its present step, records the last of it and wipes every key.
    pub(crate) async fn shut_down(&self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, async { tokio::join!(self.tasks.wait(), self.jobs.stopped()) })
            .await
            .is_err()
        {
            tracing::warn!("background work did not stop in time; it goes on at its checkpoint");
        }
        let compared = self.compare_audit().await;
        self.write_checkpoint(compared).await;
        self.seal().await;
        self.end_audit().await;
    }

    /// Gauges that are read when somebody looks.
    pub(crate) fn measure(&self) {
        let serving = self.serving.load();
        let unlocked = serving.keyring.is_some();
        self.audit.measure();
        gauge!("keymoot_unlocked").set(f64::from(u8::from(unlocked)));
        gauge!("keymoot_ready").set(f64::from(u8::from(self.ready().ready)));
        for facts in &serving.versions {
            let loaded = serving.keyring.as_ref().is_some_and(|keyring| keyring.holds(facts.version));
            let labels = [("version", facts.version.to_string()), ("state", facts.state.to_string())];
            gauge!("keymoot_key_version_loaded", &labels).set(f64::from(u8::from(loaded)));
        }
    }
}
