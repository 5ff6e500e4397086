//! The certificate authority as a service: `remora-certs serve`.
//!
//! Handed a [`Store`] and [`Settings`], it answers `istio.v1.auth.IstioCertificateService/CreateCertificate` and
//! `remora.identity.v1.TrustBundles/Watch` over TLS 1.3 until it is told to end. Who asks is for [`reviewer`] to say, and
//! the SPIFFE ID of a certificate follows from that proof alone. [`signing`] holds what signs, read anew whenever the
//! store changes; [`journal`] makes each certificate's record durable before it is handed out.

pub mod admin;
pub mod audit;
mod connections;
mod directory;
mod error;
mod journal;
mod limits;
mod listener;
mod metrics;
pub mod refusal;
pub mod reviewer;
mod running;
mod service;
mod signing;
pub mod store;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use remora_model::TrustDomain;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tonic::service::Routes;

use self::connections::Shares;
pub use self::directory::DirectoryStore;
pub use self::error::Error;
use self::journal::{Journal, Recording};
use self::limits::Limits;
use self::listener::Front;
use self::metrics::Metrics;
pub use self::metrics::prometheus as prometheus_text;
use self::reviewer::Reviewers;
use self::reviewer::certificate::CertificateReviewer;
use self::reviewer::join::JoinTokenReviewer;
use self::reviewer::jwks::JwksSource;
use self::reviewer::kubernetes::KubernetesReviewer;
use self::reviewer::oidc::OidcReviewer;
use self::reviewer::template::SubjectTemplate;
pub use self::running::{Running, Watched};
use self::service::{Bundles, Service};
pub use self::service::{DEFAULT_TTL, MAX_MESSAGE};
pub use self::signing::Presence;
use self::signing::{Keeper, Kept};
use self::store::Store;
use crate::file::{Access, Prepared};
use crate::proto::istio::istio_certificate_service_server::IstioCertificateServiceServer;
use crate::proto::trust_bundle::trust_bundles_server::TrustBundlesServer;
use crate::verify::Clock;

/// How often limits forget whoever is in good standing.
const FORGET: Duration = Duration::from_secs(60);

/// How the service runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where gRPC is served.
    pub listen: SocketAddr,
    /// Where /metrics, /ready and /healthz are served; [`None`] where somebody else shows what [`Running`] knows.
    pub admin: Option<SocketAddr>,
    /// Whether another process may listen on the same addresses, to take over without a gap.
    pub reuse_port: bool,
    /// Where to write the addresses listened on, for whoever asked for port 0.
    pub address_file: Option<PathBuf>,
    /// How it presents itself.
    pub presence: Presence,
    /// Tokens judged by Kubernetes.
    pub kubernetes: Option<Kubernetes>,
    /// Tokens of an OIDC issuer.
    pub oidc: Option<Oidc>,
    /// Whether join tokens are accepted, and renewals of what began with them.
    pub join_tokens: bool,
    /// The longest life of a leaf.
    pub max_ttl: Duration,
    /// Requests a minute that each caller may make.
    pub rate: NonZeroU32,
    /// Connections at once.
    pub max_connections: usize,
    /// How long calls may go on once the service is told to end.
    pub grace: Duration,
}

/// How to reach the Kubernetes API server.
#[derive(Clone, Debug)]
pub struct Kubernetes {
    /// Where it is.
    pub access: KubernetesAccess,
    /// The audience that tokens must be for.
    pub audience: String,
}

/// Where the Kubernetes API server is.
#[derive(Clone)]
pub enum KubernetesAccess {
    /// This process runs in the cluster.
    InCluster,
    /// As a kubeconfig says.
    Kubeconfig(PathBuf),
    /// Where a client of the caller's leads, which must bound how long a call takes.
    Client(kube::Client),
}

impl std::fmt::Debug for KubernetesAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InCluster => f.write_str("InCluster"),
            Self::Kubeconfig(path) => f.debug_tuple("Kubeconfig").field(path).finish(),
            Self::Client(_) => f.write_str("Client"),
        }
    }
}

