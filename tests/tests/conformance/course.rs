//! What a suite runs through: an application and a client, with none, one or two sidecars between them.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;

use remora_test::mesh::Mesh;
use remora_test::pod::Pod;
use remora_test::process::Process;
use remora_test::sidecar::Sidecar;

/// The address of the service behind both sidecars; no pod has it.
const VIRTUAL: &str = "10.96.0.10";

/// The way from client to application.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Way {
    /// Nothing in between.
    Direct,
    /// The application's sidecar, in plaintext.
    One,
    /// The client's sidecar, mTLS, the application's sidecar.
    Chain,
}

impl Way {
    /// Runs a suite on both ways that show something of ours; what fails on the first does not hide the second.
    pub(crate) fn both(suite: impl Fn(Self)) {
        let ended = [Self::One, Self::Chain].map(|way| catch_unwind(AssertUnwindSafe(|| suite(way))));
        if let Some(panic) = ended.into_iter().find_map(Result::err) {
            resume_unwind(panic);
        }
    }

    /// As waivers and the table have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::One => "one",
            Self::Chain => "chain",
        }
    }
}

/// Everything between and at both ends, running.
pub(crate) struct Course {
    // In the order of their ends: what runs in a pod before the pod, so that a failed test can still show its logs.
    /// The nearest to the client is the last.
    sidecars: Vec<Sidecar>,
    _app: Process,
    /// Where suites run.
    pub(crate) client: Pod,
    _server: Pod,
    /// What they are told to speak to.
    pub(crate) to: SocketAddr,
    mesh: Mesh,
}

impl Course {
    /// Starts the application that `app` makes for the server's pod, on `port`, and what stands before it.
    pub(crate) fn start(way: Way, port: u16, app: impl Fn(&Pod) -> Command) -> Self {
        Self::declared(way, port, "auto", "", app)
    }

    /// As [`Course::start`], with a protocol that the sidecars are told, and `more` of the configuration of the one that clients speak to.
    pub(crate) fn declared(way: Way, port: u16, protocol: &str, more: &str, app: impl Fn(&Pod) -> Command) -> Self {
        let mesh = Mesh::new();
        let (client, server) = (mesh.pod("client"), mesh.pod("server"));
        let app = server.app(port, &mut app(&server));
        let endpoint = server.at(port);
        let inbound = |mtls| format!("inbound: {{mtls: {mtls}, ports: [{{port: {port}, protocol: {protocol}}}]}}");
        let (sidecars, to) = match way {
            Way::Direct => (vec![], endpoint),
            Way::One => (vec![server.sidecar(&format!("{}\n{more}", inbound("permissive")))], endpoint),
            Way::Chain => {
                let entry = format!(
                    "outbound:\n  - {{host: \"server:{port}\", addresses: [\"{VIRTUAL}\"], endpoints: [\"{endpoint}\"], \
                     protocol: {protocol}}}\n{more}"
                );
                let sidecars = vec![server.sidecar(&inbound("strict")), client.sidecar(&entry)];
                (sidecars, SocketAddr::new(VIRTUAL.parse().unwrap(), port))
            }
        };
        // One name whatever the way, so that what is sent is the same.
        client.hosts(&[(to.ip().to_string(), "server")]).unwrap();
        Self { sidecars, _app: app, client, _server: server, to, mesh }
    }

    /// As [`Course::start`], with `remora-peer http`: HTTP/1.1 and HTTP/2 on one port, and it never speaks first.
    pub(crate) fn peer(way: Way) -> Self {
        Self::peer_with(way, "")
    }

    /// As [`Course::peer`], with `more` of the configuration of the sidecar that clients speak to.
    pub(crate) fn peer_with(way: Way, more: &str) -> Self {
        Self::declared(way, 8080, "auto", more, |server| {
            let mut command = server.user(remora_test::binaries::binary("remora-peer"));
            command.args(["http", "--listen", "[::]:8080", "--name", "server"]);
            command
        })
    }

    /// The sidecar that clients speak to.
    pub(crate) fn nearest(&self) -> &Sidecar {
        self.sidecars.last().expect("asked where there is one")
    }

    /// A file of the suite's own.
    pub(crate) fn file(&self, name: &str) -> std::path::PathBuf {
        self.mesh.folder().join(name)
    }
}
