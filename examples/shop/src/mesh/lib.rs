//! A mesh on this machine: pods that are network namespaces, with the real `remora-init`, the real `remora-proxy` under
//! its own user and a real application. The demo shows it, the drill strains it.

pub mod command;
pub mod http_client;
pub mod jaeger;
pub mod namespace;
pub mod pods;
pub mod process;
pub mod raised;
pub mod rpc;
pub mod screen;
pub mod sidecar;
pub mod state;
