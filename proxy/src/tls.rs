//! The mesh's TLS, both ends, and a gateway's own.
//!
//! A worker has one [`MeshTls`] per identity; a newer identity gets a new one, with new ticket keys and session stores, so
//! that no session outlives the trust it was made under. Invariant: a stream handed on from here belongs to a peer whose
//! chain was judged after the handshake, full or resumed, against this identity's bundle and the expected identities.

mod error;
mod handshake;

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use remora_certs::tls::{client_config, gateway_server_config, server_config};
use remora_certs::{Identity, SpiffeVerifier};
use remora_model::SpiffeId;
use rustls::ServerConfig;
use rustls_pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub use self::error::TlsError;
pub use self::handshake::{TlsInfo, accept, accept_gateway, connect};

/// HTTP/2 between our own sidecars, shared by the requests of many downstream connections of either HTTP version.
pub const REMORA_H2: &[u8] = b"remora-h2";
/// HTTP/2 for an application that speaks HTTP/2.
pub const ISTIO_H2: &[u8] = b"istio-h2";
/// HTTP/1.1 for an application that speaks HTTP/1.1.
pub const ISTIO_HTTP11: &[u8] = b"istio-http/1.1";
/// Bytes.
pub const ISTIO: &[u8] = b"istio";

/// What a server of the mesh takes, best first. Clients that are not sidecars but have an SVID may offer the last two; what
/// they send is found out inside.
const ACCEPTED: [&[u8]; 6] = [REMORA_H2, ISTIO_H2, ISTIO_HTTP11, ISTIO, b"h2", b"http/1.1"];

/// What two sidecars agreed to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MeshProtocol {
    /// See [`REMORA_H2`].
    RemoraH2,
    /// See [`ISTIO_H2`].
    IstioH2,
    /// See [`ISTIO_HTTP11`].
    IstioHttp11,
    /// See [`ISTIO`].
    Istio,
}

impl MeshProtocol {
    /// The protocol of an ALPN value; `None` if it is not the mesh's.
    pub fn of(alpn: &[u8]) -> Option<Self> {
        match alpn {
            REMORA_H2 => Some(Self::RemoraH2),
            ISTIO_H2 => Some(Self::IstioH2),
            ISTIO_HTTP11 => Some(Self::IstioHttp11),
            ISTIO => Some(Self::Istio),
            _ => None,
        }
    }
}

/// Whether an ALPN value marks mesh traffic, as opposed to an application's own TLS.
pub fn is_mesh_alpn(alpn: &[u8]) -> bool {
    MeshProtocol::of(alpn).is_some()
}

/// What a connection to another sidecar is for, which decides the protocols it offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Offer {
    /// HTTP/1.1 requests.
    Http1,
    /// HTTP/2 requests.
    Http2,
    /// One HTTP/1.1 request that asks to leave HTTP: a connection of its own.
    Upgrade,
    /// Bytes.
    Tcp,
}

impl Offer {
    fn alpn(self) -> &'static [&'static [u8]] {
        match self {
            Self::Http1 => &[REMORA_H2, ISTIO_HTTP11],
            Self::Http2 => &[REMORA_H2, ISTIO_H2],
            Self::Upgrade => &[ISTIO_HTTP11],
            Self::Tcp => &[ISTIO],
        }
    }
}

/// One identity's TLS in one worker.
#[derive(Debug)]
pub struct MeshTls {
    identity: Arc<Identity>,
    acceptor: Result<Acceptor, TlsError>,
    connectors: RefCell<Vec<Connector>>,
}

#[derive(Debug)]
struct Acceptor {
    /// Agrees on a protocol of [`ACCEPTED`].
    config: Arc<ServerConfig>,
    /// For clients that offer only others: an answer without ALPN instead of a refusal.
    without_alpn: Arc<ServerConfig>,
    verifier: Arc<SpiffeVerifier>,
}

/// Connects to the endpoints of clusters that expect the same identities. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connector(Arc<ConnectorState>);

