//! The life of one request: from a downstream connection of either version to the response body's last frame.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method};
use http_body::{Body as _, Frame, SizeHint};
use remora_certs::Fingerprint;
use remora_model::{Direction, DownstreamTls, HttpLimits, MtlsMode};
use tokio::time::{Instant, Sleep};

use crate::Error;
use crate::address::OrigDst;
use crate::http::body::{Body, BodyError, RequestBody, Timed};
use crate::http::informational::Informational;
use crate::http::stall::Stall;
use crate::http::{RequestHead, ResponseHead, fields};
use crate::io::{Downstream, Replay};
use crate::live::{self, LiveConnection};
use crate::telemetry::{AttemptTelemetry, ConnectionInfo, DownstreamMetrics, RequestTelemetry};
use crate::upstream::{self, Bound, Response, Upgrade};
use crate::worker::{ChainView, Worker};
use crate::{route, tcp_proxy};

/// What the requests of one downstream connection have in common.
#[derive(Debug)]
pub(crate) struct HttpConnection {
    worker: Rc<Worker>,
    info: Rc<ConnectionInfo>,
    orig_dst: OrigDst,
    /// The chain of the newest snapshot; looked up again when that changes.
    chain: RefCell<ChainView>,
    trust: fields::Trust,
    /// Of the mesh's connections.
    live: Option<Rc<LiveConnection>>,
    active: Cell<u32>,
    requests: Cell<u64>,
    cut: RefCell<Cut>,
}

/// Requests that HTTP/2 took back, or that were refused, before an answer began: cheap to make, dear to serve.
#[derive(Debug)]
struct Cut {
    since: Instant,
    count: u64,
    /// All requests before that time.
    requests: u64,
}

/// Requests of [`CUT_WITHIN`] that a connection may cut short; and then only if they are most of them.
const CUT_MAX: u64 = 500;
const CUT_WITHIN: Duration = Duration::from_secs(5);

impl HttpConnection {
    pub(crate) fn new(
        worker: Rc<Worker>,
        info: Rc<ConnectionInfo>,
        orig_dst: OrigDst,
        chain: ChainView,
        trust: fields::Trust,
        live: Option<Rc<LiveConnection>>,
    ) -> Rc<Self> {
        Rc::new(Self {
            worker,
            info,
            orig_dst,
            chain: RefCell::new(chain),
            trust,
            live,
            active: Cell::new(0),
            requests: Cell::new(0),
            cut: RefCell::new(Cut { since: Instant::now(), count: 0, requests: 0 }),
        })
    }

    /// A request was cut short before its answer began.
    pub(crate) fn cut_short(&self) {
        let mut cut = self.cut.borrow_mut();
        if cut.since.elapsed() > CUT_WITHIN {
            *cut = Cut { since: Instant::now(), count: 0, requests: self.requests.get() };
        }
        cut.count += 1;
    }

    /// Whether most of what the client asks is there to be taken back. Our own sidecar carries other clients' requests beside theirs.
    pub(crate) fn is_abused(&self) -> bool {
        let cut = self.cut.borrow();
        cut.count > CUT_MAX && cut.count > (self.requests.get() - cut.requests) / 2 && !self.trust.hop
    }

