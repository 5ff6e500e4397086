//! The life of one downstream connection: where it was aimed, what it carries, who the peer is, and where it goes.

mod first_speaker;
mod misdeclared;
mod relay;

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use model::{DownstreamTls, MtlsMode, Protocol};
use remora_model as model;
use tokio::io::AsyncRead;
use tokio::net::TcpStream;

use self::relay::Relay;
use crate::address::{ClientAddr, OrigDst};
use crate::drain::Drain;
use crate::http::{fields::Trust, h1, h2};
use crate::inspect::{self, Inspected, Limits};
use crate::io::{Downstream, Replay};
use crate::live::LiveConnection;
use crate::request::{self, HttpConnection};
use crate::telemetry::{ConnectionInfo, ConnectionTelemetry, DownstreamProtocol, Refusal, TlsSide};
use crate::tls::{self, MeshProtocol, TlsError};
use crate::worker::{ChainView, ListenerId, Worker};
use crate::{Error, original_dst, socket};

/// The client silence after which the upstream is given the chance to speak first.
const FIRST_SPEAKER: Duration = Duration::from_millis(20);
/// How long the rest is waited for where a client's first bytes may begin anything, before the upstream gets to see them.
/// Longer than what Nagle's algorithm and delayed acknowledgements put between two writes of one request.
const HALF_A_WORD: Duration = Duration::from_millis(200);
/// Bound of a handshake with a client.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A connection that was accepted and found its filter chain.
struct Accepted {
    worker: Rc<Worker>,
    info: Rc<ConnectionInfo>,
    orig_dst: OrigDst,
    chain: ChainView,
    telemetry: ConnectionTelemetry,
    /// Once its mesh peer is verified.
    live: Option<Rc<LiveConnection>>,
}

/// What a connection turned out to carry.
enum Carried {
    Http1(Accepted, Replay<Downstream>, Trust),
    Http2(Accepted, Replay<Downstream>, Trust),
    Bytes(Relay),
}

/// Serves a connection until it ends. What goes wrong is recorded, not returned.
pub(crate) async fn serve(worker: Rc<Worker>, listener: ListenerId, stream: TcpStream, client: SocketAddr) {
    // To find out takes many times the memory of a relay, which may do nothing for days: it has a place of its own, free by then.
    match Box::pin(begin(worker, listener, stream, client)).await {
        Some(Carried::Bytes(relay)) => relay.run().await,
        Some(Carried::Http1(accepted, io, trust)) => Box::pin(accepted.http1(io, trust)).await,
        Some(Carried::Http2(accepted, io, trust)) => Box::pin(accepted.http2(io, trust)).await,
        None => {}
    }
}

/// Finds out what a connection carries; `None`: it has ended.
async fn begin(worker: Rc<Worker>, listener: ListenerId, stream: TcpStream, client: SocketAddr) -> Option<Carried> {
    let view = worker.view();
    let at = view.listener(listener);
    let mut telemetry = ConnectionTelemetry::start(&worker.telemetry, at.direction);
    let local = stream.local_addr();
    let orig_dst = local.and_then(|local| Ok((original_dst::original_dst(&stream, local, at.original_dst)?, local)));
    let Ok((orig_dst, local)) = orig_dst else {
        telemetry.refused(Refusal::NoOriginalDestination);
        return None;
    };
    let client = ClientAddr::new(client);
    let info = ConnectionInfo { direction: at.direction, client, orig_dst, peer: None, sni: None, https: false };
    let chain = worker.chain(listener, orig_dst);
    let mut accepted = Accepted { worker, info: Rc::new(info), orig_dst, chain, telemetry, live: None };
    accepted.telemetry.connection(&accepted.info);
    if accepted.worker.own.is_loop(orig_dst, local, at.direction) {
        // A reset: nobody listens here, as far as the client is concerned.
        let _ = socket::abort_on_drop(&stream);
        return accepted.refuse(Refusal::Loop, &Error::Loop(orig_dst.socket()).to_string());
    }
    // Fails for a connection that is gone already, which the first read tells.
    let _ = socket::tune(&stream);
    if let Some(longest) = accepted.chain.chain().unacknowledged {
        let _ = socket::bound_unacknowledged(&stream, longest);
    }
    let tls = accepted.chain.chain().tls.clone();
    match tls {
        DownstreamTls::Off => accepted.plaintext(Replay::new(stream)).await,
        DownstreamTls::Mesh(MtlsMode::Off) => accepted.plaintext(Replay::new(stream)).await,
        DownstreamTls::Mesh(mode) => accepted.mesh(Replay::new(stream), mode).await,
        DownstreamTls::Terminate { .. } => accepted.terminate(Replay::new(stream)).await,
    }
}

