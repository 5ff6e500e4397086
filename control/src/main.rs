//! `remora`: the tool in a person's hand.

use std::process::ExitCode;

fn main() -> ExitCode {
    remora_control::cli::main()
}
