//! A keyring is made, unlocked by two, and put to use.

use anyhow::bail;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use keymoot_api::{
    data::{EncryptRequest, ITEMS_MAX},
    init::InitRequest,
    unlock::PartsAnswer,
};
use keymoot_client::{Client, Verdict};
use keymoot_types::{KeyVersion, NodeState};

use super::{
    clients::Clients,
    database::{Row, associated_data, plaintext},
    scene::{KEYRING, Scene, THRESHOLD},
    story::{Progress, Story},
};

/// Tokens in one request of the loading.
pub(crate) const BATCH: usize = 1_000;
const _: () = assert!(BATCH <= ITEMS_MAX);
/// Batches that are encrypted while one is stored.
const BATCHES_AHEAD: usize = 2;

impl Scene<'_> {
    /// The keyring is made, at v9; each holder gets a package that only they can open.
    pub(crate) async fn init(&mut self, story: &mut Story) -> anyhow::Result<()> {
        story.phase("init", "A keyring is made, at key version 9.");
        let request = InitRequest {
            keyring: KEYRING.parse()?,
            threshold: THRESHOLD,
            holders: self.holders.specs(),
            first_version: Some(self.v9),
        };
        let made = self.control.init(&request).await?;
        self.keyring_id = Some(made.keyring_id);
        self.holders.open(&made.packages)?;
        let holders = self.holders.all().len();
        story.say(format!(
            "Its root key was split into {holders} shares, any {THRESHOLD} of which rebuild it, and was wiped."
        ));
        story.say("Each share was encrypted to its holder's own age key; nobody else can open it, the operator included.");
        Ok(())
    }

    /// One holder is not enough, two are.
    pub(crate) async fn unlock(&mut self, story: &mut Story) -> anyhow::Result<()> {
        story.phase("unlock", "Two holders unlock the daemon.");
        let [first, second] = self.holders.pair(3, 17)?;
        let answer = self.control.unlock(&first.parts(&[self.v9])).await?;
        let have = progress(&answer, self.v9).0;
        story.say(format!(
            "{} gives a share of v9: {have} of {THRESHOLD}. The daemon is {}, and serves nobody yet.",
            first.name(),
            answer.state
        ));
        expect_state(&answer, NodeState::Unlocking)?;
        let answer = self.control.unlock(&second.parts(&[self.v9])).await?;
        expect_state(&answer, NodeState::Unlocked)?;
        story.say(format!(
            "{} gives another: v9 is rebuilt, its key check agrees, the daemon is {}.",
            second.name(),
            answer.state
        ));
        Ok(())
    }

    /// Tokens are encrypted in batches and stored; services begin to use them.
    pub(crate) async fn issue(&mut self, story: &mut Story, records: u32) -> anyhow::Result<()> {
        story.phase("issue", &format!("{records} tokens are issued, and stored in the users' own database."));
        let client = Client::new(&self.options)?;
        let mut progress = Progress::new(records.into(), "tokens stored");
        let starts = (1..=i64::from(records)).step_by(BATCH);
        let (client, key) = (&client, &self.key);
        let mut batches = stream::iter(starts)
            .map(|start| {
                let end = (start + BATCH as i64 - 1).min(records.into());
                async move {
                    let item = |id| EncryptRequest {
                        plaintext: plaintext(id),
                        associated_data: Some(associated_data(id)),
                        reference: None,
                    };
                    let answers = client.encrypt_many(key, (start..=end).map(item).collect()).await?;
                    let mut rows = Vec::with_capacity(answers.len());
                    for (id, answer) in (start..=end).zip(answers) {
                        match answer {
                            Verdict::Valid(made) => rows.push(Row { id, token: made.ciphertext }),
                            Verdict::Invalid(problem) => bail!("token {id} was not encrypted: {problem}"),
                            Verdict::Undetermined(trouble) => bail!("token {id} was not encrypted: {trouble}"),
                        }
                    }
                    Ok(rows)
                }
            })
            .buffered(BATCHES_AHEAD);
        let mut stored = 0;
        while let Some(rows) = batches.try_next().await? {
            self.database.insert(&rows)?;
            stored += rows.len() as u64;
            progress.at(stored, "");
        }
        drop(batches);
        drop(progress);
        self.records = stored;
        self.old_copy = self.database.page(0, 1)?.pop();
        if let Some(row) = &self.old_copy {
            let token: String = row.token.chars().take(56).collect();
            story.say(format!("The database holds values such as {token}…"));
        }
        self.clients =
            Some(Clients::start(&self.options, &self.key, self.v9, &self.database_path(), records.into())?);
        story.say(
            "From here on six services decrypt tokens and issue new ones the whole time, and check each answer.",
        );
        Ok(())
    }
}

/// Fails unless the node is as the story needs it.
pub(crate) fn expect_state(answer: &PartsAnswer, wanted: NodeState) -> anyhow::Result<()> {
    if answer.state != wanted {
        let refused: Vec<_> =
            answer.rejected.iter().map(|part| format!("{}: {}", part.name, part.detail)).collect();
        bail!("the daemon is {} and should be {wanted}; refused parts: {}", answer.state, refused.join("; "));
    }
    Ok(())
}

/// How many shares of a version there are, and whether it is validated.
pub(crate) fn progress(answer: &PartsAnswer, version: KeyVersion) -> (u8, bool) {
    let found = answer.versions.iter().find(|progress| progress.version == version);
    found.map_or((0, false), |progress| (progress.have, progress.validated))
}