/// The client's connection broke before it was known what it carries.
fn broken(error: &io::Error) -> Error {
    tracing::debug!(%error, "connection broke before its first request");
    Error::DownstreamClosed
}

/// Whether `error` ends a connection on which nothing was said, and nothing is lost.
fn is_quiet(taken: &[u8], error: &Error) -> bool {
    taken.is_empty() && matches!(error, Error::Retired | Error::IdleTimeout(_))
}

impl Accepted {
    fn refuse(&mut self, reason: Refusal, message: &str) -> Option<Carried> {
        self.telemetry.refused(reason);
        if self.worker.may_log() {
            let Self { info, .. } = self;
            tracing::warn!(direction = info.direction.as_str(), client = %info.client, orig_dst = %info.orig_dst, reason = reason.as_str(), "connection refused: {message}");
        }
        None
    }

    fn refuse_tls(&mut self, error: &TlsError) -> Option<Carried> {
        self.worker.telemetry.tls().handshake_failed(TlsSide::Server, error.reason);
        if error.reason == "closed" {
            // Nobody was refused: the client thought better of it.
            self.telemetry.refused(Refusal::Tls);
            return None;
        }
        self.refuse(Refusal::Tls, &format!("{}: {}", error.reason, error.message))
    }

    /// Tells mesh TLS from what the mode lets pass besides.
    async fn mesh(mut self, mut io: Replay<TcpStream>, mode: MtlsMode) -> Option<Carried> {
        let inspected = match self.wanted(&mut io, self.idle(), async |io| self.inspect_mesh(io, mode).await).await {
            Ok(inspected) => inspected,
            Err(error) => return self.fail(&io.prefix, &io.stream, &error),
        };
        match (inspected, mode) {
            (Inspected::Tls(hello), _) if mode == MtlsMode::Strict || hello.is_mesh() => self.accept_mesh(io).await,
            (Inspected::Eof, MtlsMode::Strict) => None,
            (Inspected::Silent, MtlsMode::Strict) => self.refuse(Refusal::Timeout, "nothing was said"),
            (_, MtlsMode::Strict) => self.refuse(Refusal::Plaintext, "plaintext to a workload that accepts mTLS only"),
            (inspected, _) => {
                let io = Replay { prefix: io.prefix, stream: Downstream::Plain(io.stream) };
                self.inspected(io, inspected, Trust::default()).await
            }
        }
    }

    async fn inspect_mesh(&self, io: &mut Replay<TcpStream>, mode: MtlsMode) -> Result<Inspected, Error> {
        if mode == MtlsMode::Strict {
            return self.inspect(io, self.limits(Some(HANDSHAKE))).await;
        }
        let limits = self.limits(Some(FIRST_SPEAKER));
        match self.inspect(io, limits).await? {
            // A sidecar's hello follows its part of the handshake at once, and may be later by what the way changes.
            Inspected::Silent => {
                let first_byte = Some(socket::round_trip(&io.stream));
                self.inspect(io, Limits { first_byte, ..limits }).await
            }
            inspected => Ok(inspected),
        }
    }