/// An OIDC issuer whose tokens are accepted.
#[derive(Clone, Debug)]
pub struct Oidc {
    /// The `iss` of its tokens.
    pub issuer: String,
    /// A file or URL with its keys.
    pub jwks: String,
    /// The CA certificates by which the URL's server is verified; without them the system's.
    pub jwks_ca: Option<PathBuf>,
    /// The audience that tokens must be for.
    pub audience: String,
    /// How claims make an identity.
    pub template: Option<SubjectTemplate>,
}

/// Why /ready says no.
#[derive(Clone)]
pub(crate) struct Health {
    kept: Kept,
    // Not the journal itself: whoever holds that keeps its writer waiting.
    records: Recording,
    ending: watch::Receiver<bool>,
}

impl Health {
    fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if *self.ending.borrow() {
            reasons.push("ending".to_owned());
        }
        let signing = Arc::clone(&self.kept.signing.borrow());
        let now = SystemTime::now();
        if !signing.is_valid(now) {
            let validity = signing.authority.validity();
            reasons.push(format!(
                "the signing certificate is valid from {} to {}; our clock says {}",
                Clock(&validity.not_before),
                Clock(&validity.not_after),
                Clock(&now)
            ));
        }
        if let Some(problem) = self.kept.problem.borrow().as_ref() {
            reasons.push(format!("the newest state is not in use: {problem}"));
        }
        if !self.records.is_good() {
            reasons.push("the last certificates could not be recorded".to_owned());
        }
        reasons
    }
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// Why it cannot start; once it serves, nothing ends it but a signal.
pub fn run(store: Arc<dyn Store>, settings: Settings) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Error::Runtime)?;
    let ended = runtime.block_on(serve(store, settings));
    // What still blocks on a disk or a name is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

async fn serve(store: Arc<dyn Store>, settings: Settings) -> Result<(), Error> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate()).map_err(Error::Signals)?,
        signal(SignalKind::interrupt()).map_err(Error::Signals)?,
    );
    let running = start(store, settings).await?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: no new connections; calls under way are finished"),
        _ = interrupt.recv() => tracing::info!("SIGINT: no new connections; calls under way are finished"),
    }
    running.end().await;
    tracing::info!("ended");
    Ok(())
}

/// Starts to serve inside the caller's multi-threaded runtime.
///
/// # Errors
/// Why it cannot.
pub async fn start(store: Arc<dyn Store>, settings: Settings) -> Result<Running, Error> {
    let metrics = Arc::new(Metrics::new());
    let (keeper, kept) = Keeper::new(Arc::clone(&store), settings.presence.clone(), Arc::clone(&metrics))?;
    let trust_domain = kept.signing.borrow().trust_domain.clone();
    let reviewers = reviewers(&settings, &store, &trust_domain).await?;
    let listener = listen(settings.listen, settings.reuse_port, "gRPC")?;
    let admin = settings.admin.map(|address| listen(address, settings.reuse_port, "admin")).transpose()?;
    let address = announce(&settings, (&listener, admin.as_ref()), &kept)?;

    let (end, ending) = watch::channel(false);
    let (journal, writer) = Journal::start(Arc::clone(&store), Arc::clone(&metrics));
    let limits = Arc::new(Limits::new(settings.rate));
    let health = Health { kept: kept.clone(), records: journal.recording(), ending: ending.clone() };
    let state = Watched { kept: kept.clone(), health, metrics: Arc::clone(&metrics) };
    let mut background = tokio::task::JoinSet::new();
    background.spawn(keeper.run());
    background.spawn(forget(Arc::clone(&limits)));
    if let Some(admin) = admin {
        background.spawn(admin::serve(admin, state.clone()));
    }

    let service = Arc::new(Service {
        kept: kept.clone(),
        reviewers,
        limits,
        journal,
        metrics: Arc::clone(&metrics),
        max_ttl: settings.max_ttl,
        watchers: Arc::new(Semaphore::new(settings.max_connections.saturating_mul(2))),
        ending: ending.clone(),
    });
    let shares = Shares::new(settings.max_connections);
    let front = Front { routes: routes(service), signing: kept.signing, metrics, ending, shares };
    let serving = tokio::spawn(front.serve(listener, settings.grace));
    Ok(Running { address, end, state, serving, background, writer })
}

