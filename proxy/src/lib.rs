//! The data plane: accepts intercepted connections, finds out what they carry, protects, routes, balances and relays them.
//!
//! One control thread holds configuration, certificates, admin and export; each worker is a current-thread runtime with its own
//! listeners, pools, balancers and metric shard. docs/ARCHITECTURE.md walks a connection through the modules.

pub mod address;
pub mod admin;
pub mod balance;
pub mod error;
pub mod filter_chain;
pub mod http;
pub mod inspect;
pub mod io;
pub mod original_dst;
pub mod readiness;
pub mod resolve;
pub mod route;
pub mod socket;
pub mod telemetry;
pub mod tls;

pub use error::Error;