    async fn accept_mesh(mut self, io: Replay<TcpStream>) -> Option<Carried> {
        let Some(mesh) = self.chain.view().tls().cloned() else {
            return self.refuse(Refusal::Tls, "no identity to answer a TLS client with");
        };
        let (stream, tls) = match tls::accept(&mesh, io, HANDSHAKE).await {
            Ok(accepted) => accepted,
            Err(error) => {
                return self.refuse_tls(&error);
            }
        };
        self.live = Some(self.worker.shook_hands(TlsSide::Server, &tls));
        let peer = &tls.peer;
        let xfcc =
            request::forwarded_client_cert(mesh.spiffe_id().as_str(), peer.spiffe_id.as_str(), &peer.fingerprint);
        let info = Rc::make_mut(&mut self.info);
        info.peer = Some(peer.spiffe_id.clone());
        info.sni = tls.sni.clone();
        self.telemetry.connection(&self.info);
        let hop = tls.protocol == Some(MeshProtocol::RemoraH2);
        let trust = Trust { hop, forwarded_client_cert: Some(xfcc), application: false };
        let io = Replay::new(Downstream::Tls(Box::new(stream)));
        match tls.protocol {
            Some(MeshProtocol::RemoraH2 | MeshProtocol::IstioH2) => Some(Carried::Http2(self, io, trust)),
            Some(MeshProtocol::IstioHttp11) => Some(Carried::Http1(self, io, trust)),
            // HTTP inside is found all the same: a peer must not name another caller by calling its requests bytes.
            Some(MeshProtocol::Istio) | None => self.detect(io, trust).await,
        }
    }

    /// A gateway's own TLS.
    async fn terminate(mut self, io: Replay<TcpStream>) -> Option<Carried> {
        let Some(acceptor) = self.chain.view().gateway_tls(&self.chain.chain().tls).cloned() else {
            return self.refuse(Refusal::Tls, "no certificate to answer a TLS client with");
        };
        Rc::make_mut(&mut self.info).https = true;
        self.telemetry.connection(&self.info);
        let stream = match tls::accept_gateway(&acceptor, io, HANDSHAKE).await {
            Ok(stream) => stream,
            Err(error) => {
                return self.refuse_tls(&error);
            }
        };
        self.worker.telemetry.tls().handshake(TlsSide::Server, false);
        self.detect(Replay::new(Downstream::Tls(Box::new(stream))), Trust::default()).await
    }

    async fn plaintext(self, io: Replay<TcpStream>) -> Option<Carried> {
        let application = self.info.direction == model::Direction::Outbound;
        let io = Replay { prefix: io.prefix, stream: Downstream::Plain(io.stream) };
        self.detect(io, Trust { application, ..Trust::default() }).await
    }

    async fn detect(mut self, mut io: Replay<Downstream>, trust: Trust) -> Option<Carried> {
        let protocol = self.chain.chain().protocol;
        // A declared HTTP server never speaks first, so its client's silence means nothing.
        let first_byte = match protocol {
            Protocol::Tcp => return self.tcp(io).await,
            Protocol::Http | Protocol::Http2 => None,
            Protocol::Auto => Some(FIRST_SPEAKER),
        };
        let limits = self.limits(first_byte);
        match self.wanted(&mut io, self.idle(), async |io| self.inspect(io, limits).await).await {
            Ok(inspected) => self.inspected(io, inspected, trust).await,
            Err(error) => self.fail(&io.prefix, io.stream.tcp(), &error),
        }
    }

    async fn inspect<S: AsyncRead + Unpin>(&self, io: &mut Replay<S>, limits: Limits) -> Result<Inspected, Error> {
        let inspected = inspect::inspect(io, limits).await.map_err(|error| broken(&error))?;
        Ok(self.as_declared(inspected))
    }

