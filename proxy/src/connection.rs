//! The life of one downstream connection: where it was aimed, what it carries, who the peer is, and where it goes.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use model::{DownstreamTls, MtlsMode, Protocol};
use remora_model as model;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::address::{ClientAddr, OrigDst};
use crate::cluster::Picked;
use crate::http::{fields::Trust, h1, h2};
use crate::inspect::{self, Inspected};
use crate::io::{Downstream, Replay, Upstream};
use crate::request::{self, HttpConnection};
use crate::tcp_proxy::RelayError;
use crate::telemetry::{ConnectionInfo, ConnectionTelemetry, DownstreamProtocol, Refusal, TlsSide};
use crate::tls::{self, MeshProtocol};
use crate::upstream::UpstreamConnection;
use crate::worker::{ChainView, ListenerId, Worker};
use crate::{Error, original_dst, socket, tcp_proxy, upstream};

/// The client silence after which the upstream is given the chance to speak first.
const FIRST_SPEAKER: Duration = Duration::from_millis(20);
/// Bound of a handshake with a client.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A connection that was accepted and found its filter chain.
struct Accepted {
    worker: Rc<Worker>,
    listener: ListenerId,
    info: Rc<ConnectionInfo>,
    orig_dst: OrigDst,
    chain: ChainView,
    telemetry: ConnectionTelemetry,
}

/// A TCP connection to an endpoint, and the guards that end with it.
type Dialled = (Replay<Upstream>, Picked, UpstreamConnection);

/// Serves a connection until it ends. What goes wrong is recorded, not returned.
pub(crate) async fn serve(worker: Rc<Worker>, listener: ListenerId, stream: TcpStream, client: SocketAddr) {
    let view = worker.view();
    let at = view.listener(listener);
    let mut telemetry = ConnectionTelemetry::start(&worker.telemetry, at.direction);
    let (Ok(orig_dst), Ok(local)) = (original_dst::original_dst(&stream, at.original_dst), stream.local_addr()) else {
        return telemetry.refused(Refusal::NoOriginalDestination);
    };
    let client = ClientAddr::new(client);
    let info = ConnectionInfo { direction: at.direction, client, orig_dst, peer: None, sni: None, https: false };
    let chain = worker.chain(listener, orig_dst);
    let mut accepted = Accepted { worker, listener, info: Rc::new(info), orig_dst, chain, telemetry };
    accepted.telemetry.connection(&accepted.info);
    if accepted.worker.own.is_loop(orig_dst, local, at.direction) {
        // A reset: nobody listens here, as far as the client is concerned.
        let _ = socket::abort_on_drop(&stream);
        return accepted.refuse(Refusal::Loop, &Error::Loop(orig_dst.socket()).to_string());
    }
    // Fails for a connection that is gone already, which the first read tells.
    let _ = socket::tune(&stream);
    let tls = accepted.chain.chain().tls.clone();
    match tls {
        DownstreamTls::Off => accepted.plaintext(Replay::new(stream)).await,
        DownstreamTls::Mesh(MtlsMode::Off) => accepted.plaintext(Replay::new(stream)).await,
        DownstreamTls::Mesh(mode) => accepted.mesh(Replay::new(stream), mode).await,
        DownstreamTls::Terminate { .. } => accepted.terminate(Replay::new(stream)).await,
    }
}

impl Accepted {
    fn refuse(&mut self, reason: Refusal, message: &str) {
        self.telemetry.refused(reason);
        if self.worker.may_log() {
            let Self { info, .. } = self;
            tracing::warn!(direction = info.direction.as_str(), client = %info.client, orig_dst = %info.orig_dst, reason = reason.as_str(), "connection refused: {message}");
        }
    }

    /// The client's connection broke before it was known what it carries.
    fn broken(&mut self, error: &std::io::Error) {
        tracing::debug!(client = %self.info.client, %error, "connection broke before its first request");
        self.telemetry.failed(&Error::DownstreamClosed);
    }

    /// Tells mesh TLS from what the mode lets pass besides.
    async fn mesh(mut self, mut io: Replay<TcpStream>, mode: MtlsMode) {
        let first_byte = (mode == MtlsMode::Permissive).then_some(FIRST_SPEAKER);
        let inspected = match inspect::inspect(&mut io, self.limits(first_byte)).await {
            Ok(inspected) => inspected,
            Err(error) => return self.broken(&error),
        };
        match (inspected, mode) {
            (Inspected::Tls(hello), _) if mode == MtlsMode::Strict || hello.is_mesh() => self.accept_mesh(io).await,
            (Inspected::Eof, _) => {}
            (_, MtlsMode::Strict) => {
                self.refuse(Refusal::Plaintext, "plaintext to a workload that accepts mTLS only");
            }
            (inspected, _) => {
                let io = Replay { prefix: io.prefix, stream: Downstream::Plain(io.stream) };
                self.inspected(io, inspected, Trust::default()).await;
            }
        }
    }

