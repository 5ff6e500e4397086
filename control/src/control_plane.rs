//! `remora control`: the certificate authority, the injector's webhook and the copies that injected pods mount, in one
//! process on one runtime, until it is told to end.
//!
//! Any number of them run side by side: what must be one for all is in Secrets, written as it was read.

pub mod admin;
pub mod metrics;
pub mod namespaces;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use remora_certs::ca::Lifetimes;
use remora_certs::server::{self as authority_server, Kubernetes, KubernetesAccess, Presence, Running};
use remora_model::SpiffeId;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::admin::Admin;
use self::metrics::Metrics;
use self::namespaces::Namespaces;
use crate::authority::{self, Fresh, SecretStore};
use crate::cluster::{self, Access, CONTROL};
use crate::inject;
use crate::webhook::certificates::{self, Keeper, Shown};
use crate::webhook::issue::Lives;
use crate::webhook::server::{self as webhook_server, Webhook};

/// The audience of tokens for the authority.
pub const AUDIENCE: &str = "remora-ca";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the authority's root and intermediate are valid.
const LIFETIMES: Lifetimes = Lifetimes {
    root: Duration::from_secs(3650 * DAY.as_secs()),
    intermediate: Duration::from_secs(365 * DAY.as_secs()),
};
/// The longest life of a workload's certificate.
const MAX_TTL: Duration = DAY;
const RATE: NonZeroU32 = NonZeroU32::new(600).expect("600 is not 0");
const MAX_CONNECTIONS: usize = 4096;
/// How long new connections are still accepted after SIGTERM: the cluster takes a moment to know that this replica leaves.
pub const LAME_DUCK: Duration = Duration::from_secs(5);
/// How long calls may go on after that.
const GRACE: Duration = Duration::from_secs(10);

/// How it runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which API server.
    pub access: Access,
    /// The control plane's namespace.
    pub namespace: String,
    /// Where the authority serves gRPC.
    pub authority: SocketAddr,
    /// Where the webhook serves HTTPS.
    pub webhook: SocketAddr,
    /// Where /metrics, /ready and /healthz are served.
    pub admin: SocketAddr,
    /// Names that the webhook and the authority are reached by, besides the Service's.
    pub names: Vec<String>,
    /// How long the webhook's certificates live.
    pub lives: Lives,
    /// What injection does; its trust domain is the authority's.
    pub injection: inject::Settings,
    /// Where to write the addresses listened on, for whoever asked for port 0.
    pub address_file: Option<PathBuf>,
}

