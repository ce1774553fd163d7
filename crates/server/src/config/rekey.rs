//! `[rekey]`: how considerate the jobs of this node are.

use keymoot_rekey::{Manners, Window};

use super::section::{At, Section};

/// Above that many times a limit nothing would be left to protect.
const HARD_FACTOR_MAX: u64 = 1_000;

/// Reads the section; what is not there is as usual.
pub(super) fn rekey(section: Option<Section<'_>>) -> Manners {
    let usual = Manners::default();
    let Some(section) = section else { return usual };
    let factor = section.number("hard_factor", 2, HARD_FACTOR_MAX);
    let manners = Manners {
        max_replica_lag: section.duration("max_replica_lag").map_or(usual.max_replica_lag, At::value),
        max_active: section.number("max_active", 1, u64::MAX).map_or(usual.max_active, At::value),
        max_lock_waits: section.number("max_lock_waits", 0, u64::MAX).map_or(usual.max_lock_waits, At::value),
        max_decrypt_latency: section.duration("max_decrypt_latency").map_or(usual.max_decrypt_latency, At::value),
        hard_factor: factor.and_then(|factor| factor.value.try_into().ok()).unwrap_or(usual.hard_factor),
        window: section.parsed::<Window>("window").map(At::value),
    };
    section.finish();
    manners
}
