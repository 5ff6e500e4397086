//! The attempt loop: choose an endpoint, get a connection, send, and move on where the request provably had no effect.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http_body::Body as _;
use hyper::upgrade::OnUpgrade;
use model::{Direction, Protocol, UpstreamTls, capture};
use remora_model as model;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::Instant;

use crate::address::OrigDst;
use crate::cluster::{ClusterState, Picked};
use crate::http::body::{Body, RequestBody};
use crate::http::{RequestHead, ResponseHead, fields, h1, h2};
use crate::io::Upstream;
use crate::pool::{Checkout, Connection, Fresh, Hop, Host, Shared, Stream};
use crate::telemetry::{AttemptTelemetry, RequestTelemetry, TlsSide, UpstreamMetrics, UpstreamProtocol};
use crate::tls::{MeshProtocol, Offer};
use crate::worker::Worker;
use crate::{Error, socket, tls};

/// Tries of one request or connection at most, the first included.
const MAX_ATTEMPTS: usize = 8;

/// A request on its way to a cluster.
#[derive(Debug)]
pub(crate) struct Request {
    /// Where it came from.
    pub(crate) direction: Direction,
    /// Where its connection was aimed.
    pub(crate) orig_dst: OrigDst,
    /// Its head.
    pub(crate) head: RequestHead,
    /// Its body.
    pub(crate) body: RequestBody,
}

/// A response that has begun.
#[derive(Debug)]
pub(crate) struct Response {
    /// Its head.
    pub(crate) head: ResponseHead,
    /// Its body.
    pub(crate) body: Body,
    /// Ends with the body.
    pub(crate) attempt: AttemptTelemetry,
    /// Goes back to the pool at the end of the body.
    pub(crate) lease: Option<Lease>,
    /// The connection, where it leaves HTTP.
    pub(crate) upgrade: Option<OnUpgrade>,
}

/// What an exchange holds: its endpoint counts as active, its connection is in use.
#[derive(Debug)]
pub(crate) struct Lease {
    _picked: Picked,
    connection: Option<(Rc<Host>, h1::Sender, u64)>,
    _stream: Option<Stream>,
    upload: Option<Upload>,
}

/// The pumping of a request body. Dropped before the response is complete it ends, and the stream is reset: a client that
/// gave up, or ran out of time, leaves nothing behind.
#[derive(Debug)]
struct Upload(AbortHandle);

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Lease {
    /// The exchange ended well: its connection may serve another, and an upload may go on beyond its answer.
    pub(crate) fn reuse(mut self) {
        if let Some(upload) = self.upload.take() {
            std::mem::forget(upload);
        }
        if let Some((host, sender, generation)) = self.connection {
            host.give_back(sender, generation);
        }
    }
}

/// Counts an upstream connection as open until it is dropped.
#[derive(Debug)]
pub(crate) struct UpstreamConnection(Arc<UpstreamMetrics>);

impl UpstreamConnection {
    fn opened(metrics: &Arc<UpstreamMetrics>, protocol: UpstreamProtocol) -> Self {
        metrics.connection_opened(protocol);
        Self(metrics.clone())
    }
}

impl Drop for UpstreamConnection {
    fn drop(&mut self) {
        self.0.connection_closed();
    }
}

/// A try that failed, and the request if it can be tried again.
struct Failure {
    error: Error,
    request: Option<Box<(RequestHead, RequestBody)>>,
}

/// The time an exchange may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    /// When it is over.
    pub(crate) deadline: Instant,
    /// As configured, for the error.
    pub(crate) timeout: Duration,
}

/// Waits no longer than `bound`.
async fn within<T>(
    bound: Option<Bound>,
    cluster: &ClusterState,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let Some(Bound { deadline, timeout }) = bound else { return work.await };
    let late = || Error::RequestTimeout { cluster: cluster.name().clone(), timeout };
    tokio::time::timeout_at(deadline, work).await.unwrap_or_else(|_| Err(Failure { error: late(), request: None }))
}

