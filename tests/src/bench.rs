//! Side-by-side measurements: the same load, in the same run, through two sidecars of Remora and two of Envoy.
//!
//! The machine's noise is larger than most differences, so rounds are interleaved, medians are taken, and only ratios within one
//! run mean anything.

mod chain;
mod report;

pub use chain::{Chain, Kind, Scenario};
pub use report::{Report, Round};