fn routes(service: Arc<Service>) -> Routes {
    let certificates = IstioCertificateServiceServer::from_arc(Arc::clone(&service))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(usize::MAX);
    let bundles = TrustBundlesServer::new(Bundles(service)).max_decoding_message_size(MAX_MESSAGE);
    Routes::new(certificates).add_service(bundles)
}

async fn reviewers(
    settings: &Settings,
    store: &Arc<dyn Store>,
    trust_domain: &TrustDomain,
) -> Result<Reviewers, Error> {
    let mut reviewers = Reviewers::default();
    if let Some(Kubernetes { access, audience }) = &settings.kubernetes {
        let reviewer = KubernetesReviewer::new(access, audience.clone(), trust_domain.clone()).await?;
        reviewers.kubernetes = Some(Arc::new(reviewer));
    }
    if let Some(Oidc { issuer, jwks, jwks_ca, audience, template }) = &settings.oidc {
        let keys = JwksSource::new(jwks, jwks_ca.as_deref()).await?;
        let reviewer =
            OidcReviewer::new(issuer.clone(), audience.clone(), keys, template.clone(), trust_domain.clone());
        reviewers.oidc = Some(Arc::new(reviewer));
    }
    if settings.join_tokens {
        reviewers.join = Some(Arc::new(JoinTokenReviewer::new(Arc::clone(store))));
        reviewers.certificate = Some(Arc::new(CertificateReviewer::new(Arc::clone(store))));
    }
    if reviewers.kubernetes.is_none() && reviewers.oidc.is_none() && reviewers.join.is_none() {
        return Err(Error::NoReviewer);
    }
    Ok(reviewers)
}

fn listen(address: SocketAddr, reuse_port: bool, what: &'static str) -> Result<TcpListener, Error> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // For ports in TIME_WAIT; unlike SO_REUSEPORT it lets nobody share a port that is listened on.
        socket.set_reuseaddr(true)?;
        if reuse_port {
            socket.set_reuseport(true)?;
        }
        socket.bind(address)?;
        socket.listen(1024)
    };
    bind().map_err(|source| Error::Listen { address, what, source })
}

/// Says where it listens, in the log and in the file that was asked for; returns where gRPC is served.
fn announce(
    settings: &Settings,
    (grpc, admin): (&TcpListener, Option<&TcpListener>),
    kept: &Kept,
) -> Result<SocketAddr, Error> {
    let address = |listener: &TcpListener, asked, what| {
        listener.local_addr().map_err(|source| Error::Listen { address: asked, what, source })
    };
    let grpc = address(grpc, settings.listen, "gRPC")?;
    let admin = match (admin, settings.admin) {
        (Some(admin), Some(asked)) => Some(address(admin, asked, "admin")?),
        _ => None,
    };
    let signing = kept.signing.borrow();
    tracing::info!(
        listen = %grpc,
        admin = admin.map(tracing::field::display),
        trust_domain = %signing.trust_domain,
        anchor = %signing.anchor,
        bundle_version = signing.bundle_version,
        signer_not_after = %Clock(&signing.authority.validity().not_after),
        "serving"
    );
    if let Some(path) = &settings.address_file {
        let admin = admin.map(|admin| format!("admin {admin}\n")).unwrap_or_default();
        Prepared::new(path, format!("grpc {grpc}\n{admin}").as_bytes(), Access::Public, None)?.replace()?;
    }
    Ok(grpc)
}

async fn forget(limits: Arc<Limits>) {
    loop {
        tokio::time::sleep(FORGET).await;
        limits.forget();
    }
}
