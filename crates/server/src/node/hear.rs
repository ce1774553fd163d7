//! Every call that brings shares is heard first: without the core's lock and without a store it is said whether
//! there is a right one among them. What is let in is judged again under the lock.

use std::net::{IpAddr, Ipv6Addr};

use keymoot_api::{Problem, unlock::Parts};
use keymoot_quorum::judge::{Purpose, judge};

use super::Node;

impl Node {
    /// Counts the wrong parts against their address's allowance. A call with a right share in it is always let in;
    /// of the others it is said when they are too many. The answer is whether there is allowance left for the log.
    pub(crate) fn hear(&self, from: Option<IpAddr>, parts: &Parts) -> Result<bool, Problem> {
        let target = self.core.target();
        let right = |name: &str, text: &str| {
            target.as_ref().is_some_and(|target| {
                let judged = judge(target.manifest(), Purpose::Prove, name, text);
                judged.inspect_err(|refusal| self.note_seen_in_share(target.manifest(), refusal)).is_ok()
            })
        };
        let wrong = parts.0.iter().filter(|(name, text)| !right(name, text)).count();
        match self.refused_parts.count(from.unwrap_or(Ipv6Addr::UNSPECIFIED.into()), wrong) {
            Ok(()) => Ok(true),
            Err(_) if wrong < parts.0.len() => Ok(false),
            Err(problem) => Err(problem),
        }
    }
}
