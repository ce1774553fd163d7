//! Asking many nodes at once: each is proved before a share leaves this machine, and each has its own time.

use std::time::Duration;

use anyhow::Context as _;
use futures::future::join_all;
use keymoot_api::{
    Problem,
    status::{ManifestOrigin, StatusAnswer},
    unlock::{Parts, PartsRequest, RejectedPart},
};
use keymoot_client::{Control, ControlError, TransportError};
use keymoot_types::{ErrorCode, KeyringId, RefusalCode, Share, part::PartName};

use crate::{exit::Exit, profile::Connection};

/// The longest that one node is waited for, all that it is asked included.
const PER_NODE: Duration = Duration::from_secs(30);

/// One node's address and the way to it.
pub(crate) struct Node {
    /// As it was named.
    pub(crate) addr: String,
    control: Control,
}

/// A node's address and what came of asking it.
pub(crate) type Outcome<T> = (String, anyhow::Result<T>);

/// Prepares every node before the first is asked: an address that can't be used is found while nothing has happened.
pub(crate) fn nodes(connection: &Connection, named: &[String]) -> anyhow::Result<Vec<Node>> {
    let prepare = |addr: String| -> anyhow::Result<Node> {
        let control = connection.control_of(&addr)?;
        Ok(Node { addr, control })
    };
    connection.nodes(named).into_iter().map(prepare).collect()
}

/// Asks all nodes at the same time; the answers stand in the order of the nodes.
pub(crate) async fn each<T>(
    nodes: Vec<Node>,
    ask: impl AsyncFn(&Control) -> anyhow::Result<T>,
) -> Vec<Outcome<T>> {
    join_all(nodes.into_iter().map(|node| bounded(node, &ask))).await
}

/// Asks one node after the other until one can say something, and tells which could not.
pub(crate) async fn any<T>(
    nodes: Vec<Node>,
    ask: impl AsyncFn(&Control) -> anyhow::Result<T>,
    mut skipped: impl FnMut(&str, &anyhow::Error),
) -> anyhow::Result<(String, T)> {
    let mut last: Option<(String, anyhow::Error)> = None;
    for node in nodes {
        if let Some((addr, error)) = last.take() {
            skipped(&addr, &error);
        }
        match bounded(node, &ask).await {
            (addr, Ok(answer)) => return Ok((addr, answer)),
            (addr, Err(error)) if Exit::of_error(&error) == Exit::TryAgain => last = Some((addr, error)),
            (addr, Err(error)) => return Err(error.context(addr)),
        }
    }
    match last {
        Some((addr, error)) => Err(error.context(addr)),
        None => Err(crate::exit::wrong_usage("no node is named")),
    }
}

async fn bounded<T>(node: Node, ask: &impl AsyncFn(&Control) -> anyhow::Result<T>) -> Outcome<T> {
    let Node { addr, control } = node;
    let answer = tokio::time::timeout(PER_NODE, ask(&control)).await;
    let answer = answer
        .unwrap_or_else(|_| Err(ControlError::Transport(TransportError::Timeout { addr: addr.clone() }).into()));
    (addr, answer)
}

/// The first question to a node that is to get shares. It is asked over a connection whose certificate was verified,
/// and its answer says which keyring the node serves: only then is a share put into a request.
pub(crate) async fn proved(control: &Control) -> anyhow::Result<(StatusAnswer, KeyringId)> {
    let status = control.status().await.context("before any share was sent")?;
    let Some(keyring_id) = status.keyring_id else {
        let code = match status.manifest {
            ManifestOrigin::Store => ErrorCode::Conflict,
            ManifestOrigin::LastGood => ErrorCode::StoreUnavailable,
        };
        let why = format!("{} knows of no keyring, so it got no share: {}", status.node, status.needs.join("; "));
        return Err(Problem::new(code, why).into());
    };
    Ok((status, keyring_id))
}

/// The parts that this keyring may see, and those of another one, which stay at home. A text that can't be read as a
/// share goes out: the node says what is wrong with it.
pub(crate) fn parts_for(keyring_id: KeyringId, request: &PartsRequest) -> (PartsRequest, Vec<RejectedPart>) {
    let (mut given, mut withheld) = (Vec::new(), Vec::new());
    for (name, text) in &request.parts.0 {
        match Share::parse(text) {
            Ok(share) if share.keyring_id() != keyring_id => withheld.push(RejectedPart {
                name: name.parse::<PartName>().map_or_else(|_| "(a part)".into(), |name| name.to_string()),
                code: RefusalCode::WrongKeyring,
                detail: format!(
                    "it is of keyring {}, and this node serves {keyring_id}; it was not sent",
                    share.keyring_id()
                ),
                version: Some(share.version()),
                holder: None,
            }),
            _ => given.push((name.clone(), text.clone())),
        }
    }
    (PartsRequest { parts: Parts(given) }, withheld)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU8;

    use keymoot_types::KeyVersion;
    use zeroize::Zeroizing;

    use super::*;

    #[test]
    fn a_share_of_another_keyring_stays_at_home() {
        let of = |id: u8| {
            let share = Share::new(KeyringId::new([id; 8]), KeyVersion::MIN, NonZeroU8::MIN, Box::new([7; 32]));
            share.to_text()
        };
        let request = PartsRequest {
            parts: Parts(vec![
                ("prod-keyPart-v1".into(), of(1)),
                ("test-keyPart-v1".into(), of(2)),
                ("prod-keyPart-v3".into(), Zeroizing::new("kmshare1typo".into())),
            ]),
        };
        let (given, withheld) = parts_for(KeyringId::new([1; 8]), &request);
        let names: Vec<_> = given.parts.0.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["prod-keyPart-v1", "prod-keyPart-v3"]);
        assert_eq!((withheld[0].name.as_str(), withheld[0].code), ("test-keyPart-v1", RefusalCode::WrongKeyring));
    }
}
