//! `remora uninject`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::output::{Outcome, Output, transform};
use crate::inject;

/// The flags of `remora uninject`.
///
/// Exit code 0: done; 1: a file cannot be read or is not valid, and nothing was written; 2: the command line is wrong.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Files, folders, or - for standard input
    #[arg(default_value = "-", value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match super::input::read(&arguments.files) {
        Ok(inputs) => {
            transform(&inputs, &arguments.output, "sidecar removed", |_, pod| Outcome::Patched(inject::uninject(pod)))
        }
        Err(problems) => {
            problems.iter().for_each(|line| eprintln!("{line}"));
            ExitCode::FAILURE
        }
    }
}
