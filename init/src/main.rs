//! `remora-init`: redirects a pod's traffic to the sidecar proxy and exits.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    ExitCode::from(remora_init::cli::main(&arguments))
}
