//! The data plane: accepts intercepted connections, finds out what they carry, protects, routes, balances and relays them.
//!
//! One control thread holds configuration, certificates, admin and export; each worker is a current-thread runtime with its own
//! listeners, pools, balancers and metric shard. docs/ARCHITECTURE.md walks a connection through the modules.

pub mod address;
pub mod error;
pub mod http;
pub mod io;

pub use error::Error;
