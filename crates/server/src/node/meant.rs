//! A request that says which keyring it is meant for.

use http::HeaderMap;
use keymoot_api::{Problem, routes::KEYRING_HEADER};
use keymoot_types::KeyringId;

use super::{Node, bad_request, conflict};

impl Node {
    /// See [`is_meant`]. Without the core's lock, as calls with shares are heard.
    pub(crate) fn is_meant(&self, headers: &HeaderMap) -> Result<(), Problem> {
        is_meant(headers, || self.core.target().map(|target| target.manifest().keyring_id))
    }
}

/// Refuses a request for another keyring than the one that is here, before anything of it is done. One without the header
/// is meant for whoever gets it.
pub(crate) fn is_meant(headers: &HeaderMap, here: impl FnOnce() -> Option<KeyringId>) -> Result<(), Problem> {
    let Some(named) = headers.get(KEYRING_HEADER) else { return Ok(()) };
    let named: Option<KeyringId> = named.to_str().ok().and_then(|text| text.parse().ok());
    let Some(named) = named else {
        return Err(bad_request(format!("the header {KEYRING_HEADER} is no keyring id, 16 hexadecimal digits")));
    };
    match here() {
        Some(here) if here == named => Ok(()),
        Some(here) => Err(conflict(format!(
            "the request is meant for keyring {named} and this node is of keyring {here}: nothing was done; correct the \
             address, or the keyring id in the profile"
        ))),
        None => Err(conflict(format!(
            "the request is meant for keyring {named} and this node knows of no keyring yet: nothing was done; `keymoot \
             status` says whether its store is away. Leave the keyring id out until the keyring is made"
        ))),
    }
}
