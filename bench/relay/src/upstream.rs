//! The way on: one shared HTTP/2 connection, or as many HTTP/1.1 connections as there are requests at once.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::header::{CONNECTION, HOST, HeaderValue};
use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

use crate::{Local, Protocol, WINDOWS};

/// Where redirection lets a sidecar's own connections to its application pass.
const RESERVED: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6)), 0);

/// A connection of either kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// One thread's connections to one address.
pub(crate) struct Upstream {
    to: SocketAddr,
    protocol: Protocol,
    tls: Option<Arc<ClientConfig>>,
    idle: RefCell<Vec<http1::SendRequest<Incoming>>>,
    shared: RefCell<Option<http2::SendRequest<Incoming>>>,
}

impl Upstream {
    pub(crate) fn new(to: SocketAddr, protocol: Protocol, tls: Option<Arc<ClientConfig>>) -> Self {
        Self { to, protocol, tls, idle: RefCell::default(), shared: RefCell::default() }
    }

    /// A connection, TLS and all.
    pub(crate) async fn connect(&self) -> anyhow::Result<Box<dyn Stream>> {
        let socket = TcpSocket::new_v4()?;
        if self.to.ip().is_loopback() {
            socket.set_reuseaddr(true)?;
            socket.bind(RESERVED)?;
        }
        let stream = socket.connect(self.to).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let stream = TlsConnector::from(Arc::clone(tls)).connect(ServerName::try_from("server")?, stream).await?;
        Ok(Box::new(stream))
    }

    pub(crate) async fn send(&self, request: Request<Incoming>) -> anyhow::Result<Response<Incoming>> {
        let request = translated(request, self.protocol)?;
        if self.protocol == Protocol::Http2 {
            let mut connection = self.shared().await?;
            return Ok(connection.send_request(request).await?);
        }
        let mut connection = match self.waiting() {
            Some(connection) => connection,
            None => {
                let (connection, driver) = http1::handshake(TokioIo::new(self.connect().await?)).await?;
                tokio::task::spawn_local(driver);
                connection
            }
        };
        let answer = connection.send_request(request).await?;
        // Taken again when the answer's body has been read.
        self.idle.borrow_mut().push(connection);
        Ok(answer)
    }

    fn waiting(&self) -> Option<http1::SendRequest<Incoming>> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|connection| !connection.is_closed());
        let at = idle.iter().rposition(http1::SendRequest::is_ready)?;
        Some(idle.swap_remove(at))
    }

    async fn shared(&self) -> anyhow::Result<http2::SendRequest<Incoming>> {
        if let Some(connection) = self.shared.borrow().as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let mut builder = http2::Builder::new(Local);
        builder.initial_stream_window_size(WINDOWS[0]).initial_connection_window_size(WINDOWS[1]);
        let (connection, driver) = builder.handshake(TokioIo::new(self.connect().await?)).await?;
        tokio::task::spawn_local(driver);
        *self.shared.borrow_mut() = Some(connection.clone());
        Ok(connection)
    }
}

/// The same request in the upstream's version: `Host` and the path, or one whole URI.
fn translated(mut request: Request<Incoming>, to: Protocol) -> anyhow::Result<Request<Incoming>> {
    let (version, whole) = if to == Protocol::Http2 { (Version::HTTP_2, true) } else { (Version::HTTP_11, false) };
    if whole && request.version() != version {
        request.headers_mut().remove(CONNECTION);
        if let Some(host) = request.headers_mut().remove(HOST) {
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            let uri = Uri::builder().scheme("http").authority(host.as_bytes()).path_and_query(path).build()?;
            *request.uri_mut() = uri;
        }
    } else if !whole && let Some(authority) = request.uri().authority() {
        let host = HeaderValue::from_str(authority.as_str())?;
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).parse()?;
        request.headers_mut().insert(HOST, host);
        *request.uri_mut() = path;
    }
    *request.version_mut() = version;
    Ok(request)
}
