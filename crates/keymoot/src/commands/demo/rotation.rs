//! v10 is made with the holders' consent, proved by all, loaded beside v9, and made primary.

use anyhow::{Context as _, bail};
use keymoot_api::rotate::{ActivateRequest, ConsentRequest, ConsentState, RequestBody, StageRequest};
use keymoot_types::{NodeState, VersionState};

use super::{
    beginning::{expect_state, progress},
    clients::get,
    scene::{self, Scene, THRESHOLD},
    story::Story,
};

impl Scene<'_> {
    /// An operator asks, two holders consent, and v10 is made.
    pub(crate) async fn stage(&mut self, story: &mut Story) -> anyhow::Result<()> {
        story.phase("stage", "An operator asks for a new key version. No operator can make one alone.");
        let asked = self.control.request(&RequestBody::Stage(StageRequest::default())).await?;
        let seen = self.control.request_detail(&asked.id).await?;
        if seen.digest != asked.digest {
            bail!("the request that holders see is not the one that was made");
        }
        story.say(format!(
            "The request names what is to be done, for whom ({} holders), and has the digest {}…",
            seen.holders.len(),
            short(&asked.digest)
        ));
        let mut state = None;
        for holder in self.holders.pair(5, 11)? {
            let consent = ConsentRequest { digest: seen.digest, parts: holder.parts(&[self.v9]).parts };
            let answer = self.control.consent(&asked.id, &consent).await?;
            if !answer.rejected.is_empty() {
                bail!("the consent of {} was refused", holder.name());
            }
            story.say(format!(
                "{} looks at it and consents with their share: {} of {}.",
                holder.name(),
                answer.have,
                answer.needed
            ));
            state = Some((answer.state, answer.version));
        }
        if state != Some((ConsentState::Version(VersionState::Staged), Some(self.v10))) {
            bail!("two consents did not make v10");
        }
        let made = self.control.packages(self.v10).await?;
        self.holders.open(&made.packages)?;
        story.say(format!(
            "v10 was made, split, encrypted to {} holders and wiped. It is staged: it does nothing yet.",
            made.packages.len()
        ));
        Ok(())
    }

    /// Every holder shows that they have their share.
    pub(crate) async fn prove(&mut self, story: &mut Story) -> anyhow::Result<()> {
        story.phase("prove", "Every holder proves that they have their share of v10.");
        for holder in self.holders.all() {
            let answer = self.control.prove(&holder.parts(&[self.v10])).await?;
            if answer.accepted.len() != 1 {
                bail!("the proof of {} was refused", holder.name());
            }
        }
        let versions = self.control.versions().await?;
        let v10 =
            versions.versions.iter().find(|version| version.version == self.v10).context("v10 is not listed")?;
        let proved = v10.holders.iter().filter(|holder| holder.proved_at.is_some()).count();
        story.say(format!(
            "{proved} of {} have. Nobody finds out on the day of an outage that a share was lost.",
            v10.holders.len()
        ));
        Ok(())
    }

    /// v10 is loaded while v9 serves.
    pub(crate) async fn load(&mut self, story: &mut Story) -> anyhow::Result<()> {
        story.phase("load", "Two holders submit both versions, v10 first, while the daemon serves.");
        for holder in self.holders.pair(0, 23)? {
            let answer = self.control.unlock(&holder.parts(&[self.v10, self.v9])).await?;
            let (have, validated) = progress(&answer, self.v10);
            expect_state(&answer, NodeState::Unlocked)?;
            let after = if validated { ", and v10 is loaded beside v9" } else { "" };
            story.say(format!("{}: v10 {have} of {THRESHOLD}{after}; v9 is in use already.", holder.name()));
        }
        Ok(())
    }

    /// The same after a restart, where nothing is loaded: the order in which the versions come makes no difference.
    pub(crate) async fn restart(&mut self, story: &mut Story) -> anyhow::Result<()> {
        story.phase("restart", "The daemon is stopped and started again: it has forgotten every key.");
        let tally = self.clients()?.tally();
        tally.restarting(true);
        self.daemon.take().context("the daemon is not running")?.stop().await?;
        self.daemon = Some(scene::start(self.place).await?);
        story.say("Two holders submit one JSON map each, {\"demo-keyPart-v10\": …, \"demo-keyPart-v9\": …}. At a company in");
        story.say("2023 a map in this order lost the second key, and everybody was logged out.");
        for (holder, wanted) in
            self.holders.pair(8, 20)?.into_iter().zip([NodeState::Unlocking, NodeState::Unlocked])
        {
            let answer = self.control.unlock(&holder.parts(&[self.v10, self.v9])).await?;
            expect_state(&answer, wanted)?;
            let [(v10, _), (v9, _)] = [self.v10, self.v9].map(|version| progress(&answer, version));
            story.say(format!(
                "{}: v10 {v10} of {THRESHOLD}, v9 {v9} of {THRESHOLD}: the daemon is {}.",
                holder.name(),
                answer.state
            ));
            if wanted == NodeState::Unlocked && !progress(&answer, self.v10).1 {
                bail!("v10 is not loaded after the restart");
            }
        }
        let tally = self.clients()?.tally();
        tally.restarting(false);
        story.say(format!(
            "Meanwhile the services were told \"undetermined\" {} times, never \"invalid\": they asked again, and logged nobody out.",
            get(&tally.asked_again)
        ));
        Ok(())
    }

    /// v10 becomes primary.
    pub(crate) async fn activate(&mut self, story: &mut Story) -> anyhow::Result<()> {
        story.phase("activate", "v10 is made primary: new tokens are v10 from now on, old ones still open.");
        let answer = self.control.activate(self.v10, &ActivateRequest::default()).await?;
        if answer.primary != self.v10 {
            bail!("v{} is primary after v10 was activated", answer.primary);
        }
        story.say(
            "The gate was open: loaded and proved, its canaries decrypt, and real values of the database open.",
        );
        Ok(())
    }
}

fn short(digest: &keymoot_types::Digest) -> String {
    digest.to_string().chars().take(16).collect()
}
