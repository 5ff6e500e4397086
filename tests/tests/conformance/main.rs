//! Other people's conformance suites, through one sidecar and through the whole chain; docs/conformance.md is their table.
//!
//! `make conformance` makes the peers and names their folder in `REMORA_CONFORMANCE`; without it all of this is SKIPPED, and so
//! is a suite whose peer is not there. A case that fails must stand in `conformance/waivers.tsv` with its reason, and one that
//! stands there must fail.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod course;
mod peers;
mod report;
mod tools;

mod corpus;
mod grpc;
mod http2;
mod matrix;
mod slow;
mod websocket;
