//! What is recorded of the control calls, and what is refused when it can't be: one table.

use keymoot_api::routes::{self, Route};

/// What becomes of a call when it can't be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// It makes, moves or destroys keys, or changes who may: its intent is on disk before anything is done, or
    /// nothing is done.
    Guarded,
    /// Guarded if it brings a holder's right share for a request that is open. Any other changes nothing, and must not
    /// fill the disk.
    Consent,
    /// Guarded, unless it makes an older version primary: that is the way back.
    GuardedUnlessBack,
    /// Guarded, and before that a new file is begun where the old one was moved away.
    GuardedReload,
    /// It is a way back to safety or to service, so it is done all the same; its records spill.
    Open,
    /// Open, and anybody may call: what became of the parts is recorded, refusals as far as there is room.
    Parts,
    /// The same, and a right share is taken again and again, so that these too are recorded as far as there is room.
    Proofs,
}

/// One row.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) route: Route,
    pub(super) event: &'static str,
    pub(super) policy: Policy,
}

const fn rule(route: Route, event: &'static str, policy: Policy) -> Rule {
    Rule { route, event, policy }
}

use Policy::{Consent, Guarded, GuardedReload, GuardedUnlessBack, Open, Parts, Proofs};

/// Calls that only look are in no row, but for packages, which are shares.
static TABLE: [Rule; 25] = [
    rule(routes::INIT, "init", Guarded),
    rule(routes::UNLOCK_PARTS, "unlock-parts", Parts),
    rule(routes::UNLOCK_RESET, "unlock-reset", Open),
    rule(routes::UNLOCK_DEGRADED, "unlock-degraded", Open),
    rule(routes::PROVE_PARTS, "prove-parts", Proofs),
    rule(routes::SEAL, "seal", Open),
    rule(routes::REQUESTS, "request", Guarded),
    rule(routes::REQUEST_CONSENT, "consent", Consent),
    rule(routes::REQUEST_CANCEL, "request-cancel", Open),
    rule(routes::VERSION_PACKAGES, "packages", Guarded),
    rule(routes::VERSION_ACTIVATE, "activate", GuardedUnlessBack),
    rule(routes::VERSION_ABORT, "abort", Guarded),
    rule(routes::VERSION_RETIRE, "retire", Guarded),
    rule(routes::VERSION_RESTORE, "restore", Guarded),
    rule(routes::MEMBERS, "members", Guarded),
    rule(routes::REKEY_START, "rekey-start", Guarded),
    rule(routes::REKEY_PAUSE, "rekey-pause", Open),
    rule(routes::REKEY_RESUME, "rekey-resume", Guarded),
    rule(routes::REKEY_CANCEL, "rekey-cancel", Guarded),
    rule(routes::REKEY_LIMITS, "rekey-limits", Guarded),
    rule(routes::REKEY_QUARANTINE_RETRY, "quarantine-retry", Guarded),
    rule(routes::CENSUS_START, "census", Open),
    rule(routes::RELOAD, "reload", GuardedReload),
    rule(routes::MANIFEST_CONFIRM, "manifest-confirm", Guarded),
    rule(routes::MANIFEST_REPUBLISH, "manifest-republish", Guarded),
];

/// What is recorded of this route; nothing of one that only looks.
pub(super) fn of(route: &Route) -> Option<&'static Rule> {
    TABLE.iter().find(|rule| rule.route == *route)
}

#[cfg(test)]
mod tests {
    use keymoot_api::routes::{Listener, Method};

    use super::*;

    #[test]
    fn every_control_call_that_changes_anything_is_in_the_table() {
        for route in routes::ALL.iter().filter(|route| route.listener == Listener::Control) {
            let looks = match route.method {
                Method::Get => *route != routes::VERSION_PACKAGES,
                _ => *route == routes::REKEY_PLAN,
            };
            // Ending a doubt is not served yet.
            let later = route.path == "/v1/doubt/acknowledge";
            assert_eq!(of(route).is_none(), looks || later, "{route:?}");
        }
    }

    #[test]
    fn what_unlocks_or_seals_is_never_refused() {
        for route in [
            routes::UNLOCK_PARTS,
            routes::UNLOCK_RESET,
            routes::UNLOCK_DEGRADED,
            routes::PROVE_PARTS,
            routes::SEAL,
            // It also ends a maintenance window.
            routes::REQUEST_CANCEL,
        ] {
            assert!(matches!(of(&route).unwrap().policy, Open | Parts | Proofs), "{route:?}");
        }
    }
}
