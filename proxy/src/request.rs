//! The life of one request: from a downstream connection of either version to the response body's last frame.

mod response_body;

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::{HeaderValue, Method, Version};
use http_body::Body as _;
use remora_certs::Fingerprint;
use remora_model::{Direction, Discovery, DownstreamTls, HttpLimits, MtlsMode};
use tokio::time::Instant;

use crate::Error;
use crate::address::OrigDst;
use crate::crowd::Crowd;
use crate::http::body::{Body, RequestBody};
use crate::http::informational::Informational;
use crate::http::{RequestHead, ResponseHead, fields};
use crate::io::{Downstream, Replay};
use crate::live::{self, LiveConnection};
use crate::signal::Signal;
use crate::telemetry::{ConnectionInfo, DownstreamMetrics, OpenConnection, RequestTelemetry};
use crate::upstream::{self, Bound, Response, Upgrade};
use crate::worker::{ChainView, Need, Room, Worker};
use crate::{route, tcp_proxy};

pub(crate) use response_body::ResponseBody;
use response_body::{Early, Exchange, Timeout, has_come};

/// What the requests of one downstream connection have in common.
#[derive(Debug)]
pub(crate) struct HttpConnection {
    worker: Rc<Worker>,
    info: Rc<ConnectionInfo>,
    open: Rc<OpenConnection>,
    orig_dst: OrigDst,
    /// The chain of the newest snapshot; looked up again when that changes.
    chain: RefCell<ChainView>,
    trust: fields::Trust,
    /// Of the mesh's connections.
    live: Option<Rc<LiveConnection>>,
    cut: RefCell<Cut>,
    /// Whether its grace is over, which its HTTP/2 streams say, each for itself.
    over: Rc<Signal<bool>>,
}

/// Requests that HTTP/2 took back, or that were refused, before an answer began: cheap to make, dear to serve.
#[derive(Clone, Copy, Debug)]
struct Cut {
    since: Instant,
    count: u64,
    /// All requests before that time.
    requests: u64,
}

/// Requests of [`CUT_WITHIN`] that a connection may cut short; and then only if they are most of them.
const CUT_MAX: u64 = 500;
const CUT_WITHIN: Duration = Duration::from_secs(5);
/// As many times as much of it another sidecar may: beside each client's requests it carries those of others.
const HOP_CUT: u64 = 10;

impl Cut {
    /// Whether that is too much of all there were: most of them, or of another sidecar's nearly all.
    fn is_abuse(self, requests: u64, hop: bool) -> bool {
        let since = requests - self.requests;
        let (most, usual) = if hop { (CUT_MAX * HOP_CUT, since / 10 * 9) } else { (CUT_MAX, since / 2) };
        self.count > most && self.count > usual
    }
}

impl HttpConnection {
    pub(crate) fn new(
        worker: Rc<Worker>,
        info: Rc<ConnectionInfo>,
        open: Rc<OpenConnection>,
        orig_dst: OrigDst,
        chain: ChainView,
        trust: fields::Trust,
        live: Option<Rc<LiveConnection>>,
    ) -> Rc<Self> {
        Rc::new(Self {
            worker,
            info,
            open,
            orig_dst,
            chain: RefCell::new(chain),
            trust,
            live,
            cut: RefCell::new(Cut { since: Instant::now(), count: 0, requests: 0 }),
            over: Rc::default(),
        })
    }

    /// A request was cut short before its answer began.
    pub(crate) fn cut_short(&self) {
        let mut cut = self.cut.borrow_mut();
        if cut.since.elapsed() > CUT_WITHIN {
            *cut = Cut { since: Instant::now(), count: 0, requests: self.open.requests() };
        }
        cut.count += 1;
    }

    /// Whether what the client asks is there to be taken back.
    pub(crate) fn is_abused(&self) -> bool {
        self.cut.borrow().is_abuse(self.open.requests(), self.trust.hop)
    }

