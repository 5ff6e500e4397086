//! The mesh end to end: real binaries, real redirection, real peers; nothing in between is mocked.
//!
//! One binary with one room per theme, so that the rooms run beside each other: `cargo test --workspace --test mesh tcp::`.
#![allow(clippy::unwrap_used)]

mod delay;
mod pair;
mod scripted;
mod wire;

mod admin;
mod again;
mod application;
mod bad_input;
mod balance;
mod begun;
mod bounds;
mod breakers;
mod closes;
mod crowd;
mod detection;
mod early;
mod endings;
mod endpoints;
mod exchange;
mod failures;
mod families;
mod forward;
mod gateway;
mod grpc;
mod hello;
mod hostile;
mod http;
mod isolation;
mod itself;
mod leaving;
mod lifecycle;
mod loops;
mod metrics;
mod mtls;
mod outage;
mod pools;
mod probes;
mod refusals;
mod resets;
mod retries;
mod rotation;
mod routes;
mod sources;
mod spelling;
mod stream_resets;
mod tcp;
mod tproxy;
mod tracing;
mod transparent;
mod trust;
mod upgrade;
