//! `remora-certs token`.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Args;
use remora_model::SpiffeId;

use super::value::duration;
use crate::Error;
use crate::ca::CaDirectory;

#[derive(Debug, Args)]
pub(super) struct Token {
    /// The CA's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Whom the bearer will be: spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT.
    #[arg(long, value_name = "SPIFFE-ID")]
    id: SpiffeId,
    /// How long from now it can be used (30s, 10m, 1h).
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    ttl: Duration,
}

/// Prints the token and nothing else, so that it can go straight into a file.
pub(super) fn run(arguments: &Token, out: &mut dyn Write) -> Result<(), Error> {
    let ca = CaDirectory::open(&arguments.dir)?;
    let token = ca.make_token(&arguments.id, arguments.ttl, SystemTime::now())?;
    writeln!(out, "{token}").map_err(Error::Output)
}
