//! The three applications of the shop, and two small servers beside them, in one binary.
//!
//! None of them knows that a mesh exists: they speak plain HTTP/1.1 and plain gRPC, link no TLS and no tracing library,
//! and of everything a mesh does they take part in one thing only: the trace headers of a request are passed on to the
//! requests it causes (see [`headers`]).
#![allow(clippy::print_stderr, reason = "a server of an example says on stderr where it listens and why it ends")]

mod catalog;
mod collector;
mod echo;
mod headers;
mod http_server;
mod ledger;
mod pricing;
mod stop;
mod storefront;
mod trace_store;

use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tokio::net::TcpListener;

#[derive(Parser)]
#[command(name = "remora-shop", version, about = "A small shop of three plain applications")]
struct Cli {
    #[command(subcommand)]
    application: Application,
}

#[derive(Subcommand)]
enum Application {
    /// The shop's door (HTTP/1.1): GET /products, GET /stock, POST /orders
    Storefront(storefront::Args),
    /// What the shop sells (gRPC)
    Catalog(catalog::Args),
    /// What it costs (HTTP/1.1)
    Pricing(pricing::Args),
    /// Repeats what it is told (TCP)
    Ledger(ledger::Args),
    /// Answers every request (HTTP/1.1 and HTTP/2) with what it received, as JSON
    Echo(echo::Args),
    /// Receives spans (OTLP over gRPC) into memory and serves them as JSON
    Collector(collector::Args),
}

/// How long an application waits for what is under way once it was told to stop.
const GRACE: Duration = Duration::from_secs(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().application {
        Application::Storefront(args) => storefront::run(args).await,
        Application::Catalog(args) => catalog::run(args).await,
        Application::Pricing(args) => pricing::run(args).await,
        Application::Ledger(args) => ledger::run(args).await,
        Application::Echo(args) => echo::run(args).await,
        Application::Collector(args) => collector::run(args).await,
    }
}

/// Binds `address`, and says so on stderr once clients can connect.
async fn listen(what: &str, address: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("{what} cannot listen on {address}"))?;
    eprintln!("{what} listens on {}", listener.local_addr()?);
    Ok(listener)
}
