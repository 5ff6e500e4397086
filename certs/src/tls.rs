//! TLS configurations built from an identity.
//!
//! Each identity has ticket keys of its own, and each client configuration its own session store, so that nothing
//! verified under one identity, bundle or set of expected peers is resumed under another: build anew whenever
//! [`Identity::generation`] changes, and keep one client configuration per set of expected identities.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, Ticketer, cipher_suite, kx_group};
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig, SupportedCipherSuite};

use crate::svid::certified_key;
use crate::{Error, Identity, SpiffeVerifier, pem};

/// Sessions a client configuration remembers, over all its peers.
const CLIENT_SESSIONS: usize = 1024;

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = aws_lc_rs::default_provider();
    // Hybrid first: safe against a recording opened by a later quantum computer. The plain share is offered beside it.
    provider.kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
    // AES-128 needs fewer rounds than AES-256 and is as far out of reach.
    let first = |suite: &SupportedCipherSuite| *suite != cipher_suite::TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(first);
    Arc::new(provider)
});

/// The cryptography of every configuration made here: AWS-LC, never the process default.
pub fn provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
}

/// The inbound side of the mesh: TLS 1.3, our SVID, clients that `verifier` takes. `alpn` in order of preference.
/// Tickets are stateless and carry the client's chain, so ask the verifier for the peer after each handshake.
///
/// # Errors
/// No randomness for ticket keys.
pub fn server_config(
    identity: &Identity,
    alpn: Vec<Vec<u8>>,
    verifier: Arc<SpiffeVerifier>,
) -> Result<Arc<ServerConfig>, Error> {
    let resolver = SingleCertAndKey::from(Arc::clone(identity.svid().certified_key()));
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = alpn;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = identity.tickets()?;
    Ok(Arc::new(config))
}

/// The outbound side of the mesh: TLS 1.3, our SVID, a server that `verifier` takes. The server name handed to a connection
/// routes and keys resumption; it proves nothing.
///
/// # Errors
/// None in practice; the TLS library's own checks of the configuration.
pub fn client_config(
    identity: &Identity,
    alpn: Vec<Vec<u8>>,
    verifier: Arc<SpiffeVerifier>,
) -> Result<Arc<ClientConfig>, Error> {
    let resolver = SingleCertAndKey::from(Arc::clone(identity.svid().certified_key()));
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = alpn;
    config.resumption = Resumption::in_memory_sessions(CLIENT_SESSIONS);
    Ok(Arc::new(config))
}

/// Plain TLS termination for a gateway: TLS 1.2 and 1.3, no client certificate. Any PEM chain and key will do.
///
/// # Errors
/// A file cannot be read or decoded, the key does not match, or there is no randomness for ticket keys.
pub fn gateway_server_config(certificate: &Path, key: &Path, alpn: Vec<Vec<u8>>) -> Result<Arc<ServerConfig>, Error> {
    let chain = pem::certificates(certificate, &pem::read(certificate)?)?;
    let key = certified_key((certificate, chain), (key, &pem::read(key)?))?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = alpn;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Ticketer::new()?;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests;
