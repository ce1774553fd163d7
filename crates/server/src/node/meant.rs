//! A command that says which keyring it is meant for.

use http::HeaderMap;
use keymoot_api::{Problem, routes::KEYRING_HEADER};
use keymoot_types::KeyringId;

use super::{Node, bad_request, conflict};

impl Node {
    /// Refuses a command for another keyring than this node's, before anything of it is done. One without the header is
    /// meant for whoever gets it.
    pub(crate) async fn is_meant(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(named) = headers.get(KEYRING_HEADER) else { return Ok(()) };
        let named: Option<KeyringId> = named.to_str().ok().and_then(|text| text.parse().ok());
        let Some(named) = named else {
            return Err(bad_request(format!(
                "the header {KEYRING_HEADER} is no keyring id, 16 hexadecimal digits"
            )));
        };
        let here = self.core.lock().await.target().map(|document| document.manifest().keyring_id);
        match here {
            Some(here) if here == named => Ok(()),
            Some(here) => Err(conflict(format!(
                "the command is meant for keyring {named} and node {} is of keyring {here}: nothing was done; correct the \
                 address, or the keyring id in the profile",
                self.name
            ))),
            None => Err(conflict(format!(
                "the command is meant for keyring {named} and node {} has no keyring yet: nothing was done; leave the keyring \
                 id out until the keyring is made",
                self.name
            ))),
        }
    }
}