/// Why it cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    /// The authority's Secret.
    #[error(transparent)]
    Authority(#[from] authority::Error),
    /// The authority's service.
    #[error("certificate authority: {0}")]
    Service(#[from] authority_server::Error),
    /// The webhook's certificate.
    #[error(transparent)]
    Certificate(#[from] certificates::Error),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({what}): {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What for.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The namespace or the trust domain makes no SPIFFE ID.
    #[error("namespace {0:?} makes no SPIFFE ID")]
    Identity(String),
    /// The runtime, or signals.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
    /// The addresses cannot be told.
    #[error("cannot write {}: {source}", path.display())]
    AddressFile {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Why it cannot start; once it serves, nothing ends it but a signal.
pub fn run(settings: Settings) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(serve(settings));
    // What still blocks is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

async fn serve(settings: Settings) -> Result<(), Error> {
    // Bound first: a port that is taken is told before anything is made.
    let (admin, webhook) = (listen(settings.admin, "admin").await?, listen(settings.webhook, "webhook").await?);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let plane = tokio::select! {
        plane = Plane::start(&settings, admin, webhook) => plane?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("told to end: new connections are accepted for {} s more", LAME_DUCK.as_secs());
    tokio::select! {
        () = plane.end() => tracing::info!("ended"),
        _ = terminate.recv() => tracing::warn!("told again: ended at once"),
        _ = interrupt.recv() => tracing::warn!("told again: ended at once"),
    }
    Ok(())
}

/// All that runs.
struct Plane {
    end: watch::Sender<bool>,
    authority: Running,
    webhook: tokio::task::JoinHandle<()>,
    background: JoinSet<()>,
}

impl Plane {
    async fn start(settings: &Settings, admin: TcpListener, webhook: TcpListener) -> Result<Self, Error> {
        let client = settings.access.client().await?;
        let metrics = Arc::new(Metrics::default());
        let trust_domain = settings.injection.defaults.trust_domain.clone();
        let fresh = Fresh { trust_domain, lifetimes: LIFETIMES };
        let store = Arc::new(SecretStore::open(&client, &settings.namespace, &fresh).await?);
        let authority =
            authority_server::start(Arc::clone(&store) as Arc<_>, authority_settings(settings, &client)?).await?;

        let shown = Arc::new(Shown::default());
        let count = Arc::clone(&metrics);
        let names = names(settings);
        let certificates =
            Keeper::new(&client, &settings.namespace, names, settings.lives, Arc::clone(&shown), move || {
                count.certificate();
            });
        certificates.begin().await?;

        let namespaces = Arc::new(Namespaces::new(client, settings.namespace.clone(), Arc::clone(&metrics)));
        announce(
            settings,
            &[("ca", authority.address()), ("webhook", webhook.local_addr()?), ("admin", admin.local_addr()?)],
        )?;
        let (end, ending) = watch::channel(false);
        let mut background = JoinSet::new();
        background.spawn(Arc::clone(&store).follow());
        background.spawn(store.renew());
        background.spawn(certificates.run());
        background.spawn(Arc::clone(&namespaces).run());
        background.spawn(follow_bundle(authority.watched(), Arc::clone(&namespaces)));
        let interface = Admin {
            authority: authority.watched(),
            shown: Arc::clone(&shown),
            namespaces: Arc::clone(&namespaces),
            metrics: Arc::clone(&metrics),
            ending: ending.clone(),
        };
        background.spawn(authority_server::admin::serve(admin, interface));
        let service = Arc::new(Webhook { settings: settings.injection.clone(), namespaces, metrics });
        let webhook = tokio::spawn(async move {
            if let Err(error) = webhook_server::serve(webhook, shown, service, ending).await {
                tracing::error!(%error, "the webhook cannot serve");
            }
        });
        Ok(Self { end, authority, webhook, background })
    }

    async fn end(mut self) {
        self.end.send_replace(true);
        let authority = async {
            tokio::time::sleep(LAME_DUCK).await;
            self.authority.end().await;
        };
        let _ = tokio::join!(authority, self.webhook);
        self.background.shutdown().await;
    }
}

/// The trust bundle that pods mount is the authority's.
async fn follow_bundle(mut authority: authority_server::Watched, namespaces: Arc<Namespaces>) {
    let mut last = String::new();
    loop {
        let bundle = authority.bundle();
        if bundle != last {
            namespaces.bundle(bundle.clone());
            last = bundle;
        }
        authority.changed().await;
    }
}

/// What we are called: by the Service, and as told.
fn names(settings: &Settings) -> Vec<String> {
    let service = format!("{CONTROL}.{}.svc", settings.namespace);
    [service.clone(), format!("{service}.cluster.local")].into_iter().chain(settings.names.iter().cloned()).collect()
}

fn authority_settings(settings: &Settings, client: &kube::Client) -> Result<authority_server::Settings, Error> {
    let trust_domain = settings.injection.defaults.trust_domain.clone();
    let spiffe_id = SpiffeId::workload(&trust_domain, &settings.namespace, CONTROL)
        .map_err(|_| Error::Identity(settings.namespace.clone()))?;
    Ok(authority_server::Settings {
        listen: settings.authority,
        admin: None,
        reuse_port: false,
        address_file: None,
        presence: Presence { names: names(settings), trust_domain: Some(trust_domain), spiffe_id: Some(spiffe_id) },
        kubernetes: Some(Kubernetes {
            access: KubernetesAccess::Client(client.clone()),
            audience: AUDIENCE.to_owned(),
        }),
        oidc: None,
        join_tokens: false,
        max_ttl: MAX_TTL,
        rate: RATE,
        max_connections: MAX_CONNECTIONS,
        grace: GRACE,
    })
}

async fn listen(address: SocketAddr, what: &'static str) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, what, source })
}

/// Says where it listens.
fn announce(settings: &Settings, addresses: &[(&str, SocketAddr)]) -> Result<(), Error> {
    let lines: String = addresses.iter().map(|(what, address)| format!("{what} {address}\n")).collect();
    tracing::info!(addresses = lines.trim().replace('\n', ", "), "serving");
    let Some(path) = &settings.address_file else { return Ok(()) };
    let failed = |source| Error::AddressFile { path: path.clone(), source };
    // Renamed into place: whoever waits for the file reads all of it.
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, lines).and_then(|()| std::fs::rename(&temporary, path)).map_err(failed)
}
