//! `remora-proxy`: reads its arguments, sets up logging, and runs the proxy.
#![allow(clippy::print_stdout, clippy::print_stderr)] // A command-line program: these are its answers.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use remora_proxy::admin::Loggers;
use remora_proxy::control;

/// Allocation is on the request path; mimalloc costs the least of it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The sidecar proxy: intercepts a pod's traffic, protects, routes, balances and tells of it.
#[derive(Debug, Parser)]
#[command(name = "remora-proxy", version)]
struct Arguments {
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

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(file) = arguments.validate {
        return validate(&file);
    }
    let loggers = match Loggers::install(&arguments.log, arguments.log_format == "json") {
        Ok(loggers) => loggers,
        Err(error) => return fail(&error.to_string(), 2),
    };
    let Some(config) = arguments.config else { return fail("no --config", 2) };
    match control::run(config, loggers) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure.to_string(), failure.exit_code()),
    }
}

fn validate(file: &std::path::Path) -> ExitCode {
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
