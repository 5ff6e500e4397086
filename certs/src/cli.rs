//! The command line of `remora-certs`.

mod value;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{Args, Parser, Subcommand};
use remora_model::{SpiffeId, TrustDomain};

use self::value::{Offset, duration, moment, offset, owner};
use crate::ca::{CaDirectory, Issued, Lifetimes, Validity};
use crate::file::{Access, Owner, Prepared};
use crate::show::Report;
use crate::verify::Clock;
use crate::{Error, pem};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes a certificate authority, issues workload identities (X.509-SVIDs) and explains certificates.
#[derive(Debug, Parser)]
#[command(name = "remora-certs", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a certificate authority: a root and an intermediate in a directory. Never overwrites one.
    Init(Init),
    /// Issue an SVID: a key and a certificate for one SPIFFE ID, with the trust bundle beside them.
    Issue(Issue),
    /// Explain certificates, bundles or directories. Keys are never shown.
    Show(Show),
}

#[derive(Debug, Args)]
struct Init {
    /// Where to put the CA; made if missing.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The trust domain the CA signs for, such as example.org.
    #[arg(long, value_name = "DOMAIN")]
    trust_domain: TrustDomain,
    /// Days until the root ends.
    #[arg(long, value_name = "N", default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36500))]
    root_days: u32,
    /// Days until the intermediate ends.
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36500))]
    intermediate_days: u32,
}

#[derive(Debug, Args)]
struct Issue {
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
}

#[derive(Debug, Args)]
struct Show {
    /// Certificates, bundles, or directories with them.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Does what the command line says; what a person reads goes to `out`.
///
/// # Errors
/// What failed, and on which file. Nothing is half done: files appear whole or not at all.
pub fn run(cli: Cli, out: &mut dyn Write) -> Result<(), Error> {
    match cli.command {
        Command::Init(arguments) => init(&arguments, out),
        Command::Issue(arguments) => issue(&arguments, out),
        Command::Show(arguments) => show(&arguments, out),
    }
}

fn init(arguments: &Init, out: &mut dyn Write) -> Result<(), Error> {
    let Init { dir, trust_domain, root_days, intermediate_days } = arguments;
    let lifetimes = Lifetimes { root: DAY * *root_days, intermediate: DAY * *intermediate_days };
    let ca = CaDirectory::init(dir, trust_domain, lifetimes)?;
    let intermediate = ca.intermediate()?;
    let (dir, end) = (dir.display(), intermediate.validity().not_after);
    writeln!(
        out,
        "Made a certificate authority for {trust_domain} in {dir}\n\n  \
         root.pem, root-key.pem                  the root; keep its key offline, it only signs intermediates\n  \
         intermediate.pem, intermediate-key.pem  what signs SVIDs, until {}\n  \
         bundle.pem                              what every workload trusts\n\n\
         Next: remora-certs issue --ca {dir} --id spiffe://{trust_domain}/ns/NAMESPACE/sa/ACCOUNT --out DIR",
        Clock(&end)
    )
    .map_err(Error::Output)
}

fn issue(arguments: &Issue, out: &mut dyn Write) -> Result<(), Error> {
    let ca = CaDirectory::at(&arguments.ca);
    let authority = ca.intermediate()?;
    match authority.trust_domain() {
        Some(ours) if ours.as_str() != arguments.id.trust_domain() && !arguments.any_trust_domain => {
            return Err(Error::ForeignId { id: arguments.id.clone(), trust_domain: ours.clone() });
        }
        _ => {}
    }
    let now = SystemTime::now();
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
    let issued = authority.issue(&arguments.id, validity)?;
    write_svid(arguments, &issued, &ca.bundle_pem()?)?;
    let (id, dir, serial) = (&arguments.id, arguments.out.display(), &issued.serial);
    let (from, until) = (Clock(&validity.not_before), Clock(&validity.not_after));
    writeln!(out, "Issued {id}\n  in      {dir} (cert.pem, key.pem, bundle.pem)\n  serial  {serial}")
        .and_then(|()| writeln!(out, "  valid   {from} to {until}"))
        .and_then(|()| match arguments.not_after.is_none() && cut.not_after < end {
            true => writeln!(out, "  note    cut to the CA's own end; --ttl asked for {}", Clock(&end)),
            false => Ok(()),
        })
        .map_err(Error::Output)
}

/// All three files are complete on disk before the first is put in place, and then follow one another at once: trust
/// first, then key and certificate, so that a reader meets an old certificate with a new key for a moment at most.
fn write_svid(arguments: &Issue, issued: &Issued, bundle: &[u8]) -> Result<(), Error> {
    let Issue { out, owner, .. } = arguments;
    std::fs::create_dir_all(out).map_err(|source| Error::Write { path: out.clone(), source })?;
    let files = [
        ("bundle.pem", bundle, Access::Public),
        ("key.pem", issued.key_pem.as_bytes(), Access::Secret),
        ("cert.pem", issued.chain_pem.as_bytes(), Access::Public),
    ];
    let prepared = files
        .into_iter()
        .filter(|(name, content, access)| *access == Access::Secret || !is_already(&out.join(name), content, *owner))
        .map(|(name, content, access)| Prepared::new(&out.join(name), content, access, *owner))
        .collect::<Result<Vec<_>, _>>()?;
    prepared.into_iter().try_for_each(Prepared::replace)
}

/// An unchanged bundle is left alone, unless it is to change hands.
fn is_already(path: &Path, content: &[u8], owner: Option<Owner>) -> bool {
    owner.is_none() && pem::read(path).is_ok_and(|there| there == content)
}

fn show(arguments: &Show, out: &mut dyn Write) -> Result<(), Error> {
    let report = Report::of(&arguments.paths, SystemTime::now())?;
    match arguments.json {
        true => report.write_json(out),
        false => report.write_text(out),
    }
    .map_err(Error::Output)
}

#[cfg(test)]
mod tests;
