//! Side-by-side measurements: the same load, in the same run, through two sidecars of Remora and two of Envoy;
//! and the certificate authority, which has no peer here.
//!
//! The machine's noise is larger than most differences, so rounds are interleaved, medians are taken, and only ratios within one
//! run mean anything.

mod authority;
mod chain;
mod handshakes;
mod identity;
mod instructions;
mod report;

pub use authority::Ca;
pub use chain::{Chain, Kind, Scenario};
pub use handshakes::Resumed;
pub use identity::{Certificates, Handshakes, IdentityReport};
pub use instructions::{Counts, Path};
pub use report::{Report, Round};
