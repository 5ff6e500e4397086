//! Handshakes, and the judgement of the peer after each of them.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use remora_certs::Peer;
use remora_model::SpiffeId;
use rustls::HandshakeKind;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, client, server};

use super::{Connector, GatewayTls, MeshProtocol, MeshTls, TlsError};
use crate::io::{Counted, Replay};

/// What a finished handshake told.
#[derive(Clone, Debug)]
pub struct TlsInfo {
    /// Who the peer is.
    pub peer: Peer,
    /// What the two sides agreed to speak; `None`: nothing of the mesh, to be found out inside.
    pub protocol: Option<MeshProtocol>,
    /// The server name the client asked for.
    pub sni: Option<Arc<str>>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// The generation of the identity we showed.
    pub generation: u64,
}

/// Answers a client of the mesh. The client must prove an identity of our trust domain, whatever protocol it offers.
///
/// # Errors
/// The handshake failed or took longer than `bound`, or the client is not one of ours.
pub async fn accept(
    tls: &MeshTls,
    io: Replay<TcpStream>,
    bound: Duration,
) -> Result<(server::TlsStream<Replay<TcpStream>>, TlsInfo), TlsError> {
    accept_by(tls, io, bound, SystemTime::now).await
}

/// As [`accept`]; the peer is judged by the clock `now`.
pub(super) async fn accept_by(
    tls: &MeshTls,
    io: Replay<TcpStream>,
    bound: Duration,
    now: impl Fn() -> SystemTime,
) -> Result<(server::TlsStream<Replay<TcpStream>>, TlsInfo), TlsError> {
    let acceptor = tls.acceptor.as_ref().map_err(TlsError::clone)?;
    let own = tls.spiffe_id();
    let handshake = async {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io).await?;
        let ours = |one: &[u8]| acceptor.config.alpn_protocols.iter().any(|protocol| protocol == one);
        let foreign = start.client_hello().alpn().is_some_and(|mut offered| !offered.any(ours));
        let config = if foreign { &acceptor.without_alpn } else { &acceptor.config };
        start.into_stream(Arc::clone(config)).await
    };
    let stream = bounded(bound, handshake, Some(own)).await?;
    let (_, connection) = stream.get_ref();
    let info = TlsInfo {
        peer: acceptor.verifier.peer(connection, now()).map_err(|error| TlsError::refused(&error, own))?,
        protocol: connection.alpn_protocol().and_then(MeshProtocol::of),
        sni: connection.server_name().map(Arc::from),
        resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        generation: tls.generation(),
    };
    Ok((stream, info))
}

/// Connects to a server of the mesh, which must be one of the identities that `connector` expects.
///
/// # Errors
/// The handshake failed or took longer than `bound`, or the server is not one of the expected.
pub async fn connect(
    connector: &Connector,
    stream: TcpStream,
    name: ServerName<'static>,
    bound: Duration,
) -> Result<(client::TlsStream<Counted>, TlsInfo), TlsError> {
    let state = &*connector.0;
    let tls = state.connector.as_ref().map_err(TlsError::clone)?;
    let sni = match &name {
        ServerName::DnsName(name) => Some(Arc::from(name.as_ref())),
        _ => None,
    };
    let stream = bounded(bound, tls.connect(name, Counted::new(stream)), Some(&state.own)).await?;
    let (_, connection) = stream.get_ref();
    let info = TlsInfo {
        peer: state
            .verifier
            .peer(connection, SystemTime::now())
            .map_err(|error| TlsError::refused(&error, &state.own))?,
        protocol: connection.alpn_protocol().and_then(MeshProtocol::of),
        sni,
        resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        generation: state.generation,
    };
    Ok((stream, info))
}

/// Answers any client of a gateway.
///
/// # Errors
/// The handshake failed or took longer than `bound`.
pub async fn accept_gateway(
    tls: &GatewayTls,
    io: Replay<TcpStream>,
    bound: Duration,
) -> Result<server::TlsStream<Replay<TcpStream>>, TlsError> {
    bounded(bound, tls.0.accept(io), None).await
}

async fn bounded<T>(
    bound: Duration,
    handshake: impl Future<Output = io::Result<T>>,
    own: Option<&SpiffeId>,
) -> Result<T, TlsError> {
    match tokio::time::timeout(bound, handshake).await {
        Ok(result) => result.map_err(|error| TlsError::handshake(&error, own)),
        Err(_) => Err(TlsError::timeout(bound)),
    }
}