/// Sends a request to an endpoint of `cluster`, and to another where that provably had no effect.
///
/// # Errors
/// No endpoint is left to try, or the last try failed.
pub(crate) async fn send(
    worker: &Rc<Worker>,
    cluster: &Rc<ClusterState>,
    request: Request,
    bound: Option<Bound>,
    telemetry: &mut RequestTelemetry,
) -> Result<Response, Error> {
    let Request { direction, orig_dst, mut head, mut body } = request;
    let hop = hop(cluster, &head, direction);
    let mut tried = Vec::new();
    let mut last = None;
    for _ in 0..MAX_ATTEMPTS {
        let Some(picked) = cluster.pick(orig_dst.socket(), &tried, || worker.random()) else { break };
        let address = picked.address();
        let mut attempt = telemetry.attempt(&cluster.metrics, address, &mut head.headers);
        let checkout = checkout(worker, cluster, address, hop, direction);
        let checkout = async { checkout.await.map_err(|error| Failure { error, request: None }) };
        let checkout = match within(bound, cluster, checkout).await {
            Ok(checkout) => checkout,
            Err(Failure { error: error @ Error::RequestTimeout { .. }, .. }) => {
                attempt.failed(&error);
                return Err(error);
            }
            Err(Failure { error, .. }) => {
                attempt.failed(&error);
                picked.unreachable();
                tried.push(address);
                last = Some(error);
                continue;
            }
        };
        picked.reached();
        match exchange(cluster, picked, checkout, attempt, bound, head, body).await {
            Ok(response) => return Ok(response),
            Err(Failure { error, request: Some(request) }) if error.retryable() => {
                (head, body) = *request;
                last = Some(error);
            }
            Err(Failure { error, .. }) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::NoEndpoint { cluster: cluster.name().clone() }))
}

/// What to speak towards an endpoint, unless the cluster declares it: a sidecar what its client speaks; a gateway, whose
/// clients do not know the services, HTTP/1.1, except for gRPC.
fn hop(cluster: &ClusterState, head: &RequestHead, direction: Direction) -> Hop {
    let http2 = match cluster.config.protocol {
        Protocol::Http => false,
        Protocol::Http2 => true,
        _ if head.upgrade.is_some() => false,
        Protocol::Auto | Protocol::Tcp if direction == Direction::Gateway => head.is_grpc(),
        Protocol::Auto | Protocol::Tcp => head.version == http::Version::HTTP_2,
    };
    match (&cluster.config.tls, http2) {
        (UpstreamTls::Off, false) => Hop::Http1,
        (UpstreamTls::Off, true) => Hop::Http2,
        (UpstreamTls::Mesh { .. }, false) if head.upgrade.is_some() => Hop::MeshUpgrade,
        (UpstreamTls::Mesh { .. }, false) => Hop::MeshHttp1,
        (UpstreamTls::Mesh { .. }, true) => Hop::MeshHttp2,
    }
}

struct Checked {
    host: Rc<Host>,
    connection: Connection,
    generation: u64,
    hop: Hop,
}

async fn checkout(
    worker: &Rc<Worker>,
    cluster: &Rc<ClusterState>,
    address: SocketAddr,
    hop: Hop,
    direction: Direction,
) -> Result<Checked, Error> {
    loop {
        // Plaintext has nothing to do with the SVID in use.
        let plaintext = matches!(hop, Hop::Http1 | Hop::Http2);
        let generation = if plaintext { 0 } else { worker.generation() };
        let host = cluster.pool.host(address, hop, generation);
        let connection = match host.checkout(hop) {
            Checkout::Ready(connection) => {
                cluster.metrics.reused();
                connection
            }
            Checkout::Wait(dialling) => {
                dialling.wait().await?;
                continue;
            }
            Checkout::Dial(ticket) => match open(worker, cluster, address, hop, direction).await {
                Ok(fresh) => host.add(fresh, generation),
                Err(error) => {
                    if let Some(ticket) = ticket {
                        ticket.failed(&error);
                    }
                    return Err(error);
                }
            },
        };
        return Ok(Checked { host, connection, generation, hop });
    }
}

