//! The proxy's own interfaces, on the control thread: admin (loopback), metrics and readiness.
//!
//! Read-only except for the log levels and the end. Each is HTTP/1.1 with bounded heads, bounded time and a bounded number of connections; none can
//! delay the traffic. The admin interface answers only to names of this machine, so that a web page cannot reach it by DNS rebinding.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use remora_certs::Identity;
use remora_certs::source::SourceStatus;
use remora_model::Snapshot;
use serde::Serialize;
use tokio::sync::{Notify, watch};

use crate::drain::Farewell;
use crate::probe::Prober;
use crate::readiness::Readiness;
use crate::telemetry::{ConnectionStatus, Registry};

mod lines;
pub mod loggers;
mod pages;
mod server;

pub(crate) use lines::dropped_lines;
pub use lines::flush_log;
pub use loggers::Loggers;

use server::Interface;

/// A cluster as a worker sees it now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClusterStatus {
    /// Its name.
    pub name: String,
    /// Its endpoints; empty: none is known.
    pub endpoints: Vec<EndpointStatus>,
}

/// An endpoint as a worker sees it now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndpointStatus {
    /// Where it is.
    pub address: SocketAddr,
    /// Its share of the traffic, relative to the other endpoints.
    pub weight: u32,
    /// Requests and TCP connections under way, over all workers.
    pub active: u64,
    /// Whether it may be chosen.
    pub healthy: bool,
}

/// Asks every worker.
pub type Ask<T> = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<T>> + Send>> + Send + Sync>;

/// The workload's identity, as it is kept fresh.
#[derive(Clone, Debug)]
pub struct IdentityView {
    /// Where it comes from, for people.
    pub source: String,
    /// The current one; [`None`] until there is a first.
    pub identity: watch::Receiver<Option<Arc<Identity>>>,
    /// How keeping it fresh goes.
    pub status: Arc<SourceStatus>,
}

/// Everything the interfaces show.
pub struct AdminState {
    /// The metrics.
    pub registry: Arc<Registry>,
    /// The current snapshot.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Why the newest configuration is not in use; `None`: it is.
    pub rejected: watch::Receiver<Option<String>>,
    /// Whether traffic may come.
    pub readiness: Readiness,
    /// The workload's identity; `None`: no mTLS.
    pub identity: Option<IdentityView>,
    /// The log levels.
    pub loggers: Loggers,
    /// The clusters' endpoints.
    pub clusters: Ask<ClusterStatus>,
    /// The downstream connections, the oldest first.
    pub connections: Ask<ConnectionStatus>,
    /// Notified to end the proxy, as SIGTERM does.
    pub quit: Arc<Notify>,
    /// Told that the pod leaves.
    pub farewell: Farewell,
    /// Asks the application what the kubelet asks.
    pub prober: Prober,
    /// When the proxy started.
    pub started: SystemTime,
}

/// Serves the admin interface until dropped: /help lists its pages.
///
/// # Errors
/// The listener cannot be used.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>) -> io::Result<()> {
    server::serve(listener, Interface::Admin, state).await
}

/// Serves Prometheus metrics and health on the pod's address until dropped.
///
/// # Errors
/// The listener cannot be used.
pub async fn serve_metrics(listener: TcpListener, state: Arc<AdminState>) -> io::Result<()> {
    server::serve(listener, Interface::Metrics, state).await
}

/// Serves readiness on the pod's address until dropped.
///
/// # Errors
/// The listener cannot be used.
pub async fn serve_readiness(listener: TcpListener, state: Arc<AdminState>) -> io::Result<()> {
    server::serve(listener, Interface::Readiness, state).await
}

#[cfg(test)]
mod tests;
