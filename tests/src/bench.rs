//! Side-by-side measurements: the same load, in the same run, through two sidecars of Remora, of its peers, and through none;
//! and the certificate authority, which has no peer here.
//!
//! The machine's noise is larger than most differences, so rounds are interleaved, medians are taken, and only ratios within one
//! run mean anything.
//!
//! * [`scenario`](Scenario) says what is measured; [`Chain`] sets it up and carries a round, through sidecars that `sidecars` starts;
//!   `grpc`, `bulk` and `handshakes` are loads beside h2load.
//! * [`Growth`] measures Remora alone as work grows; [`profile`] and [`flame`] show where time goes; [`Scenario::instructions`] counts.
//! * [`Report`] keeps the rounds; [`goals`], [`tables`], [`page`] and [`picture`] tell of them.

mod authority;
mod bulk;
mod chain;
mod counters;
mod flame;
mod goals;
mod grpc;
mod handshakes;
mod instructions;
mod latency;
mod page;
mod picture;
mod profile;
mod report;
mod scale;
mod scenario;
mod sidecars;
mod template;

pub use authority::Ca;
pub use chain::Chain;
pub use flame::{Stacks, flame};
pub use goals::{Bound, Goal, goals};
pub use handshakes::Resumed;
pub use instructions::{Counts, Tracing};
pub use page::{page, picture, tables};
pub use profile::profile;
pub use report::{Costs, Machine, Report, Round};
pub use scale::{Curves, Growth, MOST, Shape, scale_json, scale_picture};
pub use scenario::{Kind, Scenario};
