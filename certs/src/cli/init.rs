//! `remora-certs init`.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use remora_model::TrustDomain;
use remora_model::identity::KeyKind;

use super::DAY;
use super::value::key_kind;
use crate::Error;
use crate::ca::{CaDirectory, Lifetimes};
use crate::verify::Clock;

#[derive(Debug, Args)]
pub(super) struct Init {
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
    /// What kind of keys root and intermediate get: p256, ed25519 or rsa-2048.
    #[arg(long, value_name = "KIND", default_value = "p256", value_parser = key_kind)]
    key: KeyKind,
}

pub(super) fn run(arguments: &Init, out: &mut dyn Write) -> Result<(), Error> {
    let Init { dir, trust_domain, root_days, intermediate_days, key } = arguments;
    let lifetimes = Lifetimes { root: DAY * *root_days, intermediate: DAY * *intermediate_days };
    let ca = CaDirectory::init_of_kind(dir, trust_domain, lifetimes, *key)?;
    let (dir, end) = (dir.display(), ca.authority().validity().not_after);
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