/// Makes an HTTP connection to an endpoint and starts its driver.
async fn open(
    worker: &Rc<Worker>,
    cluster: &Rc<ClusterState>,
    address: SocketAddr,
    hop: Hop,
    direction: Direction,
) -> Result<Fresh, Error> {
    let offer = match hop {
        Hop::Http1 | Hop::MeshHttp1 => Offer::Http1,
        Hop::Http2 | Hop::MeshHttp2 => Offer::Http2,
        Hop::MeshUpgrade => Offer::Upgrade,
    };
    let (io, protocol) = dial(worker, cluster, address, offer, direction).await?;
    let http1 = hop == Hop::Http1 || protocol == Some(MeshProtocol::IstioHttp11);
    let closed = |message: String| Error::UpstreamClosed {
        cluster: cluster.name().clone(),
        endpoint: address,
        message,
        unprocessed: true,
    };
    if http1 {
        let counted = UpstreamConnection::opened(&cluster.metrics, UpstreamProtocol::Http1);
        let (sender, connection) = h1::connect(io).await.map_err(|error| closed(error.to_string()))?;
        spawn_local(async move {
            // Whoever waits for a response is told by hyper; an idle connection that ends is nobody's failure.
            let _ = connection.with_upgrades().await;
            drop(counted);
        });
        return Ok(Fresh::Http1(sender));
    }
    let ours = protocol == Some(MeshProtocol::RemoraH2);
    let counted = UpstreamConnection::opened(&cluster.metrics, UpstreamProtocol::Http2);
    let (sender, connection) = h2::connect(io, ours).await.map_err(|error| closed(error.to_string()))?;
    let shared = Shared::new(sender, ours);
    let weak = Rc::downgrade(&shared);
    spawn_local(async move {
        let _ = connection.await;
        if let Some(shared) = weak.upgrade() {
            shared.mark_closed();
        }
        drop(counted);
    });
    Ok(Fresh::Http2(shared))
}

/// Connects to an endpoint, with mTLS where the cluster says so.
///
/// # Errors
/// Refused, not reached in time, or the handshake failed.
async fn dial(
    worker: &Worker,
    cluster: &ClusterState,
    address: SocketAddr,
    offer: Offer,
    direction: Direction,
) -> Result<(Upstream, Option<MeshProtocol>), Error> {
    let timeout = cluster.config.connect_timeout;
    let name = || cluster.name().clone();
    let connected = tokio::time::timeout(timeout, socket::connect(address, source(direction, address))).await;
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(source)) => {
            cluster.metrics.connect_failed();
            return Err(Error::Connect { cluster: name(), endpoint: address, source: Arc::new(source) });
        }
        Err(_) => {
            cluster.metrics.connect_failed();
            return Err(Error::ConnectTimeout { cluster: name(), endpoint: address, timeout });
        }
    };
    let UpstreamTls::Mesh { identities } = &cluster.config.tls else { return Ok((Upstream::Plain(stream), None)) };
    let handshake = match worker.connector(identities, offer) {
        Some(connector) => tls::connect(&connector, stream, cluster.server_name(address), timeout).await,
        None => Err(tls::TlsError::no_identity()),
    };
    match handshake {
        Ok((stream, info)) => {
            worker.shook_hands(TlsSide::Client, &info);
            if matches!(info.protocol, Some(MeshProtocol::RemoraH2 | MeshProtocol::IstioH2)) {
                // Its other end always reads, so silence means that it is gone. A socket that is closed already says so later.
                let _ = socket::bound_unacknowledged(stream.get_ref().0);
            }
            Ok((Upstream::Tls(Box::new(stream)), info.protocol))
        }
        Err(error) => {
            worker.telemetry.tls().handshake_failed(TlsSide::Client, error.reason);
            cluster.metrics.connect_failed();
            if worker.may_log() {
                tracing::warn!(endpoint = %address, cluster = %cluster.name(), reason = error.reason, "TLS handshake failed: {}", error.message);
            }
            Err(Error::UpstreamTls { cluster: name(), endpoint: address, reason: error.reason, message: error.message })
        }
    }
}

