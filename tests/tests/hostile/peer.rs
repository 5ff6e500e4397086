//! What an attacker writes to and reads from: a connection as it is, or TLS with an identity of the mesh, as a sidecar that was taken
//! over has one.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use remora_test::pod::Pod;
use remora_test::tls;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// Bytes both ways.
pub(crate) trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// A peer of the mesh: how it agrees on HTTP/1 and on HTTP/2.
pub(crate) struct Peer {
    pub(crate) http1: Arc<ClientConfig>,
    pub(crate) http2: Arc<ClientConfig>,
}

impl Peer {
    /// With the identity of a pod. Its HTTP/2 has this ALPN value, its HTTP/1 that of Istio's sidecars.
    pub(crate) fn new(pod: &Pod, http2: &[u8]) -> Self {
        pod.identity();
        let config = |alpn| Arc::new(tls::client(&pod.tls(), &[alpn]).unwrap());
        Self { http1: config(b"istio-http/1.1"), http2: config(http2) }
    }
}

/// A handshake to its end.
pub(crate) fn handshake(config: &Arc<ClientConfig>, stream: TcpStream) -> Box<dyn Stream> {
    let connection = ClientConnection::new(Arc::clone(config), ServerName::try_from("server").unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).unwrap();
    }
    assert_eq!(stream.conn.alpn_protocol(), config.alpn_protocols.first().map(Vec::as_slice));
    Box::new(stream)
}
