//! The daemon: two listeners on two runtimes, and the node behind them.
//!
//! # Layout
//!
//! [`config`] is read → [`telemetry`] begins → [`memory`] is locked → [`listen`] binds both listeners → [`http`] is
//! what every request passes → [`handlers`] turn requests into ceremonies of the [`node`], or, for services, into
//! questions to the [`serving`] snapshot, which needs neither a lock nor a store.

mod audit;
pub mod config;
pub mod handlers;
pub mod http;
pub mod listen;
pub mod memory;
pub mod node;
pub mod occupied;
pub mod serving;
pub mod sightings;
pub mod telemetry;

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use keymoot_storage::open::{OpenError, open_metadata};
use tokio::{
    runtime::{Builder, Runtime},
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
    telemetry::Metrics,
};

/// How long background work gets to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

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
    // Services get all cores, and people two threads that no service can fill.
    let data_runtime = runtime("data", None)?;
    let control_runtime = runtime("control", Some(2))?;
    let outcome = control_runtime.block_on(serve(config_file, config, metrics, &data_runtime, fault));
    data_runtime.shutdown_timeout(STOP_TIMEOUT);
    control_runtime.shutdown_timeout(STOP_TIMEOUT);
    outcome
}

fn runtime(name: &'static str, threads: Option<usize>) -> io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.enable_all().thread_name(name);
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    builder.build()
}

async fn serve(
    config_file: &Path,
    config: Config,
    metrics: Metrics,
    data_runtime: &Runtime,
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
        let _in_data_runtime = data_runtime.enter();
        bind("data", addresses.data)?
    };
    let control_bound = bind("control", addresses.control)?;
    let (data_address, control_address) = (data_bound.address(), control_bound.address());

    let node = Node::boot(config, metadata, serving.clone(), last_use).await;
    node.start_pulse();
    node.start_audit();
    node.resume_jobs();
    let state = ControlState {
        node: node.clone(),
        access: access.clone(),
        metrics: metrics.clone(),
        tls: tls.clone(),
        config_file: config_file.into(),
    };
    let control_router = layers::control(control::routes(state.clone()));
    let data_routes = data::routes(DataState::new(access, serving, fault::shed(fault)));
    let data_router = layers::data(fault::around(data_routes, fault));

    let stop = CancellationToken::new();
    let data_task =
        data_runtime.spawn(listen::serve(data_bound, tls.data(), data_router, Limits::DATA, stop.clone()));
    let control_task =
        tokio::spawn(listen::serve(control_bound, tls.control(), control_router, Limits::CONTROL, stop.clone()));
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
