//! `keymoot demo`
//!
//! # Layout
//!
//! [`scene`] is what the demo has: a [`place`], a [`daemon`] in it, [`holders`] with their shares, the users'
//! [`database`], and [`clients`] at work. Its steps are in [`beginning`], [`rotation`] and [`ending`], in the order in
//! which they happen, told by a [`story`]; [`report`] is what it ends with.

mod beginning;
mod clients;
pub(crate) mod daemon;
mod database;
mod ending;
mod holders;
pub(crate) mod place;
mod report;
mod rotation;
mod scene;
mod story;

use std::path::PathBuf;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use self::{place::Place, report::Report, scene::Scene, story::Story};
use crate::{
    cli::Context,
    exit::Exit,
    output::{note, printable},
};

/// Play the whole story on this machine with a real daemon: a key is rotated under load, and the old one retired
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A daemon is started over TLS on free loopback ports, with 24 keyholders of whom 2 are needed. Tokens are encrypted \
with v9 and stored in an SQLite database; v10 is made, proved and activated; every token is re-encrypted while \
services go on using them; v9 is retired. Everything is removed at the end, unless --dir says where it stays.

Examples:
  keymoot demo
  keymoot demo --records 5000 --dir /tmp/keymoot-demo
  keymoot demo --output json > report.json")]
pub(crate) struct Args {
    /// Tokens in the users' database
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    records: u32,
    /// New or empty directory that keeps database (app.db), configuration and logs [default: a temporary one, removed]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Plays it. Exit code 1 if one request failed or one value of v9 was left.
pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build()?;
    // The future stays on this thread: the daemon is tied to the life of the thread that starts it.
    runtime.block_on(play(context, args))
}

async fn play(context: &Context, args: &Args) -> anyhow::Result<Exit> {
    let place = match &args.dir {
        Some(dir) => Place::named(dir)?,
        None => Place::temporary("demo")?,
    };
    let mut stopped = Stopped::new()?;
    let played = tokio::select! {
        played = acts(&place, args.records) => Some(played),
        () = stopped.wait() => None,
    };
    let exit = match played {
        Some(Ok(report)) => {
            note("");
            context
                .out
                .result(&report, Report::text)
                .map(|()| if report.succeeded { Exit::Done } else { Exit::Failed })
        }
        Some(Err(error)) => {
            let complaints = daemon::complaints(&place.path(scene::LOG));
            for line in complaints.lines() {
                note(format!("the daemon's log: {}", printable(line)));
            }
            Err(error)
        }
        None => {
            note("\nstopped");
            Ok(Exit::Failed)
        }
    };
    place.remove().await;
    exit
}

async fn acts(place: &Place, records: u32) -> anyhow::Result<Report> {
    let mut story = Story::new();
    note(format!(
        "This plays a key rotation as it happens in production, in {}. Everything is real: the daemon, TLS, the\n\
         database. Only waits that protect against haste (a day, ten minutes) are set to seconds.",
        place.dir().display()
    ));
    let mut scene = Scene::open(place, &mut story).await?;
    scene.init(&mut story).await?;
    scene.unlock(&mut story).await?;
    scene.issue(&mut story, records).await?;
    scene.stage(&mut story).await?;
    scene.prove(&mut story).await?;
    scene.load(&mut story).await?;
    scene.restart(&mut story).await?;
    scene.activate(&mut story).await?;
    scene.rekey(&mut story).await?;
    scene.census(&mut story).await?;
    scene.retire(&mut story).await?;
    scene.check(story).await
}

/// Ctrl-C, or being told to end.
pub(crate) struct Stopped {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stopped {
    /// From now on these signals no longer end the process by themselves.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits for one of them.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
