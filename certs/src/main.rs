//! `remora-certs`: makes a CA, issues SVIDs, explains certificates.
#![allow(clippy::print_stderr)] // the one line that says what failed

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use clap::Parser;
use remora_certs::Error;
use remora_certs::cli::{Cli, run};

fn main() -> ExitCode {
    let mut out = io::stdout().lock();
    match run(Cli::parse(), &mut out).and_then(|()| out.flush().map_err(Error::Output)) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has read enough.
        Err(Error::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("remora-certs: {error}");
            ExitCode::FAILURE
        }
    }
}