/// The inbound leg comes from the reserved source, which redirection lets pass to the application.
fn source(direction: Direction, to: SocketAddr) -> Option<IpAddr> {
    let reserved = match to {
        SocketAddr::V4(_) => IpAddr::from(capture::INBOUND_SOURCE_V4),
        SocketAddr::V6(_) => IpAddr::from(capture::INBOUND_SOURCE_V6),
    };
    (direction == Direction::Inbound).then_some(reserved)
}

/// Connects to an endpoint of `cluster` for a TCP connection, and to another where that failed.
///
/// # Errors
/// No endpoint is left to try, or the last could not be reached.
pub(crate) async fn connect_tcp(
    worker: &Worker,
    cluster: &ClusterState,
    orig_dst: OrigDst,
    direction: Direction,
) -> Result<(Upstream, Picked, UpstreamConnection), Error> {
    let mut tried = Vec::new();
    let mut last = None;
    while tried.len() < MAX_ATTEMPTS {
        let Some(picked) = cluster.pick(orig_dst.socket(), &tried, || worker.random()) else { break };
        cluster.metrics.attempt();
        if last.is_some() {
            cluster.metrics.retry();
        }
        match dial(worker, cluster, picked.address(), Offer::Tcp, direction).await {
            Ok((io, _)) => {
                picked.reached();
                let counted = UpstreamConnection::opened(&cluster.metrics, UpstreamProtocol::Tcp);
                return Ok((io, picked, counted));
            }
            Err(error) => {
                picked.unreachable();
                tried.push(picked.address());
                last = Some(error);
            }
        }
    }
    Err(last.unwrap_or_else(|| Error::NoEndpoint { cluster: cluster.name().clone() }))
}

async fn exchange(
    cluster: &ClusterState,
    picked: Picked,
    checked: Checked,
    mut attempt: AttemptTelemetry,
    bound: Option<Bound>,
    head: RequestHead,
    body: RequestBody,
) -> Result<Response, Failure> {
    let at = At { cluster, endpoint: picked.address() };
    let Checked { host, connection, generation, hop } = checked;
    let mut lease = Lease { _picked: picked, connection: None, _stream: None, upload: None };
    let answered = match connection {
        Connection::Http1(mut sender) => {
            let answered = within(bound, cluster, exchange_h1(&at, &mut sender, head, body)).await;
            lease.connection = Some((host, sender, generation));
            answered
        }
        Connection::Http2(stream) => {
            let answering = exchange_h2(&at, &host, &stream, hop, (head, body), &mut lease.upload);
            let answered = within(bound, cluster, answering).await;
            lease._stream = Some(stream);
            answered
        }
    };
    match answered {
        Ok(Answer { head, body, upgrade }) => {
            attempt.response(&head);
            if upgrade.is_some() {
                // It leaves HTTP, and the pool.
                lease.connection = None;
            }
            Ok(Response { head, body, attempt, lease: Some(lease), upgrade })
        }
        Err(failure) => {
            attempt.failed(&failure.error);
            Err(failure)
        }
    }
}

/// What an exchange answered.
struct Answer {
    head: ResponseHead,
    body: Body,
    upgrade: Option<OnUpgrade>,
}

/// Names the endpoint in errors.
struct At<'a> {
    cluster: &'a ClusterState,
    endpoint: SocketAddr,
}

