//! The control thread: start-up in its order (configuration, sockets, admin interfaces, identity, names, workers), then
//! reloads, and the drain.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use remora_certs::watch::FileWatcher;
use remora_model::Snapshot;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};

use crate::admin::{self, AdminState, Loggers};
use crate::drain::Farewell;
use crate::memory::{self, Memory, Pressure};
use crate::probe::Prober;
use crate::readiness::Readiness;
use crate::resolve::{self, Resolver};
use crate::telemetry::{self, Registry};
use crate::worker::Input;

mod alarm;
mod application;
mod bind;
mod drain;
pub(crate) mod gateway;
mod identity;
mod reload;
mod stop;
mod workers;

use application::Application;
use bind::{AdminListeners, Bound};
use identity::IdentityInput;
use reload::Reload;
use stop::Stop;
use workers::Workers;

/// How long start-up waits for names to resolve before it serves without them.
const FIRST_NAMES: Duration = Duration::from_secs(2);
/// How long the end waits for spans and log lines.
const LAST_EXPORT: Duration = Duration::from_secs(3);

/// Why the proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration has errors; one a line.
    #[error("{0}")]
    Config(#[from] remora_config::Errors),
    /// A certificate, key or bundle cannot be used.
    #[error("{0}")]
    Identity(#[from] remora_certs::Error),
    /// No identity came in time.
    #[error("no identity within {waited:?}: {reason}")]
    NoIdentity {
        /// How long start-up waited.
        waited: Duration,
        /// What was missing in the end.
        reason: String,
    },
    /// A listening address cannot be bound.
    #[error("cannot listen on {address} ({purpose}): {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What it is for.
        purpose: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A thread, runtime or signal handler could not be made.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
}

impl Failure {
    fn bind(address: SocketAddr, purpose: &str, source: std::io::Error) -> Self {
        Self::Bind { address, purpose: purpose.to_owned(), source }
    }

    /// The exit status: 2 for configuration and the files it names, 3 for a port, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Identity(_) | Self::NoIdentity { .. } => 2,
            Self::Bind { .. } => 3,
            Self::Start(_) => 1,
        }
    }
}

/// Runs the proxy until it has drained.
///
/// # Errors
/// It could not start.
pub fn run(config: PathBuf, loggers: Loggers) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(config, loggers))
}

/// Reads the configuration, having begun to watch it and the files it names: no change falls between.
fn watch(config: &Path) -> Result<(Arc<Snapshot>, FileWatcher), Failure> {
    let mut watched = vec![config.to_owned()];
    loop {
        let watcher = FileWatcher::new(watched.clone());
        let snapshot = remora_config::load(config)?;
        let named = gateway::watched(config, &snapshot);
        if named == watched {
            return Ok((Arc::new(snapshot), watcher));
        }
        watched = named;
    }
}

/// The workers, once they are there.
type LateWorkers = Arc<OnceLock<Arc<Workers>>>;

