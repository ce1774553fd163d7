//! Services at work the whole time: they decrypt old and new tokens over TLS, replace old ones, issue new ones, and
//! check every answer against what they know.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::bail;
use keymoot_api::data::{DecryptAnswer, EncryptAnswer};
use keymoot_client::{Client, Options, Verdict};
use keymoot_types::{KeyName, KeyVersion};
use tokio::{
    task::{JoinSet, block_in_place},
    time::sleep,
};

use super::database::{Database, Row, associated_data, plaintext};

/// Services side by side, each with its own connections to the daemon and to the database.
const SERVICES: usize = 6;
/// A service does other things too; two processors are to be enough for all.
const PAUSE: Duration = Duration::from_millis(1);
/// Before a service asks again what could not be said.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// Every so many requests one is a new token.
const ISSUE_EVERY: u64 = 25;
/// Failures that are told in full.
const EXAMPLES_MAX: usize = 5;

/// What the services have seen so far.
#[derive(Default)]
pub(crate) struct Tally {
    /// Answers that were right.
    pub(crate) decrypted: AtomicU64,
    /// Of these, of the version before the primary.
    pub(crate) decrypted_old: AtomicU64,
    /// New tokens.
    pub(crate) issued: AtomicU64,
    /// Of these, of the version that was primary at first.
    pub(crate) issued_old: AtomicU64,
    /// Old tokens that a service replaced by what `rewrap` gave it.
    pub(crate) replaced: AtomicU64,
    /// Old tokens that somebody else (the worker) had replaced first.
    pub(crate) beaten: AtomicU64,
    /// Undetermined answers while the daemon was restarted on purpose: asked again, nobody logged out.
    pub(crate) asked_again: AtomicU64,
    /// Wrong plaintexts, values called invalid, and undetermined answers at any other time.
    pub(crate) failures: AtomicU64,
    slowest_us: AtomicU64,
    restarting: AtomicBool,
    stop: AtomicBool,
    next_id: AtomicI64,
    examples: Mutex<Vec<String>>,
}

impl Tally {
    /// Answers in all.
    pub(crate) fn served(&self) -> u64 {
        get(&self.decrypted) + get(&self.issued)
    }

    /// The slowest answer, without the restart.
    pub(crate) fn slowest_ms(&self) -> f64 {
        Duration::from_micros(get(&self.slowest_us)).as_secs_f64() * 1000.0
    }

    /// Some failures, in words.
    pub(crate) fn examples(&self) -> Vec<String> {
        self.examples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a failure.
    pub(crate) fn fail(&self, what: String) {
        add(&self.failures);
        let mut examples = self.examples.lock().unwrap_or_else(PoisonError::into_inner);
        if examples.len() < EXAMPLES_MAX {
            examples.push(what);
        }
    }

    /// From now on, or until now, the daemon is away on purpose.
    pub(crate) fn restarting(&self, now: bool) {
        self.restarting.store(now, Ordering::SeqCst);
    }
}

/// A counter's value.
pub(crate) fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The services. Dropped, they stop at once.
pub(crate) struct Clients {
    tasks: JoinSet<anyhow::Result<()>>,
    tally: Arc<Tally>,
}

impl Clients {
    /// Lets them begin on a table that has rows 1 to `rows`.
    pub(crate) fn start(
        options: &Options,
        key: &KeyName,
        first: KeyVersion,
        database: &Path,
        rows: i64,
    ) -> anyhow::Result<Self> {
        let tally = Arc::new(Tally { next_id: AtomicI64::new(rows + 1), ..Tally::default() });
        let mut tasks = JoinSet::new();
        for _ in 0..SERVICES {
            // Retries are the services' own here, so that each undetermined answer is seen and counted.
            let client = Client::new(&Options { retries_max: 0, ..options.clone() })?;
            let service = Service { client, key: key.clone(), first, tally: tally.clone() };
            tasks.spawn(service.work(database.to_owned()));
        }
        Ok(Self { tasks, tally })
    }

