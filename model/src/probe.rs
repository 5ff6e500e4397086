//! The application's own probes, which the sidecar asks on the kubelet's behalf: the kubelet has no identity in the mesh.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

/// Probes by the path that the kubelet asks for, such as `/app-health/app/readyz`.
pub type Probes = BTreeMap<Arc<str>, Probe>;

/// What every path of a probe begins with.
pub const PROBE_PREFIX: &str = "/app-health/";

/// One probe, or one lifecycle hook, of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// What is asked.
    pub action: ProbeAction,
    /// After which no answer is a failure.
    pub timeout: Duration,
}

/// What is asked of the application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeAction {
    /// A GET, answered with 200 to 399.
    Http(HttpProbe),
    /// A TCP connect.
    Tcp {
        /// The application's port.
        port: u16,
    },
    /// `grpc.health.v1.Health/Check`, answered with SERVING.
    Grpc {
        /// The application's port.
        port: u16,
        /// The service whose health is asked for; empty: the server's.
        service: String,
    },
}

/// A probe by HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HttpProbe {
    /// Whether it is HTTPS; the certificate is not verified.
    pub tls: bool,
    /// The application's port.
    pub port: u16,
    /// Path and query; begins with `/`.
    pub path: String,
    /// Headers sent with it, `Host` among them; never shown: they may carry credentials.
    #[serde(skip)]
    pub headers: Vec<(String, String)>,
}
