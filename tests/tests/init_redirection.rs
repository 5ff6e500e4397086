//! `remora-init` in network namespaces, with real iptables of both backends, both families and real connections.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // tests, which say what they skip

#[path = "init/cleanup.rs"]
mod cleanup;
#[path = "init/escape.rs"]
mod escape;
#[path = "init/failures.rs"]
mod failures;
#[path = "init/goldens.rs"]
mod goldens;
#[path = "init/pod.rs"]
mod pod;
#[path = "init/traffic.rs"]
mod traffic;
#[path = "init/verify.rs"]
mod verify;
