//! `remora-drill`: the shop's mesh under load of three kinds while every certificate of it is replaced, up to the root.
//! It ends with what went wrong, counted, and an exit code that says whether anything did.

mod authority;
mod certs;
mod connections;
mod counts;
mod floors;
mod load;
mod requests;
mod server;
mod story;
mod streams;
mod swaps;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use shop_mesh::raised::Mesh;
use shop_mesh::screen::Screen;
use shop_mesh::state;
use tokio::signal::unix::{SignalKind, signal};

/// Replaces every certificate of a running mesh under load, and counts what fails
#[derive(Parser)]
#[command(name = "remora-drill", version)]
struct Cli {
    /// Folder with the configuration files of the pods
    #[arg(long, value_name = "FOLDER")]
    config: PathBuf,
    /// How long the load lasts at least, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    secs: u64,
    /// How many times files are swapped, in all
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    swaps: u64,
    /// A third of a minute and fewer swaps
    #[arg(long, conflicts_with_all = ["secs", "swaps"])]
    short: bool,
    /// Drop the old root while a sidecar still has a certificate of it: a drill that must fail
    #[arg(long)]
    drop_early: bool,
}

/// Exit code after SIGINT or SIGTERM, as shells count it for the former.
const INTERRUPTED: u8 = 130;
/// How long another drill or demo on this machine is waited for.
const PATIENCE: Duration = Duration::from_secs(300);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let screen = Screen::current();
    let mut cli = Cli::parse();
    if cli.short {
        (cli.secs, cli.swaps) = (20, 60);
    }
    run(&screen, &cli).await.unwrap_or_else(|error| {
        screen.failed(&error);
        ExitCode::FAILURE
    })
}

/// The whole drill; whatever way it ends, nothing stays behind.
async fn run(screen: &Screen, cli: &Cli) -> anyhow::Result<ExitCode> {
    let state = state::begin(PATIENCE)?;
    let mut mesh = Mesh::default();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let told = tokio::select! {
        told = story::run(screen, cli, &mut mesh) => Some(told),
        _ = tokio::signal::ctrl_c() => None,
        _ = terminate.recv() => None,
    };
    if !matches!(&told, Some(Ok(verdict)) if verdict.is_clean()) && !cli.drop_early {
        // While the logs still exist.
        mesh.show_last_words(screen);
    }
    mesh.stop();
    state.finish()?;
    let Some(told) = told else { return Ok(ExitCode::from(INTERRUPTED)) };
    let verdict = told?;
    screen.plain("every process ended, every namespace and file removed");
    screen.plain(&verdict.to_string());
    Ok(if verdict.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
