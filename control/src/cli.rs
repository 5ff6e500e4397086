//! The command line of `remora`: which command, and the exit code it ends with.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a program's own output

mod check;
mod control;
mod inject;
mod input;
mod install;
mod output;
mod run;
mod uninject;
mod workloads;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A service mesh beside your applications
#[derive(Debug, Parser)]
#[command(name = "remora", version)]
struct Remora {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Adds the sidecar to the pods in Kubernetes manifests
    Inject(inject::Arguments),
    /// Takes the sidecar out of Kubernetes manifests again
    Uninject(uninject::Arguments),
    Check(check::Check),
    Control(control::Control),
    Install(install::Install),
    Uninstall(install::Uninstall),
    Run(run::Run),
    #[command(hide = true)]
    RunInside(run::RunInside),
    #[command(hide = true)]
    RunCommand(run::RunCommand),
}

/// Parses this process's command line, does what it says, and hands on the exit code.
#[must_use]
pub fn main() -> ExitCode {
    match Remora::parse().command {
        Command::Inject(arguments) => inject::run(&arguments),
        Command::Uninject(arguments) => uninject::run(&arguments),
        Command::Check(check) => check.run(&mut std::io::stdout()),
        Command::Run(run) => run.run(),
        Command::RunInside(inside) => inside.run(),
        Command::RunCommand(command) => command.run(),
        Command::Control(control) => ended(control.run()),
        Command::Install(install) => ended(install.run(&mut std::io::stdout())),
        Command::Uninstall(uninstall) => ended(uninstall.run(&mut std::io::stdout())),
    }
}

/// What a command that either does all or nothing ends with.
fn ended<E: std::fmt::Display>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