struct ConnectorState {
    expected: Vec<SpiffeId>,
    offer: Offer,
    connector: Result<TlsConnector, TlsError>,
    verifier: Arc<SpiffeVerifier>,
    own: SpiffeId,
    generation: u64,
}

impl std::fmt::Debug for ConnectorState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector")
            .field("expected", &self.expected)
            .field("offer", &self.offer)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

fn owned(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}

impl MeshTls {
    /// Prepares to answer clients as `identity`. Should that fail (no randomness), every [`accept`] says so.
    pub fn new(identity: Arc<Identity>) -> Self {
        let acceptor = Acceptor::new(&identity).map_err(|error| TlsError::internal(&error));
        Self { identity, acceptor, connectors: RefCell::default() }
    }

    /// The identity's generation: a connection made under another one belongs to certificates that were replaced.
    pub fn generation(&self) -> u64 {
        self.identity.generation()
    }

    /// Who we are.
    pub fn spiffe_id(&self) -> &SpiffeId {
        self.identity.svid().spiffe_id()
    }

    /// Connects to servers that are one of `expected` (any of our own trust domain when empty). Made at first use and kept,
    /// since its session store belongs to it.
    pub fn connector(&self, expected: &[SpiffeId], offer: Offer) -> Connector {
        let mut connectors = self.connectors.borrow_mut();
        let known = connectors.iter().find(|known| known.0.offer == offer && known.0.expected == expected);
        if let Some(known) = known {
            return known.clone();
        }
        let connector = Connector::new(&self.identity, expected, offer);
        connectors.push(connector.clone());
        connector
    }
}

impl Acceptor {
    fn new(identity: &Identity) -> Result<Self, remora_certs::Error> {
        let verifier = Arc::new(SpiffeVerifier::of_clients(Arc::clone(identity.bundles()), true));
        let config = server_config(identity, owned(&ACCEPTED), Arc::clone(&verifier))?;
        let mut without_alpn = ServerConfig::clone(&config);
        without_alpn.alpn_protocols.clear();
        Ok(Self { config, without_alpn: Arc::new(without_alpn), verifier })
    }
}

impl Connector {
    fn new(identity: &Identity, expected: &[SpiffeId], offer: Offer) -> Self {
        let verifier = Arc::new(SpiffeVerifier::of_servers(Arc::clone(identity.bundles()), expected.to_vec()));
        Self(Arc::new(ConnectorState {
            expected: expected.to_vec(),
            offer,
            connector: client_config(identity, owned(offer.alpn()), Arc::clone(&verifier))
                .map(TlsConnector::from)
                .map_err(|error| TlsError::internal(&error)),
            verifier,
            own: identity.svid().spiffe_id().clone(),
            generation: identity.generation(),
        }))
    }

    /// The generation of the identity it shows.
    pub fn generation(&self) -> u64 {
        self.0.generation
    }
}

/// A gateway's own TLS termination. Cheap to clone.
#[derive(Clone)]
pub struct GatewayTls(TlsAcceptor);

impl std::fmt::Debug for GatewayTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GatewayTls").finish_non_exhaustive()
    }
}

impl GatewayTls {
    /// Reads a PEM chain (leaf first) and its key. HTTP/2 is preferred over HTTP/1.1.
    ///
    /// # Errors
    /// A file cannot be read or decoded, or the two are not a pair.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, remora_certs::Error> {
        let config = gateway_server_config(certificate, key, owned(&[b"h2", b"http/1.1"]))?;
        Ok(Self(TlsAcceptor::from(config)))
    }
}

/// The name to ask a server for: `host` where that is a DNS name, else `address`, which is not sent. It keys session
/// resumption and may help the server to route; it proves nothing.
pub fn server_name(host: &str, address: IpAddr) -> ServerName<'static> {
    ServerName::try_from(host.to_owned()).unwrap_or_else(|_| ServerName::from(address))
}

#[cfg(test)]
pub(crate) mod tests;