    /// What they have seen.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Lets each finish what it is at.
    pub(crate) async fn stop(mut self) -> anyhow::Result<Arc<Tally>> {
        self.tally.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(self.tally)
    }
}

struct Service {
    client: Client,
    key: KeyName,
    /// The version that is primary at first.
    first: KeyVersion,
    tally: Arc<Tally>,
}

impl Service {
    async fn work(self, path: PathBuf) -> anyhow::Result<()> {
        let mut database = Database::open(&path)?;
        let mut turn: u64 = 0;
        while !self.tally.stop.load(Ordering::SeqCst) {
            turn += 1;
            if turn.is_multiple_of(ISSUE_EVERY) {
                self.issue(&mut database).await?;
            } else {
                self.read_one(&mut database).await?;
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Makes a new token and stores it.
    async fn issue(&self, database: &mut Database) -> anyhow::Result<()> {
        let id = self.tally.next_id.fetch_add(1, Ordering::Relaxed);
        let asked = || self.client.encrypt(&self.key, plaintext(id), Some(associated_data(id)));
        let answer: Option<EncryptAnswer> = self.until_determined(id, asked).await?;
        if let Some(EncryptAnswer { ciphertext, version, .. }) = answer {
            block_in_place(|| database.insert(&[Row { id, token: ciphertext }]))?;
            add(&self.tally.issued);
            if version == self.first {
                add(&self.tally.issued_old);
            }
        }
        Ok(())
    }

    /// Reads some token from the database, opens it, and replaces it if it was of an old version.
    async fn read_one(&self, database: &mut Database) -> anyhow::Result<()> {
        let ids = self.tally.next_id.load(Ordering::Relaxed).unsigned_abs();
        let id = 1 + i64::try_from(random()? % ids.max(1)).unwrap_or_default();
        let Some(token) = block_in_place(|| database.token(id))? else { return Ok(()) };
        let asked = || self.client.decrypt_and_rewrap(&self.key, token.clone(), Some(associated_data(id)));
        let answer: Option<DecryptAnswer> = self.until_determined(id, asked).await?;
        let Some(DecryptAnswer { plaintext: opened, version, rewrapped, .. }) = answer else { return Ok(()) };
        if opened != plaintext(id) {
            self.tally.fail(format!("token {id}, of v{version}, opened to another plaintext"));
            return Ok(());
        }
        add(&self.tally.decrypted);
        if let Some(rewrapped) = rewrapped {
            add(&self.tally.decrypted_old);
            let first = block_in_place(|| database.replace(id, &token, &rewrapped))?;
            add(if first { &self.tally.replaced } else { &self.tally.beaten });
        }
        Ok(())
    }

    /// What a careful service does: *undetermined* is asked again, and only *invalid* is believed to be bad.
    async fn until_determined<T, F: Future<Output = Verdict<T>>>(
        &self,
        id: i64,
        asked: impl Fn() -> F,
    ) -> anyhow::Result<Option<T>> {
        loop {
            let before = self.tally.restarting.load(Ordering::SeqCst);
            let begun = Instant::now();
            let verdict = asked().await;
            let excused = before || self.tally.restarting.load(Ordering::SeqCst);
            if !excused {
                let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.tally.slowest_us.fetch_max(took_us, Ordering::Relaxed);
            }
            match verdict {
                Verdict::Valid(answer) => return Ok(Some(answer)),
                Verdict::Invalid(problem) => {
                    self.tally.fail(format!("token {id} was called invalid: {problem}"));
                    return Ok(None);
                }
                Verdict::Undetermined(_) if excused => add(&self.tally.asked_again),
                Verdict::Undetermined(trouble) => self.tally.fail(format!("token {id} got no answer: {trouble}")),
            }
            if self.tally.stop.load(Ordering::SeqCst) {
                return Ok(None);
            }
            sleep(ASK_AGAIN).await;
        }
    }
}

fn random() -> anyhow::Result<u64> {
    match getrandom::u64() {
        Ok(number) => Ok(number),
        Err(error) => bail!("the kernel gives no randomness: {error}"),
    }
}

/// The version that a token names, by its form alone.
pub(crate) fn version_of(token: &str) -> Option<KeyVersion> {
    token.strip_prefix("km:v")?.split(':').next()?.parse().ok()
}
