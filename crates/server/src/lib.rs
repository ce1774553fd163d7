//! The daemon: two listeners on two runtimes, the work on columns on a third, and the node behind them.
//!
//! # Layout
//!
//! [`config`] is read → [`telemetry`] begins → [`memory`] is locked → [`listen`] binds both listeners → [`http`] is
//! what every request passes → [`handlers`] turn requests into ceremonies of the [`node`], or, for services, into
//! questions to the [`serving`] snapshot, which needs neither a lock nor a store. `peer` is between members; files are
//! written through [`durable`].

mod audit;
pub mod config;
pub mod durable;
pub mod handlers;
pub mod http;
pub mod listen;
pub mod memory;
pub mod node;
pub mod occupied;
mod peer;
pub mod serving;
pub mod sightings;
pub mod telemetry;

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use keymoot_storage::open::{OpenError, open_metadata};
use tokio::{
    runtime::{Builder, Handle},
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use self::{
    config::{Config, Report},
    handlers::{
        control::{self, ControlState},
        data::{self, DataState},
    },
    http::{
        auth::Access,
        fault::{self, Fault},
        layers,
    },
    listen::{Bound, Limits, Tls, TlsError},
    memory::MemoryError,
    node::Node,
    occupied::{Occupied, OccupiedError},
    serving::{LastUse, Serving},
    telemetry::{Foreground, Metrics},
};

/// How long background work gets to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Of the threads that read and write columns: on a scale from 0, which those of requests have, to 19.
const COLUMNS_NICENESS: i32 = 10;

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration has mistakes; all of them.
    #[error("{0}")]
    Config(Report),
    /// The metadata store's address is not one that this build knows.
    #[error(transparent)]
    Metadata(#[from] OpenError),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address is taken, or not this machine's.
    #[error("the {name} listener can't use {address}: {error}")]
    Bind {
        /// Which listener.
        name: &'static str,
        /// Its address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// Core dumps can't be forbidden, or pages not locked and the configuration insists on it.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Another daemon has the data directory.
    #[error(transparent)]
    Occupied(#[from] OccupiedError),
    /// The system gave no threads or signals.
    #[error("the daemon could not start: {0}")]
    System(#[from] io::Error),
    /// Metrics were installed twice.
    #[error("metrics could not be set up: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
}

impl StartError {
    /// 2 for a wrong configuration, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Metadata(_) | Self::Tls(_) => 2,
            Self::Bind { .. } | Self::Memory(_) | Self::Occupied(_) | Self::System(_) | Self::Metrics(_) => 1,
        }
    }
}

/// Runs the daemon until it is told to stop. Blocks.
///
/// # Errors
/// Whatever keeps it from starting. Once it listens it ends only by a signal.
pub fn run(config_file: &Path) -> Result<(), StartError> {
    run_with(config_file, None)
}

/// The same, in trouble if so wanted: what `keymoot dev` shows, and no configuration can ask for.
///
/// # Errors
/// As [`run`].
pub fn run_with(config_file: &Path, fault: Option<Fault>) -> Result<(), StartError> {
    telemetry::init_logs();
    let config = Config::load(config_file).map_err(StartError::Config)?;
    memory::protect(config.memory.require_lock)?;
    listen::raise_descriptors();
    let metrics = Metrics::install()?;
    // Services get all cores, people two threads that no service can fill, and columns what is left.
    let data_runtime = runtime("data").build()?;
    let control_runtime = runtime("control").worker_threads(2).build()?;
    let columns_runtime = runtime("columns").on_thread_start(give_way).build()?;
    let runtimes = Runtimes { data: data_runtime.handle(), columns: columns_runtime.handle() };
    let outcome = control_runtime.block_on(serve(config_file, config, metrics, runtimes, fault));
    columns_runtime.shutdown_timeout(STOP_TIMEOUT);
    data_runtime.shutdown_timeout(STOP_TIMEOUT);
    control_runtime.shutdown_timeout(STOP_TIMEOUT);
    outcome
}

fn runtime(name: &'static str) -> Builder {
    let mut builder = Builder::new_multi_thread();
    builder.enable_all().thread_name(name);
    builder
}

/// The calling thread gets what processor time others leave, or a tenth where they leave none.
fn give_way() {
    if let Err(error) = rustix::process::setpriority_process(None, COLUMNS_NICENESS) {
        tracing::warn!(%error, "work on columns competes with requests for the processors");
    }
}

/// Where tasks run, beside the control runtime.
#[derive(Clone, Copy)]
struct Runtimes<'r> {
    data: &'r Handle,
    columns: &'r Handle,
}

async fn serve(
    config_file: &Path,
    config: Config,
    metrics: Metrics,
    runtimes: Runtimes<'_>,
    fault: Option<Fault>,
) -> Result<(), StartError> {
    let metadata = open_metadata(&config.metadata_url)?;
    let tls = Tls::load(&config)?;
    let _occupied = match Occupied::take(&config.data_dir) {
        Err(error @ OccupiedError::InUse(_)) => return Err(error.into()),
        // A directory in which nothing can be written keeps no node from serving.
        taken => taken.inspect_err(|error| tracing::warn!(%error, "a second daemon would not be noticed")).ok(),
    };
    let access = Arc::new(ArcSwap::from_pointee(Access::new(&config)));
    let last_use = Arc::new(LastUse::default());
    let serving = Arc::new(ArcSwap::from_pointee(Serving::empty(last_use.clone())));
    let addresses = config.listen.clone();

    let data_bound = {
        let _in_data_runtime = runtimes.data.enter();
        bind("data", addresses.data)?
    };
    let control_bound = bind("control", addresses.control)?;
    let (data_address, control_address) = (data_bound.address(), control_bound.address());

    let foreground = Arc::new(Foreground::default());
    let node =
        Node::boot(config, metadata, serving.clone(), last_use, foreground.clone(), runtimes.columns.clone())
            .await;
    node.start_pulse();
    node.start_audit();
    node.resume_jobs();
    node.ask_for_keys();
    node.look_for_restored();
    let state = ControlState {
        node: node.clone(),
        access: access.clone(),
        metrics: metrics.clone(),
        tls: tls.clone(),
        config_file: config_file.into(),
    };
    let control_router = layers::control(control::routes(state.clone()));
    let data_routes = data::routes(DataState::new(access, serving, fault::shed(fault), foreground));
    let data_router = layers::data(fault::around(data_routes, fault));

    let stop = CancellationToken::new();
    let data_task =
        runtimes.data.spawn(listen::serve(data_bound, tls.data(), data_router, Limits::DATA, stop.clone()));
    let control_task = tokio::spawn(listen::serve_beside(
        control_bound,
        tls.control(),
        control_router,
        Limits::CONTROL,
        stop.clone(),
        peer::beside(&node),
    ));
    tokio::spawn(metrics.upkeep());
    // Before anybody is told that it listens: a signal ends it in order from then on.
    let mut signals = Signals::new()?;
    tracing::info!(data = %data_address, control = %control_address, node = %node.name, "listening");
    // Ready to take shares, which is what a sealed daemon is there for. Without a service manager nobody hears.
    drop(sd_notify::notify(&[sd_notify::NotifyState::Ready]));

    signals.until_stopped(&state).await;
    drop(sd_notify::notify(&[sd_notify::NotifyState::Stopping]));
    stop.cancel();
    for task in [data_task, control_task] {
        drop(task.await);
    }
    node.shut_down().await;
    tracing::info!("stopped");
    Ok(())
}

fn bind(name: &'static str, address: SocketAddr) -> Result<Bound, StartError> {
    Bound::bind(address).map_err(|error| StartError::Bind { name, address, error })
}

/// SIGTERM and SIGINT end the daemon; SIGHUP reads the configuration again.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn until_stopped(&mut self, state: &ControlState) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => {
                    if let Err(problem) = control::reload_by_signal(state).await {
                        tracing::error!(%problem, "the configuration was not reloaded");
                    }
                }
            }
        }
    }
}
