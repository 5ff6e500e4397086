//! The mutating admission webhook: the API server shows each new pod, and gets the patch that injects it.
//!
//! [`review`] is pure: a request's body in, an answer or a refusal out. [`server`] speaks HTTPS, with the certificate that
//! [`certificates`] keeps fresh in a Secret and makes known to the API server.

pub mod certificates;
mod connections;
pub mod issue;
mod patience;
pub mod review;
pub mod server;