    /// What its worker has room for.
    pub(crate) fn room(&self) -> &Rc<Room> {
        &self.worker.room
    }

    /// The streams on which the worker's clients send.
    pub(crate) fn uploads(&self) -> &Rc<Crowd> {
        &self.worker.uploads
    }

    /// Its grace is over: what is under way over HTTP/2 ends with a word about it.
    pub(crate) fn retire(&self) {
        self.over.advance(true);
    }

    /// What is counted of connections like this one.
    pub(crate) fn counts(&self) -> &std::sync::Arc<DownstreamMetrics> {
        self.worker.telemetry.downstream(self.info.direction)
    }

    /// Whether our own sidecar is the peer.
    pub(crate) fn is_hop(&self) -> bool {
        self.trust.hop
    }

    /// Whether a verified peer of the mesh is at the other end, which may send the requests of many clients.
    pub(crate) fn is_of_a_peer(&self) -> bool {
        self.info.peer.is_some()
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
        self.open.rested(timeout).await;
    }

    /// Handles one request; whatever goes wrong becomes its answer. What its upstream says before the answer is left in
    /// `informational`.
    pub(crate) async fn handle(
        self: &Rc<Self>,
        mut head: Box<RequestHead>,
        body: Body,
        informational: &Informational,
    ) -> (ResponseHead, ResponseBody) {
        let active = Active::new(self.clone());
        fields::receive(&mut head, &self.trust, |fault| self.counts().violation(fault));
        let (http2, bare) = (head.version == Version::HTTP_2, head.method == Method::HEAD);
        let mut telemetry = RequestTelemetry::start(&self.worker.telemetry, &self.info, &mut head);
        // Only HTTP/2 can carry a status after a body that broke off; HTTP/1 must show the break.
        let trailers = http2 && telemetry.is_grpc();
        let mut over = http2.then(|| self.over.reaches(true));
        let forwarded = {
            let mut forwarded = pin!(self.forward(&mut telemetry, head, body, informational));
            poll_fn(|cx| match forwarded.as_mut().poll(cx) {
                Poll::Pending if has_come(&mut over, cx) => Poll::Ready(Err(Error::Retired)),
                forwarded => forwarded,
            })
            .await
        };
        match forwarded {
            Ok((mut response, timeout)) => {
                match response.upgrade {
                    None => fields::pass_response(&mut response.head, self.towards(http2)),
                    Some(_) => fields::strip_hop(&mut response.head.headers),
                }
                telemetry.response(&response.head);
                let exchange = Exchange { telemetry, attempt: Some(response.attempt), _active: active, timeout };
                let (early, idle) = (Early { over, trailers }, self.limits().stream_idle);
                let mut body = ResponseBody::new(response.body, exchange, early, response.lease, idle);
                body.upgrade = response.upgrade;
                (response.head, body)
            }
            Err(error) => self.failed(active, telemetry, &error, bare),
        }
    }

    fn towards(&self, http2: bool) -> fields::Towards {
        match http2 {
            _ if self.trust.hop => fields::Towards::Hop,
            true => fields::Towards::Http2,
            false => fields::Towards::Http1,
        }
    }

    /// Answers a request that cannot be handled at all.
    pub(crate) fn refuse(self: &Rc<Self>, mut head: Box<RequestHead>, error: Error) -> (ResponseHead, ResponseBody) {
        let active = Active::new(self.clone());
        let telemetry = RequestTelemetry::start(&self.worker.telemetry, &self.info, &mut head);
        self.failed(active, telemetry, &error, head.method == Method::HEAD)
    }

    /// The answer to what went wrong, `bare` where it has no body; of a reset, also that.
    fn failed(
        &self,
        active: Active,
        mut telemetry: RequestTelemetry,
        error: &Error,
        bare: bool,
    ) -> (ResponseHead, ResponseBody) {
        telemetry.failed(error);
        let (mut head, body) = fields::error_response(error, telemetry.is_grpc());
        let body = if bare { Body::Empty } else { body };
        if self.trust.hop && error.undelivered() {
            fields::mark_undelivered(&mut head.headers);
        }
        telemetry.response(&head);
        let exchange = Exchange { telemetry, attempt: None, _active: active, timeout: None };
        let mut body = ResponseBody::new(body, exchange, Early::default(), None, self.limits().stream_idle);
        body.reset = error.reset();
        (head, body)
    }

