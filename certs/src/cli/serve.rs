//! `remora-certs serve`: the authority as a service.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use remora_model::{SpiffeId, TrustDomain};
use tracing_subscriber::EnvFilter;

use super::value::duration;
use crate::Error;
use crate::ca::SignerFiles;
use crate::server::reviewer::template::SubjectTemplate;
use crate::server::{self, DirectoryStore, Kubernetes, KubernetesAccess, Oidc, Presence, Settings};

/// The options of `remora-certs serve`.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// The CA's directory: signer and bundle, the record of certificates, join tokens.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Where to serve gRPC; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:15012")]
    listen: SocketAddr,
    /// Where to serve /metrics, /ready and /healthz.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:15013")]
    admin: SocketAddr,
    /// Write the addresses listened on to this file once they are.
    #[arg(long, value_name = "FILE")]
    address_file: Option<PathBuf>,
    /// Let another process listen on the same ports (SO_REUSEPORT), so that it can start before this one ends.
    #[arg(long)]
    reuse_port: bool,
    /// A DNS name or IP address that clients reach this server by; repeat for more. Otherwise localhost, 127.0.0.1, ::1.
    #[arg(long = "dns-name", value_name = "NAME")]
    dns_names: Vec<String>,
    /// This server's own identity. Otherwise spiffe://TRUST-DOMAIN/ns/remora-system/sa/remora-certs.
    #[arg(long, value_name = "SPIFFE-ID")]
    spiffe_id: Option<SpiffeId>,
    /// The trust domain, where the signing certificate names none.
    #[arg(long, value_name = "DOMAIN")]
    trust_domain: Option<TrustDomain>,
    #[command(flatten)]
    signer: SignerOptions,
    #[command(flatten)]
    callers: CallerOptions,
    /// The longest life of a leaf; wishes beyond it are cut.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    max_ttl: Duration,
    /// Requests a minute that each caller (SPIFFE ID) may make.
    #[arg(long, value_name = "N", default_value = "600")]
    rate: NonZeroU32,
    /// Connections at once; every proxy that follows the trust bundle holds one.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = connections)]
    max_connections: usize,
    /// How long calls may go on after SIGTERM.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    grace: Duration,
    /// How log and audit lines are written to standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// A signer issued elsewhere, by cert-manager or Vault: all three together.
#[derive(Debug, Args)]
struct SignerOptions {
    /// The certificate to sign with (and those above it), if it is not the directory's.
    #[arg(long, value_name = "FILE", requires_all = ["signer_key", "bundle"])]
    signer_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "signer_cert")]
    signer_key: Option<PathBuf>,
    /// The roots to hand out with what it signs.
    #[arg(long, value_name = "FILE", requires = "signer_cert")]
    bundle: Option<PathBuf>,
}

/// Who may ask.
#[derive(Debug, Args)]
struct CallerOptions {
    /// Accept service-account tokens, judged by the Kubernetes API server (TokenReview).
    #[arg(long)]
    kubernetes: bool,
    /// How to reach the API server; otherwise the cluster this runs in.
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    kubeconfig: Option<PathBuf>,
    /// The audience that service-account tokens must be for.
    #[arg(long, value_name = "AUDIENCE", default_value = "remora-ca")]
    audience: String,
    /// Accept tokens of this OIDC issuer (exactly as in their `iss`).
    #[arg(long, value_name = "ISSUER", requires = "oidc_jwks")]
    oidc_issuer: Option<String>,
    /// The issuer's keys: a file, an https URL, or an http URL on loopback.
    #[arg(long, value_name = "FILE|URL", requires = "oidc_issuer")]
    oidc_jwks: Option<String>,
    /// CA certificates that the URL's server is verified by; otherwise the system's.
    #[arg(long, value_name = "FILE", requires = "oidc_jwks")]
    oidc_jwks_ca: Option<PathBuf>,
    /// The audience that the issuer's tokens must be for; otherwise as --audience.
    #[arg(long, value_name = "AUDIENCE", requires = "oidc_issuer")]
    oidc_audience: Option<String>,
    /// The identity's path, with claims: /ns/{kubernetes.io/namespace}/sa/{sub}. Otherwise a token must name a
    /// Kubernetes service account.
    #[arg(long, value_name = "TEMPLATE", requires = "oidc_issuer")]
    oidc_subject_template: Option<SubjectTemplate>,
    /// Accept join tokens made by `remora-certs token`, and renewals by the certificates that began with one.
    #[arg(long)]
    join_tokens: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=1_000_000) => Ok(number),
        _ => Err("a number from 1 to 1000000".to_owned()),
    }
}

/// Serves until SIGTERM or SIGINT.
pub(super) fn serve(arguments: Serve) -> Result<(), Error> {
    log(arguments.log_format);
    let signer = match (&arguments.signer.signer_cert, &arguments.signer.signer_key, &arguments.signer.bundle) {
        (Some(certificate), Some(key), Some(bundle)) => {
            Some(SignerFiles { certificate: certificate.clone(), key: key.clone(), bundle: bundle.clone() })
        }
        _ => None,
    };
    let store = DirectoryStore::open(&arguments.dir, signer)?;
    server::run(Arc::new(store), settings(arguments)).map_err(|error| match error {
        server::Error::Certs(error) => error,
        error => Error::Serve(Box::new(error)),
    })
}

fn settings(arguments: Serve) -> Settings {
    let CallerOptions { audience, .. } = &arguments.callers;
    let audience = audience.clone();
    let callers = arguments.callers;
    let oidc = match (callers.oidc_issuer, callers.oidc_jwks) {
        (Some(issuer), Some(jwks)) => Some(Oidc {
            issuer,
            jwks,
            jwks_ca: callers.oidc_jwks_ca,
            audience: callers.oidc_audience.unwrap_or_else(|| audience.clone()),
            template: callers.oidc_subject_template,
        }),
        _ => None,
    };
    let names = match arguments.dns_names {
        names if names.is_empty() => ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into(),
        names => names,
    };
    Settings {
        listen: arguments.listen,
        admin: Some(arguments.admin),
        reuse_port: arguments.reuse_port,
        address_file: arguments.address_file,
        presence: Presence { names, trust_domain: arguments.trust_domain, spiffe_id: arguments.spiffe_id },
        kubernetes: callers.kubernetes.then(|| Kubernetes {
            access: callers.kubeconfig.map_or(KubernetesAccess::InCluster, KubernetesAccess::Kubeconfig),
            audience,
        }),
        oidc,
        join_tokens: callers.join_tokens,
        max_ttl: arguments.max_ttl,
        rate: arguments.rate,
        max_connections: arguments.max_connections,
        grace: arguments.grace,
    }
}

/// Log lines go to standard error; RUST_LOG chooses them, `info` and so the audit lines by default.
fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call, in a test, leaves the first one's.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
