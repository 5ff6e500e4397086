//! `remora-certs revoke`.

use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use remora_model::SpiffeId;

use crate::Error;
use crate::ca::{CaDirectory, moment};
use crate::verify::Clock;

#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// The CA's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The certificate with this serial number.
    #[arg(long, value_name = "SERIAL", required_unless_present = "id", conflicts_with = "id")]
    serial: Option<String>,
    /// Every certificate of this identity that has not expired.
    #[arg(long, value_name = "SPIFFE-ID")]
    id: Option<SpiffeId>,
}

pub(super) fn run(arguments: &Revoke, out: &mut dyn Write) -> Result<(), Error> {
    let ca = CaDirectory::open(&arguments.dir)?;
    let serial = arguments.serial.as_ref().map(|serial| serial.replace(':', "").to_ascii_lowercase());
    let revoked = ca.revoke(
        |record| Some(&record.serial) == serial.as_ref() || Some(&record.spiffe_id) == arguments.id.as_ref(),
        SystemTime::now(),
    )?;
    for record in &revoked {
        let end = moment(record.not_after);
        writeln!(out, "Revoked {} of {}, which ends {}", record.serial, record.spiffe_id, Clock(&end))
            .map_err(Error::Output)?;
    }
    writeln!(out, "crl.pem in {} has it; proxies honour it where they are given the file", ca.path().display())
        .map_err(Error::Output)
}
