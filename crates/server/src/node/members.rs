//! `members`: who belongs to the cluster. A gate waits for every member, so none goes out unless an operator declares
//! it destroyed, by name.

use keymoot_api::{
    Problem,
    upkeep::{MembersAnswer, MembersRequest},
};
use keymoot_quorum::revise;

use super::{Core, Node, bad_request, conflict};

impl Node {
    /// `POST members`.
    pub(crate) async fn change_members(&self, request: MembersRequest) -> Result<MembersAnswer, Problem> {
        let mut core = self.core.lock().await;
        core.primary()?;
        self.follow(&mut core).await;
        Self::gates_open(&core)?;
        let mut next = revise::next(core.manifest()?);
        match request {
            MembersRequest::Add(node) if next.members.contains(&node) => return Ok(members(&core)),
            MembersRequest::Add(node) => {
                next.members.push(node.clone());
                self.publish(&mut core, next, &[]).await?;
                tracing::info!(%node, "member added: from now on the gates wait for it");
            }
            MembersRequest::Destroyed(node) if node == self.name => {
                return Err(bad_request(format!("{node} is the node that answers, so it is not destroyed")));
            }
            MembersRequest::Destroyed(node) if !next.members.contains(&node) => return Ok(members(&core)),
            MembersRequest::Destroyed(node) => {
                if !self.is_silent(&node) {
                    return Err(conflict(format!(
                        "it is not known that {node} is silent: stop it, and ask again in a quarter of a minute"
                    )));
                }
                next.members.retain(|member| *member != node);
                self.publish(&mut core, next, &[]).await?;
                tracing::warn!(%node, "member declared destroyed: no gate waits for it any longer");
            }
        }
        Ok(members(&core))
    }
}

fn members(core: &Core) -> MembersAnswer {
    let members = core.manifest().map(|document| document.manifest().members.clone());
    MembersAnswer { members: members.unwrap_or_default() }
}