    /// Asks a client, until it need not be waited for: it was idle (zero: no bound), or the proxy drains. One that has said
    /// something has the drain's time to go on. What is asked may be cut short and asked again.
    async fn wanted<S, T>(
        &self,
        io: &mut Replay<S>,
        idle: Duration,
        mut ask: impl AsyncFnMut(&mut Replay<S>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let drain = self.drain();
        let mut drains = false;
        loop {
            tokio::select! {
                answer = ask(io) => return answer,
                () = drain.signaled(), if !drains => drains = true,
                () = drain.over() => return Err(Error::Retired),
                () = tokio::time::sleep(idle), if !idle.is_zero() => return Err(Error::IdleTimeout(idle)),
            }
            if io.prefix.is_empty() {
                return Err(Error::Retired);
            }
        }
    }

    fn idle(&self) -> Duration {
        self.chain.chain().idle_timeout
    }

    fn drain(&self) -> Drain {
        self.worker.drain(self.info.direction).and(self.live.clone())
    }

    fn limits(&self, first_byte: Option<Duration>) -> Limits {
        let complete = self.chain.chain().detect_timeout;
        // Where the server may speak first, it may also know what to make of a client's half a word.
        let asks_server = first_byte == Some(FIRST_SPEAKER) && self.may_be_tcp();
        let unclear = if asks_server { complete.min(HALF_A_WORD) } else { complete };
        Limits { first_byte, complete, unclear }
    }

    async fn inspected(self, io: Replay<Downstream>, inspected: Inspected, trust: Trust) -> Option<Carried> {
        match inspected {
            // A tunnel through a forward proxy: the application's own business, and bytes to us.
            Inspected::Http1
                if trust.application && io.prefix.starts_with(b"CONNECT ") && self.chain.chain().tcp.is_some() =>
            {
                self.tcp(io).await
            }
            Inspected::Http1 => Some(Carried::Http1(self, io, trust)),
            Inspected::Http2 => Some(Carried::Http2(self, io, trust)),
            Inspected::Tls(_) if self.chain.chain().tcp.is_none() && !self.info.https => self.refuse_undeclared_tls(),
            Inspected::Tls(_) | Inspected::Tcp => self.tcp(io).await,
            Inspected::Silent => self.first_speaker(io, trust).await,
            Inspected::Undecided => {
                self.telemetry.undecided();
                if self.may_be_tcp() { self.first_speaker(io, trust).await } else { self.tcp(io).await }
            }
            // It may have come to listen only.
            Inspected::Eof if self.may_be_tcp() => self.tcp(io).await,
            Inspected::Eof => None,
        }
    }

    /// Whether what was found is relayed as bytes.
    fn is_bytes(&self, inspected: &Inspected) -> bool {
        match inspected {
            Inspected::Tcp | Inspected::Eof => true,
            Inspected::Tls(hello) => !(hello.is_mesh() && self.terminates()),
            _ => false,
        }
    }

    /// What looks like HTTP on a port declared as TCP is bytes.
    fn as_declared(&self, inspected: Inspected) -> Inspected {
        match (self.chain.chain().protocol, inspected) {
            (Protocol::Tcp, Inspected::Http1 | Inspected::Http2) => Inspected::Tcp,
            (_, inspected) => inspected,
        }
    }

    fn may_be_tcp(&self) -> bool {
        let chain = self.chain.chain();
        chain.tcp.is_some() && !matches!(chain.protocol, Protocol::Http | Protocol::Http2)
    }

    async fn http1(self, io: Replay<Downstream>, trust: Trust) {
        self.telemetry.protocol(DownstreamProtocol::Http1);
        let drain = self.drain();
        let open = self.telemetry.open().clone();
        let connection = HttpConnection::new(self.worker, self.info, open, self.orig_dst, self.chain, trust, self.live);
        if let Err(error) = h1::server::serve(io, connection, drain).await {
            tracing::debug!(%error, "HTTP/1 connection ended");
        }
    }

    async fn http2(self, io: Replay<Downstream>, trust: Trust) {
        self.telemetry.protocol(DownstreamProtocol::Http2);
        let drain = self.drain();
        let open = self.telemetry.open().clone();
        let connection = HttpConnection::new(self.worker, self.info, open, self.orig_dst, self.chain, trust, self.live);
        if let Err(error) = h2::serve(io, connection, drain).await {
            tracing::debug!(%error, "HTTP/2 connection ended");
        }
    }

    /// Whether the chain terminates the mesh's TLS.
    fn terminates(&self) -> bool {
        matches!(self.chain.chain().tls, DownstreamTls::Mesh(MtlsMode::Strict | MtlsMode::Permissive))
    }

    /// Ends a connection that nothing became of, and of which `taken` was read.
    fn fail(&mut self, taken: &[u8], client: &TcpStream, error: &Error) -> Option<Carried> {
        if is_quiet(taken, error) {
            return None;
        }
        if !matches!(error, Error::DownstreamProtocol(_)) {
            // No end of ours is taken for the server's, nor for a sign that it has the bytes.
            let _ = socket::abort_on_drop(client);
        }
        let usual = matches!(error, Error::DownstreamClosed | Error::Retired | Error::IdleTimeout(_));
        if !usual && self.worker.may_log() {
            tracing::warn!(client = %self.info.client, orig_dst = %self.orig_dst, flag = error.response_flag().as_str(), "{error}");
        }
        self.telemetry.failed(error);
        None
    }
}
