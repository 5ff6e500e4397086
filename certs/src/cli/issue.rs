//! `remora-certs issue`.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Args;
use remora_model::SpiffeId;
use remora_model::identity::KeyKind;

use super::value::{Offset, duration, key_kind, moment, offset, owner};
use crate::ca::{Authority, CaDirectory, CaError, Issued, IssuedRecord, Proof, Validity, seconds};
use crate::file::Owner;
use crate::leaf::Leaf;
use crate::verify::Clock;
use crate::{Error, pem};

#[derive(Debug, Args)]
pub(super) struct Issue {
    /// The CA's directory, as `init` made it.
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// Whom the SVID names: spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT.
    #[arg(long, value_name = "SPIFFE-ID")]
    id: SpiffeId,
    /// Where to put cert.pem, key.pem and bundle.pem; made if missing. Older ones are replaced.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// How long from now it is valid (90s, 15m, 24h, 7d); cut to the CA's own end.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    ttl: Duration,
    /// When its validity begins, from now: -2m, or +1h for later.
    #[arg(long, value_name = "[-+]DURATION", default_value = "-2m", value_parser = offset, allow_hyphen_values = true)]
    not_before_offset: Offset,
    /// When its validity begins, exactly (2026-01-31T12:00:00Z). Not cut to the CA's.
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "not_before_offset")]
    not_before: Option<SystemTime>,
    /// When its validity ends, exactly. Not cut to the CA's; may be past, to try out what expiry does.
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "ttl")]
    not_after: Option<SystemTime>,
    /// Whom the files belong to, as numbers; otherwise to whom the replaced ones did, or to you.
    #[arg(long, value_name = "UID[:GID]", value_parser = owner)]
    owner: Option<Owner>,
    /// Sign for a trust domain that is not the CA's. Peers refuse the result: it is for trying that out.
    #[arg(long)]
    any_trust_domain: bool,
    /// What kind of key the workload gets: p256, ed25519 or rsa-2048.
    #[arg(long, value_name = "KIND", default_value = "p256", value_parser = key_kind)]
    key: KeyKind,
}

/// How often signing is tried again while the CA is being rotated.
const ATTEMPTS: usize = 10;

pub(super) fn run(arguments: &Issue, out: &mut dyn Write) -> Result<(), Error> {
    for _ in 1..ATTEMPTS {
        match issue(arguments, out) {
            // Rotated between signing and recording: what was signed is thrown away.
            Err(Error::Ca(CaError::Changed(_))) => {}
            result => return result,
        }
    }
    issue(arguments, out)
}

fn issue(arguments: &Issue, out: &mut dyn Write) -> Result<(), Error> {
    let ca = CaDirectory::open(&arguments.ca)?;
    let authority = ca.authority();
    if !arguments.any_trust_domain {
        authority.check_domain(&arguments.id)?;
    }
    let now = SystemTime::now();
    let (validity, cut) = validity(arguments, authority, now)?;
    let issued = authority.issue_of_kind(&arguments.id, validity, arguments.key)?;
    let replaced = replaced(arguments);
    ca.record(&IssuedRecord {
        serial: issued.serial.clone(),
        spiffe_id: arguments.id.clone(),
        anchor: authority.anchor().ok_or_else(|| CaError::NoAnchor(arguments.ca.clone()))?,
        signer: authority.fingerprint(),
        issued_at: seconds(now),
        not_after: seconds(validity.not_after),
        bundle_version: ca.bundle_version(),
        instance: std::path::absolute(&arguments.out).ok().map(|out| out.display().to_string()),
        replaces: None,
        by: Proof::Command,
        proved_by: None,
    })?;
    issued.write(&arguments.out, ca.bundle_pem(), arguments.owner)?;
    if let Some(replaced) = replaced {
        // Only now: until the files were in place, the old certificate was the one in use.
        ca.record_adoption(&issued.serial, &replaced)?;
    }
    report(arguments, &issued, cut, out)
}

/// The leaf's validity; and, where that is less than asked for, what was.
fn validity(
    arguments: &Issue,
    authority: &Authority,
    now: SystemTime,
) -> Result<(Validity, Option<SystemTime>), Error> {
    let end = now + arguments.ttl;
    let wanted = Validity { not_before: arguments.not_before_offset.from(now), not_after: end };
    let cut = authority.cut(wanted);
    if cut.not_after < cut.not_before && wanted.not_before <= wanted.not_after {
        let Validity { not_before, not_after } = authority.validity();
        return Err(Error::SignerNotValid { not_before, not_after });
    }
    let validity = Validity {
        not_before: arguments.not_before.unwrap_or(cut.not_before),
        not_after: arguments.not_after.unwrap_or(cut.not_after),
    };
    Ok((validity, (arguments.not_after.is_none() && cut.not_after < end).then_some(end)))
}

/// The serial number of the certificate that is there now, where it names the same workload.
fn replaced(arguments: &Issue) -> Option<String> {
    let path = arguments.out.join("cert.pem");
    let chain = pem::certificates(&path, &pem::read(&path).ok()?).ok()?;
    let leaf = Leaf::parse(chain.first()?, &[]).ok()?;
    (leaf.spiffe_id == arguments.id).then_some(leaf.serial)
}

fn report(arguments: &Issue, issued: &Issued, asked: Option<SystemTime>, out: &mut dyn Write) -> Result<(), Error> {
    let (id, dir, serial) = (&arguments.id, arguments.out.display(), &issued.serial);
    let (from, until) = (Clock(&issued.validity.not_before), Clock(&issued.validity.not_after));
    writeln!(out, "Issued {id}\n  in      {dir} (cert.pem, key.pem, bundle.pem)\n  serial  {serial}")
        .and_then(|()| writeln!(out, "  valid   {from} to {until}"))
        .and_then(|()| match asked {
            Some(end) => writeln!(out, "  note    cut to the CA's own end; --ttl asked for {}", Clock(&end)),
            None => Ok(()),
        })
        .map_err(Error::Output)
}
