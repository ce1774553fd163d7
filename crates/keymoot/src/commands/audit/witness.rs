//! What is known from elsewhere, held against the lines.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keymoot_types::{
    NodeName,
    audit::{Flaw, Line, SignedHead},
};

/// What is known from elsewhere, and what it vouches for.
pub(super) struct Witness<'a> {
    /// Keys that may have signed; none: any may.
    pub(super) pinned: &'a [[u8; 32]],
    /// A head that was kept elsewhere.
    pub(super) signed: Option<SignedHead>,
    /// Its number, once its line was found and is the same.
    pub(super) compared: Option<u64>,
    /// The newest checkpoint whose signature is right.
    pub(super) vouched: Option<SignedHead>,
    /// Whose log it is.
    pub(super) node: Option<NodeName>,
}

impl Witness<'_> {
    /// What is wrong with a line that the chain is content with.
    pub(super) fn judge(&mut self, line: &Line) -> Result<(), Flaw> {
        if let Some(signed) = &self.signed
            && signed.head.seq == line.seq()
        {
            let head = &signed.head;
            if head.hash != line.hash() {
                return Err(Flaw::Refused(format!(
                    "seq {} has another hash than the one that was signed",
                    head.seq
                )));
            }
            if head.node != *line.node() {
                return Err(Flaw::Refused(format!(
                    "it is {}'s, and the head of {} is given",
                    line.node(),
                    head.node
                )));
            }
            self.compared = Some(head.seq);
        }
        if let Some(Ok(checkpoint)) = line.checkpoint() {
            self.check(&checkpoint).map_err(|reason| Flaw::Refused(format!("the checkpoint: {reason}")))?;
            self.vouched = Some(checkpoint);
        }
        self.node = Some(line.node().clone());
        Ok(())
    }

    /// Whether a signature is right, and by a key that may sign.
    pub(super) fn check(&self, signed: &SignedHead) -> Result<(), String> {
        let SignedHead { head, version, public_key, signature } = signed;
        if !self.pinned.is_empty() && !self.pinned.contains(public_key) {
            let key = STANDARD.encode(public_key);
            return Err(format!("v{version} signed it with a key that is not pinned: {key}"));
        }
        let canonical = head.canonical().map_err(|error| error.to_string())?;
        if keymoot_keyring::verify_signature(public_key, &canonical, signature) {
            Ok(())
        } else {
            Err(format!("the signature of v{version} is wrong: another key signed it, or it was changed"))
        }
    }
}