async fn serve(config: PathBuf, loggers: Loggers) -> Result<(), Failure> {
    let (snapshot, watcher) = watch(&config)?;
    let gateways = gateway::load(&snapshot)?;
    let (mut bound, interfaces) = Bound::bind(&snapshot)?;
    let mut stop = Stop::catch()?;
    // From the beginning, too: it would end the proxy otherwise.
    let hangup = signal(SignalKind::hangup())?;
    if snapshot.exit_with_application {
        stop.end_with(Application::of_the_pod());
    }
    let mut identity = IdentityInput::start(snapshot.identity.as_ref());

    let registry = Registry::new();
    let readiness = Readiness::new();
    // Until each of them holds a guard of its own.
    let starting = readiness.register("workers");
    let late: LateWorkers = Arc::default();
    let (snapshots, current) = watch::channel(snapshot.clone());
    let (rejected, rejections) = watch::channel(None);
    let farewell = Farewell::default();
    let state = Arc::new(AdminState {
        registry: registry.clone(),
        snapshot: current.clone(),
        rejected: rejections,
        readiness: readiness.clone(),
        identity: identity.shown(),
        loggers,
        clusters: asking(&late, |workers| async move { workers.clusters().await }),
        connections: asking(&late, |workers| async move { workers.connections().await }),
        quit: stop.quit(),
        farewell: farewell.clone(),
        prober: Prober::new(&snapshot.probes),
        started: SystemTime::now(),
    });
    serve_admin(interfaces, &state);
    seed();
    tokio::select! {
        first = identity.first(&readiness) => first?,
        _ = stop.due() => return Ok(()),
    }
    if let Some(identity) = identity.current() {
        registry.identity(&identity);
    }

    let (sinks, sources) = telemetry::channels(&registry);
    let newest = current.clone();
    let (exported, export) = watch::channel(false);
    let access_log = telemetry::access_log::start(sources.access_log)?;
    let spans = spawn_local(telemetry::export::run(sources.spans, current, ended(export)));

    let resolver = Resolver::spawn(resolve::names_of(&snapshot));
    resolver.first_answers(FIRST_NAMES).await;
    let resolved = resolver.watch().borrow().clone();
    let input = Input { snapshot: snapshot.clone(), resolved, identity: identity.current(), gateways };
    let (inputs, input) = watch::channel(input);
    let (told, pressure) = watch::channel(Pressure::None);
    let memory = spawn_local(memory::watch(Memory::bounded(), registry.clone(), told));
    let workers = Workers::spawn(&mut bound, &input, (&farewell, &pressure), (&registry, &sinks), &readiness)?;
    let workers = late.get_or_init(|| Arc::new(workers)).clone();
    drop((sinks, input, starting));

    let asked = workers.clone();
    readiness.ask(move || {
        let asked = asked.clone();
        Box::pin(async move { asked.silent().await })
    });
    readiness.ready().await;
    tracing::info!(service = %snapshot.service.name, workers = workers.len(), "ready");
    if !telemetry::metrics::COUNTS {
        tracing::warn!("built with the feature `uncounted`: workers count nothing");
    }

    let (told, watched) = (registry.clone(), readiness.clone());
    let reload = Reload {
        config,
        watcher,
        hangup,
        identity,
        resolver,
        snapshots,
        inputs,
        registry: told,
        readiness: watched,
        rejected,
    };
    let reload = spawn_local(reload.follow());
    drain::drained(&mut stop, &farewell, &readiness, &workers, &newest).await;
    reload.abort();
    memory.abort();
    let _ = exported.send(true);
    // Bounded: a dead collector or a stopped reader of the log must not keep the process.
    let _ = tokio::time::timeout(LAST_EXPORT, spans).await;
    access_log.finish(LAST_EXPORT).await;
    Ok(())
}

/// A question to the workers, of whom there is none before the start is over.
fn asking<T: Send + 'static, F>(workers: &LateWorkers, ask: fn(Arc<Workers>) -> F) -> admin::Ask<T>
where
    F: Future<Output = Vec<T>> + Send + 'static,
{
    let workers = workers.clone();
    Box::new(move || match workers.get() {
        Some(workers) => Box::pin(ask(workers.clone())),
        None => Box::pin(std::future::ready(Vec::new())),
    })
}

/// The proxy's own interfaces, from before there is an identity.
fn serve_admin(listeners: AdminListeners, state: &Arc<AdminState>) {
    serve_interface(listeners.admin, admin::serve, state);
    listeners.metrics.into_iter().for_each(|listener| serve_interface(listener, admin::serve_metrics, state));
    listeners.readiness.into_iter().for_each(|listener| serve_interface(listener, admin::serve_readiness, state));
}

fn serve_interface<F>(
    listener: TcpListener,
    serve: impl FnOnce(TcpListener, Arc<AdminState>) -> F,
    state: &Arc<AdminState>,
) where
    F: Future<Output = std::io::Result<()>> + 'static,
{
    let serving = serve(listener, state.clone());
    spawn_local(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "an admin interface ended");
        }
    });
}

/// The library seeds its generator at first use, for 50 ms: not during the first handshake.
fn seed() {
    if remora_certs::tls::provider().secure_random.fill(&mut [0; 32]).is_err() {
        tracing::warn!("no randomness yet");
    }
}

async fn ended(mut signal: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is an end too.
    let _ = signal.wait_for(|ended| *ended).await;
}