    /// Relays the bytes of a connection that left HTTP.
    pub(crate) async fn tunnel(&self, downstream: Replay<Downstream>, upgrade: Box<Upgrade>) {
        let Upgrade { io: upstream, live, counted: _counted, lease: _lease } = *upgrade;
        let drain = self.worker.drain(self.info.direction).and(self.live.clone());
        let over = async {
            tokio::select! {
                () = drain.over() => {}
                () = live::over(live) => {}
            }
        };
        // However it ends, both sides see it; the request has been recorded.
        let _ = tcp_proxy::relay(downstream, upstream, false, Duration::ZERO, &(), over).await;
    }

    async fn forward(
        &self,
        telemetry: &mut RequestTelemetry,
        mut head: Box<RequestHead>,
        body: Body,
        informational: &Informational,
    ) -> Result<(Response, Option<Timeout>), Error> {
        if !self.worker.room.admits_request() {
            return Err(Error::Overloaded);
        }
        if head.method == Method::CONNECT && head.protocol.is_none() {
            return Err(Error::DownstreamProtocol(
                "CONNECT where requests are read: the port of a forward proxy is declared as tcp".into(),
            ));
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
        // Where the application itself aimed may stand a forward proxy, which is asked in absolute form; nobody else has to be.
        let aimed = self.info.direction == Direction::Outbound && cluster.config.discovery == Discovery::OriginalDst;
        if head.version != Version::HTTP_2 && !aimed {
            head.scheme = None;
        }
        head.repeats = route.retry_idempotent;
        if let Some(path) = route::rewrite(route, &head.path) {
            head.path = path;
            head.spelling.forget_target();
        }
        let own = if telemetry.is_grpc() { fields::grpc_timeout(&head.headers) } else { None };
        let timeout = route.request_timeout.into_iter().chain(own).min();
        let (bound, receiving) = match timeout {
            Some(timeout) if own.is_none() && !body.is_end_stream() => Some(Bound::from_the_end(timeout)).unzip(),
            timeout => (timeout.map(Bound::from_now), None),
        };
        let body = RequestBody::new(body, telemetry.request_bytes_handle(), chain.listener().limits.stream_idle);
        let request = upstream::Request {
            caller: chain.caller(self.info.client),
            orig_dst: self.orig_dst,
            body: body.told_to(receiving),
            need: if self.open.active() > 1 { Need::More } else { Need::First },
            relayed: self.trust.hop,
            head,
        };
        let response = upstream::send(&self.worker, cluster, request, bound.as_ref(), informational, telemetry).await?;
        let timeout = bound.map(|bound| Timeout::new(bound, cluster.name().clone()));
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
        connection.open.request_begins();
        Self(connection)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.open.request_ends();
    }
}

/// The peer's identity for the application, in Envoy's form, made once a connection.
pub(crate) fn forwarded_client_cert(own: &str, peer: &str, certificate: &Fingerprint) -> HeaderValue {
    let text = format!("By={own};Hash={certificate};URI={peer}");
    HeaderValue::from_str(&text).expect("SPIFFE IDs and hexadecimal digits are visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_sidecar_may_take_back_more_but_not_without_bound() {
        let abuse =
            |count, requests: u64, hop| Cut { since: Instant::now(), count, requests: 7 }.is_abuse(7 + requests, hop);
        assert!(!abuse(500, 500, false) && abuse(501, 501, false) && !abuse(501, 1_002, false));
        assert!(!abuse(5_000, 5_000, true) && abuse(5_001, 5_001, true) && !abuse(5_001, 6_000, true));
    }
}
