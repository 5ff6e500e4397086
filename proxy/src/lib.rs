//! The data plane: accepts intercepted connections, finds out what they carry, protects, routes, balances and relays them.
//!
//! One control thread holds configuration, certificates, admin and export; each worker is a current-thread runtime with its own
//! listeners, pools, balancers and metric shard. docs/ARCHITECTURE.md walks a connection through the modules.

pub mod address;
pub mod admin;
mod allocator;
mod ask;
pub mod balance;
mod breaker;
mod cluster;
mod connection;
pub mod control;
mod crowd;
mod drain;
pub mod error;
pub mod filter_chain;
pub mod http;
pub mod inspect;
pub mod io;
mod lanes;
pub mod leave;
mod listener;
mod live;
mod memory;
pub mod original_dst;
mod pool;
pub mod probe;
pub mod readiness;
mod request;
pub mod resolve;
pub mod route;
mod signal;
pub mod socket;
pub mod tcp_proxy;
pub mod telemetry;
pub mod tls;
mod upstream;
pub mod wait;
mod waiting;
mod watch;
mod worker;

pub use error::Error;
