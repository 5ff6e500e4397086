//! `remora-proxy`: reads its arguments, sets up logging, and runs the proxy, or asks one that runs.
#![allow(clippy::print_stdout, clippy::print_stderr)] // A command-line program: these are its answers.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use remora_model::capture::ADMIN_PORT;
use remora_proxy::admin::{Loggers, flush_log};
use remora_proxy::{control, leave, wait};

/// Allocation is on the request path; mimalloc costs the least of it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The sidecar proxy: intercepts a pod's traffic, protects, routes, balances and tells of it.
#[derive(Debug, Parser)]
#[command(name = "remora-proxy", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// The configuration file (YAML); watched, and reloaded when it changes.
    #[arg(long, env = "REMORA_CONFIG", value_name = "FILE", required_unless_present = "validate")]
    config: Option<PathBuf>,

    /// Checks a configuration file, tells every error in it, and exits.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    validate: Option<PathBuf>,

    /// What is logged: error, warn, info, debug, trace, or a filter such as `info,remora_proxy::tls=debug`.
    #[arg(long, env = "REMORA_LOG", default_value = "info", value_name = "FILTER")]
    log: String,

    /// How log lines look.
    #[arg(long, env = "REMORA_LOG_FORMAT", default_value = "text", value_parser = ["text", "json"])]
    log_format: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Waits until the proxy of this pod is ready: exits with 0, or else with 1 and the reasons.
    Wait {
        /// How long, such as 500ms, 60s or 5m.
        #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = remora_config::duration)]
        timeout: Duration,

        /// Where the proxy tells of its readiness.
        #[arg(long, default_value = "127.0.0.1:15021", value_name = "IP:PORT")]
        address: SocketAddr,
    },

    /// Tells the proxy of this pod that the pod leaves: from now on inbound connections are soon replaced, so that callers find
    /// the endpoints that stay. Exits with 0 also where no proxy runs.
    Leave {
        /// The proxy's configuration, which says where its admin interface is. Without one it is at 127.0.0.1:15000.
        #[arg(long, env = "REMORA_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,

        /// Where its admin interface is, whatever the configuration says.
        #[arg(long, value_name = "IP:PORT")]
        address: Option<SocketAddr>,
    },
}

fn main() -> ExitCode {
    // Where the kernel gives huge pages unasked: the allocator, built so, does not ask for them.
    let _ = nix::sys::prctl::set_thp_disable(true);
    let arguments = Arguments::parse();
    if let Some(command) = arguments.command {
        return ask(command);
    }
    if let Some(file) = arguments.validate {
        return validate(&file);
    }
    let loggers = match Loggers::install(&arguments.log, arguments.log_format == "json") {
        Ok(loggers) => loggers,
        Err(error) => return fail(&error.to_string(), 2),
    };
    let Some(config) = arguments.config else { return fail("no --config", 2) };
    let run = control::run(config, loggers);
    flush_log();
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure.to_string(), failure.exit_code()),
    }
}

fn ask(command: Command) -> ExitCode {
    match command {
        Command::Wait { timeout, address } => match wait::until_ready(address, timeout) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error.to_string(), 1),
        },
        Command::Leave { config, address } => match address.map_or_else(|| admin_address(config.as_deref()), Ok) {
            Ok(address) => leave_at(address),
            Err(errors) => fail(&errors.to_string(), 2),
        },
    }
}

/// Where the proxy of this configuration has its admin interface.
fn admin_address(config: Option<&Path>) -> Result<SocketAddr, remora_config::Errors> {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT));
    config.map_or(Ok(usual), |file| Ok(remora_config::load(file)?.admin.address))
}

fn leave_at(address: SocketAddr) -> ExitCode {
    match leave::leave(address) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => fail(&format!("no proxy at {address}"), 0),
        Err(error) => fail(&format!("{address}: {error}"), 1),
    }
}

fn validate(file: &Path) -> ExitCode {
    match remora_config::load(file) {
        Ok(_) => {
            println!("{} is valid", file.display());
            ExitCode::SUCCESS
        }
        Err(errors) => fail(&errors.to_string(), 2),
    }
}

fn fail(message: &str, code: u8) -> ExitCode {
    for line in message.lines() {
        eprintln!("remora-proxy: {line}");
    }
    ExitCode::from(code)
}
