//! HTTP as the request path sees it, whatever the version: [`RequestHead`], [`ResponseHead`] and [`Body`](body::Body).
//! What belongs to one version stays in its own module.

pub mod body;
pub(crate) mod fields;
pub mod h1;
pub(crate) mod h2;
pub mod head;
mod held;
pub(crate) mod informational;
pub(crate) mod resend;
pub mod spelling;
pub(crate) mod stall;
pub mod trailers;

pub use body::Body;
pub use head::{RequestHead, ResponseHead};
pub use spelling::Spelling;
