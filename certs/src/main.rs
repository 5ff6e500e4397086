//! `remora-certs`: makes a CA, issues SVIDs, explains certificates.

use std::io::{self, Write};

use clap::Parser;
use remora_certs::cli::{Cli, run};

fn main() -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    run(Cli::parse(), &mut out)?;
    out.flush()?;
    Ok(())
}
