//! `remora-demo`: the shop in a mesh on this machine. Every pod is a network namespace with the real `remora-init`, the
//! real `remora-proxy` under its own user and a real application; what is printed about them was measured on them, and
//! a claim that does not hold ends the demo with exit code 1.

mod balance;
mod capture;
mod rotation;
mod strict;
mod trace;
mod traces;
mod wire;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use shop_mesh::raised::Mesh;
use shop_mesh::screen::Screen;
use shop_mesh::{jaeger, state};

#[derive(Parser)]
#[command(
    name = "remora-demo",
    version,
    about = "Runs the shop in a mesh on this machine and shows what the mesh does"
)]
struct Cli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Builds the mesh, shows what it does, takes it down
    Run(RunArgs),
    /// Takes down what `run --keep` left up
    Down,
    /// Passes TCP connections on to another address
    #[command(hide = true)]
    Relay(jaeger::RelayArgs),
}

#[derive(clap::Args)]
struct RunArgs {
    /// Leave the mesh up at the end
    #[arg(long)]
    keep: bool,
    /// A running Jaeger's query address, such as http://127.0.0.1:16686; spans go to port 4317 of the same host
    #[arg(long, value_name = "URL")]
    jaeger: Option<String>,
    /// Show the trace only
    #[arg(long)]
    trace_only: bool,
    /// Fail unless the traces come from a real Jaeger
    #[arg(long)]
    need_jaeger: bool,
    /// Folder with the configuration files of the pods
    #[arg(long, value_name = "FOLDER")]
    config: std::path::PathBuf,
}

/// Exit code after SIGINT or SIGTERM, as shells count it for the former.
const INTERRUPTED: u8 = 130;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let screen = Screen::current();
    let outcome = match Cli::parse().action {
        Action::Run(args) => run(&screen, &args).await,
        Action::Down => down(&screen),
        Action::Relay(args) => jaeger::relay(args).await.map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        screen.failed(&error);
        ExitCode::FAILURE
    })
}

/// The whole demo; whatever way it ends, nothing stays behind unless that was asked for.
async fn run(screen: &Screen, args: &RunArgs) -> anyhow::Result<ExitCode> {
    let state = state::begin(Duration::ZERO)?;
    let mut mesh = Mesh::default();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut hang_up = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let told = tokio::select! {
        told = story(screen, args, &mut mesh) => Some(told),
        _ = tokio::signal::ctrl_c() => None,
        _ = terminate.recv() => None,
        _ = hang_up.recv() => None,
    };
    match &told {
        Some(Ok(())) if args.keep => {
            mesh.leave_running();
            state.keep()?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Ok(())) => {}
        // While the logs still exist.
        Some(Err(_)) => mesh.show_last_words(screen),
        None => screen.note("interrupted: cleaning up"),
    }
    if mesh.is_up() {
        screen.busy("taking the mesh down");
        mesh.stop();
    }
    state.finish()?;
    match told {
        None => Ok(ExitCode::from(INTERRUPTED)),
        Some(Err(error)) => Err(error),
        Some(Ok(())) => {
            screen.good("every process ended, every namespace and file removed");
            screen.finished();
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn story(screen: &Screen, args: &RunArgs, mesh: &mut Mesh) -> anyhow::Result<()> {
    let source = jaeger::choose(args.jaeger.as_deref(), args.need_jaeger).await?;
    screen.title("The mesh");
    mesh.raise(screen, &args.config, source).await?;
    if !args.trace_only {
        screen.title("The wire between the pods is TLS");
        wire::show(screen, mesh).await?;
        screen.title("A caller without a certificate is refused");
        strict::show(screen, mesh).await?;
        screen.title("Which replica answered");
        balance::show(screen, mesh).await?;
        screen.title("Certificates rotate under load");
        rotation::show(screen, mesh).await?;
    }
    screen.title("One request, one trace");
    let link = trace::show(screen, mesh).await?;
    if args.keep {
        screen.title("Still up");
        mesh.show_what_to_try(screen, link.as_deref());
    }
    Ok(())
}

fn down(screen: &Screen) -> anyhow::Result<ExitCode> {
    if state::take_down()? {
        screen.good("the demo is down");
    } else {
        screen.note("no demo is up");
    }
    Ok(ExitCode::SUCCESS)
}
