//! The end-to-end harness: pods as network namespaces, with the real binaries in them.
//!
//! * [`netns`] makes and removes the namespaces and the bridge that joins them.
//! * [`binaries`] builds what is tested and copies it to where every user can run it.
//! * [`api_server`] runs a real Kubernetes API server.
//! * [`authority`] runs `remora-certs serve` on loopback and asks it for certificates.
//! * [`mesh`] holds a certificate authority and its pods; [`pod`] starts `remora-init`, sidecars and applications in one pod.
//! * [`process`] guards what was started; [`sidecar`] asks a running `remora-proxy` for readiness, metrics and its admin pages.
//! * [`client`] and [`load`] send requests: hyper, curl and h2load; [`tls`] is for clients that have an identity and no sidecar; [`app`] answers them (the binary `remora-peer`).
//! * [`bench`] measures; [`collector`] receives OTLP spans; [`forge`] signs certificates that a sane authority would not.
//!
//! Everything needs root. Each guard undoes what it made when it is dropped, also while a test panics; what a killed run left
//! behind is swept by the next one. The harness panics where it cannot do its work: its only callers are tests.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub mod api_server;
pub mod app;
pub mod authority;
pub mod bench;
pub mod binaries;
pub mod client;
pub mod collector;
pub mod forge;
pub mod load;
pub mod mesh;
pub mod metrics;
pub mod netns;
pub mod pod;
pub mod process;
pub mod sidecar;
pub mod tls;

use std::time::{Duration, Instant};

/// How long anything that is awaited may take: far more than it ever does, so that only what never happens fails.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Asks every 5 ms until the answer is `Some`.
///
/// # Panics
/// After [`PATIENCE`], naming what was awaited.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
