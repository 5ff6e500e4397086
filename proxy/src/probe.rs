//! The application's probes, asked on behalf of the kubelet, which has no identity in the mesh: what strict mTLS would refuse.
//!
//! Is handed the paths that injection found, and asks nothing else. Judges as the kubelet would: the same redirects, statuses and bounds. Asks
//! the pod's own address from the reserved source, which redirection lets pass. On the control thread, off the path of requests.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use remora_model::capture::{INBOUND_SOURCE_V4, INBOUND_SOURCE_V6};
use remora_model::probe::{Probe, ProbeAction, Probes};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::socket;

mod grpc;
mod https;
mod web;

/// Probes under way at most; a pod has a few, each of them one at a time.
const UNDER_WAY: usize = 32;
/// Bytes of an answer's body that are read, as the kubelet does.
const MAX_BODY: usize = 10 * 1024;

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The application said so itself.
    #[error("the application answered {0}")]
    Status(StatusCode),
    /// Nobody answered.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// Nobody listens.
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, io::Error),
    /// No TLS where HTTPS was declared.
    #[error("TLS with {0}: {1}")]
    Tls(SocketAddr, io::Error),
    /// What was answered is no HTTP.
    #[error("no HTTP answer: {0}")]
    Http(#[from] hyper::Error),
    /// A request or redirect that cannot be made.
    #[error("{0}")]
    Request(String),
    /// The health service's answer.
    #[error("gRPC health: {0}")]
    Grpc(String),
    /// Too many at once.
    #[error("too many probes are under way")]
    Busy,
}

impl Failure {
    /// What the kubelet is answered: the application's own status, or that there is none.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Status(status) if status.is_client_error() || status.is_server_error() => *status,
            Self::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Every probe of the pod's applications.
pub struct Prober {
    probes: HashMap<Arc<str>, Known>,
    places: Semaphore,
}

struct Known {
    probe: Probe,
    /// Whether its application was last found to speak only HTTP/2.
    http2: AtomicBool,
    /// Whether it failed last.
    failing: AtomicBool,
}

impl Prober {
    /// Asks these, and no others.
    pub fn new(probes: &Probes) -> Self {
        let known = |probe: &Probe| Known { probe: probe.clone(), http2: false.into(), failing: false.into() };
        let probes = probes.iter().map(|(path, probe)| (path.clone(), known(probe))).collect();
        Self { probes, places: Semaphore::new(UNDER_WAY) }
    }

    /// Asks the application at `pod` what `path` stands for; `None`: for nothing. `asked` are the headers of the kubelet's request.
    pub async fn ask(&self, path: &str, pod: IpAddr, asked: &HeaderMap) -> Option<Result<(), Failure>> {
        let known = self.probes.get(path)?;
        let timeout = known.probe.timeout;
        let asking = async {
            let Ok(_place) = self.places.try_acquire() else { return Err(Failure::Busy) };
            known.ask(pod.to_canonical(), asked).await
        };
        let result = tokio::time::timeout(timeout, asking).await.unwrap_or(Err(Failure::Timeout(timeout)));
        let failing = result.is_err();
        if known.failing.swap(failing, Ordering::Relaxed) != failing {
            match &result {
                Ok(()) => tracing::info!(probe = path, "the application's probe succeeds again"),
                Err(error) => tracing::warn!(probe = path, "the application's probe fails: {error}"),
            }
        }
        Some(result)
    }
}

impl Known {
    async fn ask(&self, pod: IpAddr, asked: &HeaderMap) -> Result<(), Failure> {
        match &self.probe.action {
            ProbeAction::Tcp { port } => dial(SocketAddr::new(pod, *port)).await.map(drop),
            ProbeAction::Grpc { port, service } => grpc::check(SocketAddr::new(pod, *port), service, asked).await,
            ProbeAction::Http(http) => web::ask(http, pod, asked, &self.http2).await,
        }
    }
}

/// Connects as the inbound leg does.
async fn dial(address: SocketAddr) -> Result<TcpStream, Failure> {
    let source = match address {
        SocketAddr::V4(_) => IpAddr::from(INBOUND_SOURCE_V4),
        SocketAddr::V6(_) => IpAddr::from(INBOUND_SOURCE_V6),
    };
    socket::connect(address, Some(source)).await.map_err(|error| Failure::Connect(address, error))
}

#[cfg(test)]
mod tests;