    async fn accept_mesh(mut self, io: Replay<TcpStream>) {
        let Some(mesh) = self.chain.view().tls().cloned() else {
            return self.refuse(Refusal::Tls, "no identity to answer a TLS client with");
        };
        let (stream, tls) = match tls::accept(&mesh, io, HANDSHAKE).await {
            Ok(accepted) => accepted,
            Err(error) => {
                self.worker.telemetry.tls().handshake_failed(TlsSide::Server, error.reason);
                return self.refuse(Refusal::Tls, &format!("{}: {}", error.reason, error.message));
            }
        };
        self.worker.shook_hands(TlsSide::Server, &tls);
        let peer = &tls.peer;
        let xfcc =
            request::forwarded_client_cert(mesh.spiffe_id().as_str(), peer.spiffe_id.as_str(), &peer.fingerprint);
        let info = Rc::make_mut(&mut self.info);
        info.peer = Some(peer.spiffe_id.clone());
        info.sni = tls.sni.clone();
        self.telemetry.connection(&self.info);
        let hop = tls.protocol == Some(MeshProtocol::RemoraH2);
        let trust = Trust { hop, forwarded_client_cert: Some(xfcc), application: false };
        let mut io = Replay::new(Downstream::Tls(Box::new(stream)));
        match tls.protocol {
            Some(MeshProtocol::RemoraH2 | MeshProtocol::IstioH2) => self.http2(io, trust).await,
            Some(MeshProtocol::IstioHttp11) => self.http1(io, trust).await,
            Some(MeshProtocol::Istio) => self.tcp(io).await,
            None => match inspect::inspect(&mut io, self.limits(Some(FIRST_SPEAKER))).await {
                Ok(inspected) => self.inspected(io, inspected, trust).await,
                Err(error) => self.broken(&error),
            },
        }
    }

    /// A gateway's own TLS.
    async fn terminate(mut self, io: Replay<TcpStream>) {
        let Some(acceptor) = self.chain.view().gateway_tls(&self.chain.chain().tls).cloned() else {
            return self.refuse(Refusal::Tls, "no certificate to answer a TLS client with");
        };
        Rc::make_mut(&mut self.info).https = true;
        self.telemetry.connection(&self.info);
        let stream = match tls::accept_gateway(&acceptor, io, HANDSHAKE).await {
            Ok(stream) => stream,
            Err(error) => {
                self.worker.telemetry.tls().handshake_failed(TlsSide::Server, error.reason);
                return self.refuse(Refusal::Tls, &format!("{}: {}", error.reason, error.message));
            }
        };
        self.worker.telemetry.tls().handshake(TlsSide::Server, false);
        self.detect(Replay::new(Downstream::Tls(Box::new(stream))), Trust::default()).await;
    }

    async fn plaintext(self, io: Replay<TcpStream>) {
        let application = self.info.direction == model::Direction::Outbound;
        let io = Replay { prefix: io.prefix, stream: Downstream::Plain(io.stream) };
        self.detect(io, Trust { application, ..Trust::default() }).await;
    }

    async fn detect(mut self, mut io: Replay<Downstream>, trust: Trust) {
        let protocol = self.chain.chain().protocol;
        // A declared HTTP server never speaks first, so its client's silence means nothing.
        let first_byte = match protocol {
            Protocol::Tcp => return self.tcp(io).await,
            Protocol::Http | Protocol::Http2 => None,
            Protocol::Auto => Some(FIRST_SPEAKER),
        };
        match inspect::inspect(&mut io, self.limits(first_byte)).await {
            Ok(inspected) => self.inspected(io, inspected, trust).await,
            Err(error) => self.broken(&error),
        }
    }

    fn limits(&self, first_byte: Option<Duration>) -> inspect::Limits {
        inspect::Limits { first_byte, complete: self.chain.chain().detect_timeout }
    }

