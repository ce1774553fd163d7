//! Old values are re-encrypted under load, counted, the old version is retired, and everything is checked.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use keymoot_api::{
    census::CensusRequest,
    data::DecryptRequest,
    rekey::{Job, JobState, RekeyRequest},
    rotate::RetireRequest,
};
use keymoot_client::{Client, ControlError, Trouble, Verdict};
use keymoot_types::{ErrorCode, VersionState};

use super::{
    beginning::BATCH,
    clients::{get, version_of},
    database::{associated_data, plaintext},
    report::{Report, VersionCount},
    scene::{Scene, THRESHOLD},
    story::{Progress, Story},
};

const LOOK_INTERVAL: Duration = Duration::from_millis(150);
/// Ten million rows take minutes; what makes no step in this time hangs.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);

impl Scene<'_> {
    /// The worker walks the table while services go on.
    pub(crate) async fn rekey(&mut self, story: &mut Story) -> anyhow::Result<()> {
        story.phase("rekey", "A worker re-encrypts every old value where it lies, while the services go on.");
        story.say("Each value is read, opened, encrypted with v10, opened again, and written only if it is still the one");
        story.say("that was read. A service that was faster keeps its own.");
        let id = self.control.rekey_start(&RekeyRequest::default()).await?.id;
        let mut progress = Progress::new(self.database.count()?, "rows seen");
        let (mut seen, mut moved) = (0, Instant::now());
        let job = loop {
            let job = self.control.rekey_job(&id).await?;
            let [scanned, rekeyed, _] = sums(&job);
            let served = self.clients()?.tally().served();
            progress.at(scanned, &format!(", {rekeyed} rekeyed, {served} requests served"));
            if job.state.ended() {
                break job;
            }
            if scanned != seen {
                (seen, moved) = (scanned, Instant::now());
            }
            if moved.elapsed() > STALL_TIMEOUT {
                bail!(
                    "the job makes no progress: {} {}",
                    job.state,
                    job.reason.or(job.throttled).unwrap_or_default()
                );
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        };
        drop(progress);
        let [scanned, rekeyed, conflicts] = sums(&job);
        (self.replaced_by_worker, self.conflicts) = (rekeyed, conflicts);
        if job.state != JobState::Completed {
            bail!("the job ended as {}: {}", job.state, job.reason.unwrap_or_default());
        }
        let tally = self.clients()?.tally();
        story.say(format!(
            "{scanned} rows seen, {rekeyed} re-encrypted by the worker, {} replaced by services with what `rewrap` gave them.",
            get(&tally.replaced)
        ));
        Ok(())
    }

    /// Everything is counted.
    pub(crate) async fn census(&mut self, story: &mut Story) -> anyhow::Result<()> {
        story.phase("census", "Every row is counted.");
        self.control.census_start(&CensusRequest::default()).await?;
        let begun = Instant::now();
        let census = loop {
            let census = self.control.census().await?;
            if !census.running && !census.sources.is_empty() {
                break census;
            }
            if begun.elapsed() > STALL_TIMEOUT {
                bail!("the census does not end");
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        };
        for source in &census.sources {
            let versions: Vec<_> =
                source.versions.iter().map(|found| format!("{} of v{}", found.count, found.version)).collect();
            story.say(format!(
                "{}: {} rows; {}; {} unreadable, {} of no known form.",
                source.name,
                source.rows,
                versions.join(", "),
                source.unreadable,
                source.foreign
            ));
        }
        Ok(())
    }

    /// v9 goes, but only with evidence.
    pub(crate) async fn retire(&mut self, story: &mut Story) -> anyhow::Result<()> {
        story.phase("retire", "v9 is to go. The daemon refuses until it has evidence that nothing needs it.");
        let begun = Instant::now();
        let mut told = BTreeSet::new();
        let answer = loop {
            match self.control.retire(self.v9, &RetireRequest::default()).await {
                Ok(answer) => break answer,
                Err(ControlError::Problem(problem)) if problem.code == ErrorCode::GateRefused => {
                    for missing in problem.missing.as_deref().unwrap_or_default() {
                        if told.insert(missing.code.clone()) {
                            story.say(format!("refused, {}: {}", missing.code, missing.detail));
                        }
                    }
                    if begun.elapsed() > STALL_TIMEOUT {
                        bail!("the gate stays shut: {problem}");
                    }
                }
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        };
        if answer.state != VersionState::Retired {
            bail!("v9 is {} after it was retired", answer.state);
        }
        let certificate = answer.certificate.context("there is no certificate of the retirement")?;
        fs::write(self.place.path("certificate-v9.json"), serde_json::to_vec_pretty(&certificate)?)?;
        story.say("v9 is wiped. A certificate, signed by v10, says what was counted, and what was not looked at.");
        self.ask_for_an_old_copy(story).await
    }

    /// A copy of an old token turns up again, as from a backup: no reason to log anybody out.
    async fn ask_for_an_old_copy(&self, story: &Story) -> anyhow::Result<()> {
        let Some(copy) = &self.old_copy else { return Ok(()) };
        let client = Client::new(&self.options)?;
        match client.decrypt(&self.key, copy.token.clone(), Some(associated_data(copy.id))).await {
            Verdict::Undetermined(Trouble::Problem(problem))
                if problem.code == ErrorCode::KeyVersionUnavailable =>
            {
                story.say(format!("An old copy of a token is sent: {} undetermined, not \"invalid\". Holders can restore v9 for 90 days.", problem.status));
                Ok(())
            }
            other => bail!("a copy of an old token was answered with {other:?}"),
        }
    }

    /// Everything is opened and counted once more, by what anybody can see.
    pub(crate) async fn check(mut self, mut story: Story) -> anyhow::Result<Report> {
        story.phase("check", "The services stop, and every row is opened and compared with what it was.");
        let tally = self.clients.take().context("the services have not begun")?.stop().await?;
        let client = Client::new(&self.options)?;
        let rows = self.database.count()?;
        let mut progress = Progress::new(rows, "rows opened");
        let (mut after, mut opened, mut versions) = (0, 0_u64, BTreeSet::from([self.v9, self.v10]));
        loop {
            let page = self.database.page(after, BATCH)?;
            let Some(last) = page.last() else { break };
            after = last.id;
            let items = page.iter().map(|row| DecryptRequest {
                ciphertext: row.token.clone(),
                associated_data: Some(associated_data(row.id)),
                rewrap: false,
                reference: None,
            });
            let answers = client.decrypt_many(&self.key, items.collect()).await?;
            for (row, answer) in page.iter().zip(answers) {
                versions.extend(version_of(&row.token));
                match answer {
                    Verdict::Valid(answer) if answer.plaintext == plaintext(row.id) => opened += 1,
                    Verdict::Valid(_) => {
                        tally.fail(format!("token {} opened to another plaintext at the end", row.id))
                    }
                    Verdict::Invalid(problem) => {
                        tally.fail(format!("token {} was called invalid at the end: {problem}", row.id))
                    }
                    Verdict::Undetermined(trouble) => {
                        tally.fail(format!("token {} got no answer at the end: {trouble}", row.id))
                    }
                }
            }
            progress.at(opened, "");
        }
        drop(progress);
        let values_by_version = versions
            .into_iter()
            .map(|version| Ok(VersionCount { version, count: self.database.count_of(version)? }))
            .collect::<anyhow::Result<Vec<_>>>()?;
        story.say(format!(
            "{opened} of {rows} opened. SELECT count(*) FROM tokens WHERE token LIKE 'km:v9:%' says {}.",
            self.database.count_of(self.v9)?
        ));
        let daemon = self.daemon.take().context("the daemon is not running")?;
        daemon.stop().await?;
        self.database.finish()?;
        let (seconds_by_phase, seconds) = story.end();
        let left = values_by_version.iter().find(|found| found.version == self.v9).map_or(0, |found| found.count);
        let failures = get(&tally.failures);
        Ok(Report {
            succeeded: failures == 0 && left == 0 && opened == rows,
            keyring_id: self.keyring_id.context("the keyring has no id")?,
            holders: self.holders.all().len(),
            threshold: THRESHOLD,
            records: self.records,
            rows,
            rows_opened: opened,
            requests_served: tally.served(),
            failures,
            failure_examples: tally.examples(),
            tokens_decrypted: get(&tally.decrypted),
            tokens_issued: get(&tally.issued),
            old_values: self.records + get(&tally.issued_old),
            replaced_by_services: get(&tally.replaced),
            replaced_by_worker: self.replaced_by_worker,
            conflicts: self.conflicts,
            asked_again_during_restart: get(&tally.asked_again),
            slowest_answer_ms: tally.slowest_ms(),
            values_by_version,
            seconds_by_phase,
            seconds,
            directory: self.place.stays().then(|| self.place.dir().to_owned()),
        })
    }
}

/// Scanned, rekeyed, conflicts.
fn sums(job: &Job) -> [u64; 3] {
    [
        job.sources.iter().map(|source| source.scanned).sum(),
        job.sources.iter().map(|source| source.rekeyed).sum(),
        job.sources.iter().map(|source| source.conflicts).sum(),
    ]
}