    /// Whether no request is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.active.get() == 0
    }

    /// What is counted of connections like this one.
    pub(crate) fn counts(&self) -> &std::sync::Arc<DownstreamMetrics> {
        self.worker.telemetry.downstream(self.info.direction)
    }

    /// Whether our own sidecar is the peer.
    pub(crate) fn is_hop(&self) -> bool {
        self.trust.hop
    }

    /// Whether HTTP/2 clients may use CONNECT for other protocols (RFC 8441). Behind a gateway are services that speak HTTP/1.1: what
    /// they know of WebSocket is Upgrade, and clients must not be led to anything else.
    pub(crate) fn extends_connect(&self) -> bool {
        self.info.direction != Direction::Gateway
    }

    /// Completes when no request was active for the chain's idle timeout.
    pub(crate) async fn idle(&self) {
        let timeout = self.chain.borrow().chain().idle_timeout;
        if timeout.is_zero() {
            std::future::pending::<()>().await;
        }
        loop {
            let seen = self.requests.get();
            tokio::time::sleep(timeout).await;
            if self.active.get() == 0 && self.requests.get() == seen {
                return;
            }
        }
    }

    /// Handles one request; whatever goes wrong becomes its answer. What its upstream says before the answer is left in
    /// `informational`.
    pub(crate) async fn handle(
        self: &Rc<Self>,
        mut head: RequestHead,
        body: Body,
        informational: &Informational,
    ) -> (ResponseHead, ResponseBody) {
        let active = Active::new(self.clone());
        fields::receive(&mut head, &self.trust);
        let (grpc, bare) = (head.is_grpc(), head.method == Method::HEAD);
        // Only HTTP/2 can carry a status after a body that broke off; HTTP/1 must show the break.
        let trailers = grpc && head.version == http::Version::HTTP_2;
        let mut telemetry = RequestTelemetry::start(&self.worker.telemetry, &self.info, &mut head);
        match self.forward(&mut telemetry, head, body, informational).await {
            Ok((mut response, timeout)) => {
                if response.upgrade.is_none() {
                    fields::strip_hop_by_hop(&mut response.head.headers);
                }
                if self.trust.hop {
                    fields::mark_spelling(&mut response.head);
                }
                telemetry.response(&response.head);
                let exchange =
                    Exchange { telemetry, attempt: Some(response.attempt), _active: active, trailers, timeout };
                let mut body = ResponseBody::new(response.body, exchange, response.lease, self.limits().stream_idle);
                body.upgrade = response.upgrade;
                (response.head, body)
            }
            Err(error) => {
                telemetry.failed(&error);
                let (mut head, body) = fields::error_response(&error, grpc);
                let body = if bare { Body::Empty } else { body };
                if self.trust.hop && error.undelivered() {
                    fields::mark_undelivered(&mut head.headers);
                }
                telemetry.response(&head);
                let exchange = Exchange { telemetry, attempt: None, _active: active, trailers, timeout: None };
                (head, ResponseBody::new(body, exchange, None, self.limits().stream_idle))
            }
        }
    }

    /// Answers a request that cannot be handled at all.
    pub(crate) fn refuse(self: &Rc<Self>, mut head: RequestHead, error: Error) -> (ResponseHead, ResponseBody) {
        let active = Active::new(self.clone());
        let mut telemetry = RequestTelemetry::start(&self.worker.telemetry, &self.info, &mut head);
        telemetry.failed(&error);
        let (head, body) = fields::error_response(&error, false);
        telemetry.response(&head);
        let exchange = Exchange { telemetry, attempt: None, _active: active, trailers: false, timeout: None };
        (head, ResponseBody::new(body, exchange, None, self.limits().stream_idle))
    }

    /// Relays the bytes of a connection that left HTTP.
    pub(crate) async fn tunnel(&self, downstream: Replay<Downstream>, upgrade: Upgrade) {
        let Upgrade { io: upstream, live, counted: _counted } = upgrade;
        let drain = self.worker.drain(self.info.direction).and(self.live.clone());
        let over = async {
            tokio::select! {
                () = drain.over() => {}
                () = live::over(live) => {}
            }
        };
        // However it ends, both sides see it; the request has been recorded.
        let _ = tcp_proxy::relay(downstream, upstream, Duration::ZERO, &(), over).await;
    }

    async fn forward(
        &self,
        telemetry: &mut RequestTelemetry,
        mut head: RequestHead,
        body: Body,
        informational: &Informational,
    ) -> Result<(Response, Option<Timeout>), Error> {
        if head.method == Method::CONNECT && head.protocol.is_none() {
            return Err(Error::DownstreamProtocol("CONNECT on a connection that carries other requests".into()));
        }
        let chain = self.chain();
        if chain.chain().tls == DownstreamTls::Mesh(MtlsMode::Strict) && self.info.peer.is_none() {
            return Err(Error::DownstreamProtocol("plaintext to a workload that by now accepts mTLS only".into()));
        }
        let route = route::select(&chain.chain().routes, &head).ok_or_else(|| Error::NoRoute {
            authority: head.authority.as_ref().map(ToString::to_string).unwrap_or_default(),
            path: head.path.path().to_owned(),
        })?;
        let cluster = chain.view().cluster(route::pick_cluster(route, self.worker.random() as u32));
        telemetry.routed(&route.name, cluster.traffic(self.info.direction));
        if let Some(path) = route::rewrite(route, &head.path) {
            head.path = path;
        }
        let request = upstream::Request {
            caller: chain.caller(self.info.client),
            orig_dst: self.orig_dst,
            body: RequestBody::new(body, telemetry.request_bytes_handle(), chain.listener().limits.stream_idle),
            head,
        };
        let timeout = route.request_timeout.map(|timeout| Bound { deadline: Instant::now() + timeout, timeout });
        let response = upstream::send(&self.worker, cluster, request, timeout, informational, telemetry).await?;
        let timeout = timeout.map(|Bound { deadline, timeout }| Timeout {
            sleep: Box::pin(tokio::time::sleep_until(deadline)),
            cluster: cluster.name().clone(),
            timeout,
        });
        Ok((response, timeout))
    }

    /// The bounds of HTTP on the connection.
    pub(crate) fn limits(&self) -> HttpLimits {
        self.chain.borrow().listener().limits
    }

    fn chain(&self) -> ChainView {
        let mut chain = self.chain.borrow_mut();
        if !self.worker.is_current(&chain) {
            *chain = self.worker.chain_again(&chain, self.orig_dst);
        }
        chain.clone()
    }
}

/// Counts a request as active on its connection.
#[derive(Debug)]
struct Active(Rc<HttpConnection>);

