//! `remora run -- CMD` on a host that is a network namespace: real namespaces, real binaries, a state folder of its own.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod command;
mod dns;
mod forwarding;
mod guide;
mod host;
mod leave;
mod mesh;
mod names;
mod ports;
mod refusals;
mod sidecar;
mod terminal;