impl At<'_> {
    fn closed(&self, message: String, unprocessed: bool) -> Error {
        Error::UpstreamClosed { cluster: self.cluster.name().clone(), endpoint: self.endpoint, message, unprocessed }
    }

    fn broke(&self, message: &str) -> Error {
        let (cluster, endpoint) = (self.cluster.name().clone(), self.endpoint);
        Error::UpstreamProtocol { cluster, endpoint, message: message.to_owned() }
    }

    fn http1(&self, error: &hyper::Error) -> Error {
        if error.is_parse() {
            return self.broke(&error.to_string());
        }
        self.closed(error.to_string(), false)
    }

    fn http2(&self, error: &::h2::Error) -> Error {
        let (cluster, endpoint) = (self.cluster.name().clone(), self.endpoint);
        match error.reason() {
            Some(code) if error.is_reset() && error.is_remote() => Error::UpstreamReset { cluster, endpoint, code },
            // Streams above a GOAWAY's last one were never processed (RFC 9113 section 6.8).
            Some(_) if error.is_go_away() && error.is_remote() => self.closed(error.to_string(), true),
            Some(_) => self.broke(&error.to_string()),
            None => self.closed(error.to_string(), false),
        }
    }
}

async fn exchange_h1(
    at: &At<'_>,
    sender: &mut h1::Sender,
    head: RequestHead,
    body: RequestBody,
) -> Result<Answer, Failure> {
    let asked = head.upgrade.is_some();
    match sender.try_send_request(h1::request(head, body)).await {
        Ok(mut response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            if !asked {
                return Err(Failure { error: at.broke("101 to a request that asked for nothing"), request: None });
            }
            let upgrade = Some(hyper::upgrade::on(&mut response));
            let (head, body) = h1::response_parts(response);
            Ok(Answer { head, body, upgrade })
        }
        Ok(response) => {
            let (head, body) = h1::response_parts(response);
            Ok(Answer { head, body, upgrade: None })
        }
        Err(mut error) => {
            let Some(request) = error.take_message() else {
                return Err(Failure { error: at.http1(error.error()), request: None });
            };
            // The pooled connection had ended, and nothing of the request was written.
            let request = Some(Box::new(h1::take_back(request)));
            Err(Failure { error: at.closed(error.error().to_string(), true), request })
        }
    }
}

async fn exchange_h2(
    at: &At<'_>,
    host: &Host,
    stream: &Stream,
    hop: Hop,
    (mut head, body): (RequestHead, RequestBody),
    upload: &mut Option<Upload>,
) -> Result<Answer, Failure> {
    let shared = &stream.0;
    let mut sender = shared.sender.clone();
    if let Err(error) = std::future::poll_fn(|cx| sender.poll_ready(cx)).await {
        host.discard(shared);
        return Err(Failure { error: at.closed(error.to_string(), true), request: Some(Box::new((head, body))) });
    }
    if shared.ours && hop == Hop::MeshHttp1 {
        fields::mark_hop(&mut head.headers, head.version);
    }
    let end = body.is_end_stream();
    // Kept only where the request can be sent again: one without a body.
    let kept = body.is_empty().then(|| head.clone());
    let request =
        h2::request(head).map_err(|message| Failure { error: Error::DownstreamProtocol(message), request: None })?;
    let failed = |error: &::h2::Error| {
        if !error.is_reset() {
            host.discard(shared);
        }
        Failure { error: at.http2(error), request: kept.clone().map(|head| Box::new((head, RequestBody::empty()))) }
    };
    let (response, mut send) = sender.send_request(request, end).map_err(|error| failed(&error))?;
    if !end {
        // Counts for as long as the stream is open: an upload may outlive its answer.
        let open = Stream::new(shared.clone());
        let pumping = spawn_local(async move {
            // What breaks the body resets the stream.
            let _ = h2::pump(&mut send, pin!(body)).await;
            drop(open);
        });
        *upload = Some(Upload(pumping.abort_handle()));
    }
    let response = response.await.map_err(|error| failed(&error))?;
    let (head, body) = h2::response_parts(response);
    Ok(Answer { head, body, upgrade: None })
}
