//! The certificates that gateways terminate TLS with.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use remora_model::{DownstreamTls, Snapshot};

use crate::tls::GatewayTls;

/// TLS configurations by certificate and key file.
pub(crate) type GatewayCertificates = Arc<HashMap<(PathBuf, PathBuf), GatewayTls>>;

/// Reads the certificates of every gateway.
///
/// # Errors
/// A file cannot be read or used.
pub(super) fn load(snapshot: &Snapshot) -> Result<GatewayCertificates, remora_certs::Error> {
    let mut certificates = HashMap::new();
    for (certificate, key) in files(snapshot) {
        certificates.insert((certificate.clone(), key.clone()), GatewayTls::load(certificate, key)?);
    }
    Ok(Arc::new(certificates))
}

/// Every file whose change means a reload: the configuration and what it names.
pub(super) fn watched(config: &Path, snapshot: &Snapshot) -> Vec<PathBuf> {
    let named = files(snapshot).flat_map(|(certificate, key)| [certificate.clone(), key.clone()]);
    std::iter::once(config.to_owned()).chain(named).collect()
}

fn files(snapshot: &Snapshot) -> impl Iterator<Item = (&PathBuf, &PathBuf)> {
    let chains = snapshot.listeners.iter().flat_map(|at| at.chains.iter().chain([&at.default_chain]));
    chains.filter_map(|chain| match &chain.tls {
        DownstreamTls::Terminate { certificate, key } => Some((certificate, key)),
        DownstreamTls::Off | DownstreamTls::Mesh(_) => None,
    })
}