    async fn inspected(self, io: Replay<Downstream>, inspected: Inspected, trust: Trust) {
        match inspected {
            // An upgrade turns the connection into one of bytes; it has no place on a shared hop.
            Inspected::Http1 if inspect::begins_upgrade(&io.prefix) => self.tcp(io).await,
            Inspected::Http1 => self.http1(io, trust).await,
            Inspected::Http2 => self.http2(io, trust).await,
            Inspected::Tls(_) | Inspected::Tcp => self.tcp(io).await,
            Inspected::Silent => self.first_speaker(io, trust).await,
            Inspected::Eof => {}
        }
    }

    async fn http1(mut self, io: Replay<Downstream>, trust: Trust) {
        self.telemetry.protocol(DownstreamProtocol::Http1);
        let drain = self.worker.drain(self.info.direction);
        let connection = HttpConnection::new(self.worker, self.listener, self.info, self.orig_dst, self.chain, trust);
        if let Err(error) = h1::serve(io, connection, drain).await {
            tracing::debug!(%error, "HTTP/1 connection ended");
        }
    }

    async fn http2(mut self, io: Replay<Downstream>, trust: Trust) {
        self.telemetry.protocol(DownstreamProtocol::Http2);
        let drain = self.worker.drain(self.info.direction);
        let connection = HttpConnection::new(self.worker, self.listener, self.info, self.orig_dst, self.chain, trust);
        if let Err(error) = h2::serve(io, connection, drain).await {
            tracing::debug!(%error, "HTTP/2 connection ended");
        }
    }

    /// The client is silent: dial, and let whoever speaks first decide.
    async fn first_speaker(mut self, mut io: Replay<Downstream>, trust: Trust) {
        let limits = self.limits(None);
        let mut dialled: Option<Dialled> = None;
        let inspected = loop {
            let spoken = match &mut dialled {
                None => tokio::select! {
                    biased;
                    inspected = inspect::inspect(&mut io, limits) => Some(inspected),
                    upstream = self.dial_tcp() => match upstream {
                        Ok(upstream) => {
                            dialled = Some(upstream);
                            None
                        }
                        Err(error) => return self.fail(&error),
                    },
                },
                Some((upstream, ..)) => tokio::select! {
                    biased;
                    inspected = inspect::inspect(&mut io, limits) => Some(inspected),
                    // Its first bytes stay in the prefix for the relay.
                    _ = upstream.stream.read_buf(&mut upstream.prefix) => Some(Ok(Inspected::Tcp)),
                },
            };
            match spoken {
                None => {}
                Some(Ok(inspected)) => break inspected,
                Some(Err(error)) => return self.broken(&error),
            }
        };
        // A client that speaks HTTP takes its own way, and the dial is dropped unused.
        let http = matches!(inspected, Inspected::Http1 | Inspected::Http2);
        match dialled.filter(|_| !http) {
            Some(dialled) => self.relay(io, dialled).await,
            None => Box::pin(self.inspected(io, inspected, trust)).await,
        }
    }

    async fn dial_tcp(&self) -> Result<Dialled, Error> {
        let Some(id) = self.chain.chain().tcp else {
            return Err(Error::DownstreamProtocol("not HTTP, and nothing else is served here".into()));
        };
        let cluster = self.chain.view().cluster(id);
        let (io, picked, counted) =
            upstream::connect_tcp(&self.worker, cluster, self.orig_dst, self.info.direction).await?;
        Ok((Replay::new(io), picked, counted))
    }

    async fn tcp(mut self, io: Replay<Downstream>) {
        match self.dial_tcp().await {
            Ok(dialled) => self.relay(io, dialled).await,
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &Error) {
        if self.worker.may_log() {
            tracing::warn!(client = %self.info.client, orig_dst = %self.orig_dst, flag = error.response_flag().as_str(), "{error}");
        }
        self.telemetry.failed(error);
    }

    async fn relay(mut self, downstream: Replay<Downstream>, (upstream, picked, _counted): Dialled) {
        self.telemetry.protocol(DownstreamProtocol::Tcp);
        let Some(id) = self.chain.chain().tcp else { return };
        let traffic = self.chain.view().cluster(id).traffic(self.info.direction).clone();
        self.telemetry.tcp(&traffic);
        self.telemetry.endpoint(picked.address());
        let idle = self.chain.chain().idle_timeout;
        match tcp_proxy::relay(downstream, upstream, idle, &self.telemetry).await {
            Ok(()) => {}
            Err(RelayError::Idle(bound)) => self.telemetry.failed(&Error::IdleTimeout(bound)),
            Err(RelayError::Downstream(_)) => self.telemetry.failed(&Error::DownstreamClosed),
            Err(RelayError::Upstream(error)) => self.telemetry.failed(&Error::ResponseTruncated(error.to_string())),
        }
    }
}
