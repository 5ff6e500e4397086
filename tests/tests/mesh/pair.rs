//! The usual arrangement: a client pod that reaches an application in a server pod at a virtual address.

use std::net::SocketAddr;

use nix::sys::signal::Signal;
use remora_test::mesh::Mesh;
use remora_test::pod::Pod;
use remora_test::process::Process;
use remora_test::sidecar::Sidecar;

/// The virtual address of the service: no pod has it, so only an outbound entry makes it reachable.
pub(crate) const VIRTUAL: &str = "10.96.0.10";
/// The same in IPv6.
pub(crate) const VIRTUAL6: &str = "fd96::10";

/// Two meshed pods and an application.
pub(crate) struct Pair {
    // In the order of their ends: what runs in a pod before the pod, so that a failed test can still show its logs.
    /// The client's sidecar.
    pub(crate) outbound: Sidecar,
    /// The server's sidecar.
    pub(crate) inbound: Sidecar,
    pub(crate) app: Process,
    pub(crate) client: Pod,
    pub(crate) server: Pod,
    pub(crate) mesh: Mesh,
}

/// How a [`Pair`] differs from the usual one.
#[derive(Clone, Copy)]
pub(crate) struct Plan<'a> {
    /// What `remora-peer` is at the server.
    pub(crate) app: &'a str,
    /// The application's port.
    pub(crate) port: u16,
    /// The server's `inbound` part, in YAML's flow style.
    pub(crate) inbound: &'a str,
    /// More fields of the client's outbound entry, in YAML's flow style with a leading comma.
    pub(crate) entry: &'a str,
    /// More top-level YAML for both sidecars.
    pub(crate) both: &'a str,
    /// Whether both have identities.
    pub(crate) mtls: bool,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Self { app: "http", port: 8080, inbound: "{mtls: strict}", entry: "", both: "", mtls: true }
    }
}

/// The client's outbound part for one service at the virtual addresses.
pub(crate) fn entry(port: u16, endpoints: &[SocketAddr], more: &str) -> String {
    let list: Vec<_> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    format!(
        "outbound:\n  - {{host: \"server:{port}\", addresses: [\"{VIRTUAL}\", \"{VIRTUAL6}\"], endpoints: [{}]{more}}}",
        list.join(", ")
    )
}

impl Pair {
    /// Starts everything; strict mTLS unless the plan says otherwise.
    pub(crate) fn start(plan: Plan<'_>) -> Self {
        let mesh = Mesh::new();
        let (client, server) = (mesh.pod("client"), mesh.pod("server"));
        client.hosts(&[(VIRTUAL.to_owned(), "server")]).unwrap();
        let app = server.peer(plan.app, plan.port, &[]);
        let outbound = format!("{}\n{}", entry(plan.port, &[server.at(plan.port)], plan.entry), plan.both);
        let inbound = format!("inbound: {}\n{}", plan.inbound, plan.both);
        let (inbound, outbound) = if plan.mtls {
            (server.sidecar(&inbound), client.sidecar(&outbound))
        } else {
            (server.plain_sidecar(&inbound), client.plain_sidecar(&outbound))
        };
        Self { outbound, inbound, app, client, server, mesh }
    }

    /// The usual one.
    pub(crate) fn usual() -> Self {
        Self::start(Plan::default())
    }

    /// Ends the application and starts another one on the same port.
    pub(crate) fn replace_app(&mut self, kind: &str, port: u16, arguments: &[&str]) {
        self.app.signal(Signal::SIGKILL);
        self.app.wait();
        self.app = self.server.peer(kind, port, arguments);
    }

    /// A URL at the virtual address.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{VIRTUAL}:8080{path}")
    }
}

/// The virtual address and a port.
pub(crate) fn service(port: u16) -> SocketAddr {
    SocketAddr::new(VIRTUAL.parse().unwrap(), port)
}

/// The virtual IPv6 address and a port.
pub(crate) fn service6(port: u16) -> SocketAddr {
    SocketAddr::new(VIRTUAL6.parse().unwrap(), port)
}