impl Active {
    fn new(connection: Rc<HttpConnection>) -> Self {
        connection.active.set(connection.active.get() + 1);
        connection.requests.set(connection.requests.get() + 1);
        Self(connection)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}

#[derive(Debug)]
struct Timeout {
    sleep: Pin<Box<Sleep>>,
    cluster: std::sync::Arc<str>,
    timeout: Duration,
}

/// The guards of one exchange; they end with the response body.
#[derive(Debug)]
struct Exchange {
    telemetry: RequestTelemetry,
    attempt: Option<AttemptTelemetry>,
    _active: Active,
    trailers: bool,
    timeout: Option<Timeout>,
}

/// A response body on its way downstream. Carries the guards of its request, and the upstream connection it comes from,
/// which goes back to its pool at the last frame.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    body: Body,
    exchange: Option<Exchange>,
    lease: Option<upstream::Lease>,
    upgrade: Option<Upgrade>,
    stall: Stall,
}

impl ResponseBody {
    fn new(body: Body, exchange: Exchange, lease: Option<upstream::Lease>, idle: Duration) -> Self {
        let stall = Stall::new(idle);
        let mut this = Self { body, exchange: Some(exchange), lease, upgrade: None, stall };
        if this.body.is_end_stream() {
            this.complete();
        }
        this
    }

    /// The upstream's side of a connection that leaves HTTP; `None` where it does not.
    pub(crate) fn take_upgrade(&mut self) -> Option<Upgrade> {
        self.upgrade.take()
    }

    /// Whether it ended, well or not.
    pub(crate) fn is_over(&self) -> bool {
        self.exchange.is_none()
    }

    /// It ended well.
    pub(crate) fn complete(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.reuse();
        }
        if let Some(mut exchange) = self.exchange.take() {
            if let Some(attempt) = exchange.attempt.take() {
                attempt.complete();
            }
            exchange.telemetry.complete();
        }
    }

    /// The end of an exchange that broke off: truncation must be seen downstream, for gRPC as a status.
    fn fail(&mut self, error: BodyError) -> Option<Result<Frame<Bytes>, BodyError>> {
        self.lease = None;
        self.body = Body::Empty;
        let mut exchange = self.exchange.take()?;
        let error_for_client = broken(&error, exchange.timeout.as_ref());
        if let Some(mut attempt) = exchange.attempt.take() {
            attempt.failed(&error_for_client);
        }
        exchange.telemetry.failed(&error_for_client);
        if exchange.trailers && !matches!(error, BodyError::Reset(_)) {
            return Some(Ok(Frame::trailers(fields::grpc_trailers(&error_for_client))));
        }
        Some(Err(error))
    }
}

fn broken(error: &BodyError, timeout: Option<&Timeout>) -> Error {
    match (error, timeout) {
        (BodyError::TimedOut, Some(timeout)) => {
            Error::RequestTimeout { cluster: timeout.cluster.clone(), timeout: timeout.timeout }
        }
        (BodyError::Stalled(timeout), _) => Error::IdleTimeout(*timeout),
        (BodyError::Reset(code), _) => Error::ResponseReset(*code),
        _ => Error::ResponseTruncated(error.to_string()),
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(Exchange { timeout: Some(timeout), .. }) = &mut this.exchange
            && timeout.sleep.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(this.fail(BodyError::TimedOut));
        }
        let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(cx)) else {
            this.complete();
            return Poll::Ready(None);
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return Poll::Ready(this.fail(error)),
        };
        if let Some(exchange) = &mut this.exchange {
            if let Some(data) = frame.data_ref() {
                exchange.telemetry.response_bytes(data.len());
            } else if let Some(trailers) = frame.trailers_ref() {
                exchange.telemetry.grpc_status(trailers);
                if let Some(attempt) = &mut exchange.attempt {
                    attempt.grpc_status(trailers);
                }
            }
        }
        if frame.is_trailers() || this.body.is_end_stream() {
            this.complete();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Timed for ResponseBody {
    fn poll_blocked(mut self: Pin<&mut Self>, sent: u64, cx: &mut Context<'_>) -> Poll<BodyError> {
        let timeout = self.exchange.as_mut().and_then(|exchange| exchange.timeout.as_mut());
        let error = match timeout.map(|timeout| timeout.sleep.as_mut().poll(cx)) {
            Some(Poll::Ready(())) => BodyError::TimedOut,
            _ => {
                ready!(self.stall.poll(sent, cx));
                BodyError::Stalled(self.stall.timeout())
            }
        };
        self.fail(error.clone());
        Poll::Ready(error)
    }
}

/// The peer's identity for the application, in Envoy's form, made once a connection.
pub(crate) fn forwarded_client_cert(own: &str, peer: &str, certificate: &Fingerprint) -> HeaderValue {
    let text = format!("By={own};Hash={certificate};URI={peer}");
    HeaderValue::from_str(&text).expect("SPIFFE IDs and hexadecimal digits are visible ASCII")
}
