//! Turns a pod's traffic towards the sidecar, once, and exits.
//!
//! Owns everything between a [`CaptureSpec`](remora_model::capture::CaptureSpec) and the kernel: [`plan`] makes rules of it
//! (pure), [`mod@apply`] brings a network namespace to them, [`mod@verify`] proves by connecting that they work, [`mod@cleanup`] removes
//! them; [`mod@trial`] tells whether any namespace could be brought to them. [`cli`] makes a spec of flags, Remora's own or those of other meshes' tools ([`compat`]). Invariant: a packet meets the
//! old rules or the new ones, never a part, so a repair lets no connection past the sidecar.

pub mod apply;
pub mod backend;
pub mod cleanup;
pub mod cli;
pub mod compat;
pub mod error;
pub mod live;
mod lock;
mod netlink;
pub mod plan;
pub mod trial;
pub mod verify;

pub use error::Error;

use std::path::PathBuf;

/// How to reach iptables, beside what to capture.
#[derive(Clone, Debug)]
pub struct Options {
    /// The backend to use; `None` chooses.
    pub backend: Option<backend::Backend>,
    /// The folders in which iptables' programs are looked for, in this order.
    pub search: Vec<PathBuf>,
    /// How long to wait for a lock, in seconds.
    pub wait: u32,
    /// What to do about IPv6.
    pub ipv6: Ipv6,
}

impl Default for Options {
    fn default() -> Self {
        Self { backend: None, search: backend::default_search(), wait: 5, ipv6: Ipv6::Auto }
    }
}

/// What to do about IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ipv6 {
    /// Redirect it; where that fails, carry on only if no IPv6 address could be reached past the proxy.
    #[default]
    Auto,
    /// Redirect it or fail.
    On,
    /// Leave it alone.
    Off,
}
