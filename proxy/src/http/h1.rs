//! HTTP/1.0 and HTTP/1.1 (RFC 9112) on hyper's connections, one task a connection.

pub mod chunked;
pub mod encode;
mod field_lines;
pub mod framing;
mod invalid;
pub mod parse;
mod target;

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::body::{Body, RequestBody};
use super::head::{RequestHead, ResponseHead};
use super::spelling::Spelling;
use crate::Error;
use crate::drain::Drain;
use crate::io::{Downstream, Replay, Upstream};
use crate::live::LiveConnection;
use crate::request::{HttpConnection, ResponseBody};

/// Bytes a connection may hold of one direction; also the bound of a head (Envoy: 60 KiB).
const MAX_BUFFER: usize = 64 * 1024;
/// How long a connection that is to end waits for the rest of a head.
const LAST_HEAD: Duration = Duration::from_secs(2);
/// Header fields of one message; Envoy's default.
const MAX_HEADERS: usize = 100;

/// The sending half of a client connection.
#[derive(Debug)]
pub(crate) struct Sender {
    inner: SendRequest<RequestBody>,
    /// Of the mesh's connections.
    pub(crate) live: Option<Rc<LiveConnection>>,
}

impl Sender {
    pub(crate) fn new(inner: SendRequest<RequestBody>, live: Option<Rc<LiveConnection>>) -> Self {
        Self { inner, live }
    }

    /// Whether it can take a request now.
    pub(crate) fn is_ready(&self) -> bool {
        self.inner.is_ready() && !self.is_draining()
    }

    /// Whether it will never take one again.
    pub(crate) fn is_closed(&self) -> bool {
        self.inner.is_closed() || self.is_draining()
    }

    fn is_draining(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.is_draining())
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// The connection broke; with the request, where nothing of it was written.
    pub(crate) async fn send(
        &mut self,
        request: http::Request<RequestBody>,
    ) -> Result<http::Response<Incoming>, TrySendError<http::Request<RequestBody>>> {
        self.inner.try_send_request(request).await
    }
}

/// Serves a downstream connection until it ends. A drain lets the request in hand finish and closes; where the pod only leaves, the
/// connection ends with its next answer, so that no request comes upon a closed one.
///
/// # Errors
/// The peer broke the protocol, or the connection broke.
pub(crate) async fn serve(
    io: Replay<Downstream>,
    connection: Rc<HttpConnection>,
    drain: Drain,
) -> Result<(), hyper::Error> {
    let over = drain.over();
    let mut outlived = pin!(drain.outlived());
    let last = Cell::new(false);
    let service = service_fn(|request| {
        let (connection, last) = (connection.clone(), &last);
        async move {
            let mut response = respond(connection, request).await;
            if last.get() && response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut h1 = pin!(
        hyper::server::conn::http1::Builder::new()
            .auto_date_header(false)
            .max_buf_size(MAX_BUFFER)
            .max_headers(MAX_HEADERS)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades()
    );
    let mut over = pin!(over);
    loop {
        tokio::select! {
            biased;
            ended = h1.as_mut() => return ended,
            () = drain.signaled() => break,
            () = outlived.as_mut(), if !last.get() => last.set(true),
            () = connection.idle() => break,
        }
    }
    h1.as_mut().graceful_shutdown();
    loop {
        tokio::select! {
            ended = h1.as_mut() => return ended,
            // What is under way is seen to break off.
            () = over.as_mut() => return Ok(()),
            // A head of which only a part has come never becomes a request.
            () = tokio::time::sleep(LAST_HEAD) => if !connection.is_active() {
                return Ok(());
            },
        }
    }
}

async fn respond(connection: Rc<HttpConnection>, mut request: http::Request<Incoming>) -> http::Response<ResponseBody> {
    let upgrade = requested_upgrade(&request).map(|protocol| (protocol, hyper::upgrade::on(&mut request)));
    let (mut head, body) = request_parts(request);
    let (protocol, downstream) = upgrade.unzip();
    head.upgrade = protocol;
    let (head, mut body) = match (head, body) {
        (head, Ok(body)) => connection.handle(head, body).await,
        (head, Err(error)) => connection.refuse(head, error),
    };
    if let (Some(downstream), Some(upstream)) = (downstream, body.take_upgrade()) {
        connection.tunnel(downstream, upstream);
    }
    let mut response = http::Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    response
}

/// What a request asks to upgrade to. HTTP/2 is declined by ignoring it, as RFC 9110 section 7.8 allows.
fn requested_upgrade(request: &http::Request<Incoming>) -> Option<HeaderValue> {
    let protocol = request.headers().get(header::UPGRADE)?;
    let connection = request.headers().get_all(header::CONNECTION).iter();
    let named = connection.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let meant = named.map(str::trim).any(|name| name.eq_ignore_ascii_case("upgrade"));
    let http2 = protocol.as_bytes().eq_ignore_ascii_case(b"h2c");
    (meant && !http2 && request.version() == http::Version::HTTP_11).then(|| protocol.clone())
}

/// Takes a request apart; its body, unless it cannot be handled.
fn request_parts(request: http::Request<Incoming>) -> (RequestHead, Result<Body, Error>) {
    let (parts, body) = request.into_parts();
    let uri = parts.uri.into_parts();
    let mut head = RequestHead {
        method: parts.method,
        scheme: uri.scheme,
        authority: uri.authority,
        path: uri.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/")),
        version: parts.version,
        headers: parts.headers,
        upgrade: None,
        spelling: Spelling::default(),
    };
    let body = match host(&head.headers, head.version) {
        // An absolute-form target wins over Host (RFC 9112 section 3.2.2).
        Ok(host) => {
            head.authority = head.authority.take().or(host);
            Ok(Body::from_h1(body))
        }
        Err(reason) => Err(Error::DownstreamProtocol(reason.into())),
    };
    (head, body)
}

/// The Host header: exactly one, and a valid authority, in HTTP/1.1 (RFC 9112 section 3.2).
pub(crate) fn host(headers: &HeaderMap, version: http::Version) -> Result<Option<Authority>, &'static str> {
    let mut values = headers.get_all(header::HOST).iter();
    match (values.next(), values.next()) {
        (Some(_), Some(_)) => Err("more than one Host header"),
        (Some(value), None) if value.is_empty() => Ok(None),
        (Some(value), None) => Authority::try_from(value.as_bytes()).map(Some).map_err(|_| "invalid Host header"),
        (None, _) if version == http::Version::HTTP_11 => Err("no Host header"),
        (None, _) => Ok(None),
    }
}

/// The request as HTTP/1.1 puts it on the wire: origin form, authority in Host.
pub(crate) fn request(head: RequestHead, body: RequestBody) -> http::Request<RequestBody> {
    let mut request = http::Request::new(body);
    *request.method_mut() = head.method;
    *request.version_mut() =
        if head.version == http::Version::HTTP_10 { http::Version::HTTP_10 } else { http::Version::HTTP_11 };
    *request.headers_mut() = head.headers;
    if let Some(authority) = head.authority {
        let host = HeaderValue::from_str(authority.as_str()).expect("an authority is a valid header value");
        request.headers_mut().insert(header::HOST, host);
    }
    if let Some(protocol) = head.upgrade {
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        request.headers_mut().insert(header::UPGRADE, protocol);
    }
    *request.uri_mut() = head.path.into();
    request
}

/// Takes a response apart.
pub(crate) fn response_parts(response: http::Response<Incoming>) -> (ResponseHead, Body) {
    let (parts, body) = response.into_parts();
    (
        ResponseHead {
            status: parts.status,
            version: parts.version,
            headers: parts.headers,
            spelling: Spelling::default(),
        },
        Body::from_h1(body),
    )
}

/// Begins HTTP/1.1 on a fresh upstream connection. The returned connection must be driven.
///
/// # Errors
/// Never in practice: nothing is written yet.
pub(crate) async fn connect(
    io: Upstream,
) -> Result<
    (SendRequest<RequestBody>, hyper::client::conn::http1::Connection<TokioIo<Upstream>, RequestBody>),
    hyper::Error,
> {
    hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_BUFFER)
        .max_headers(MAX_HEADERS)
        .handshake(TokioIo::new(io))
        .await
}

/// Undoes [`request`] for one that was not sent.
pub(crate) fn take_back(request: http::Request<RequestBody>) -> (RequestHead, RequestBody) {
    let (parts, body) = request.into_parts();
    let authority = parts.headers.get(header::HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let path = parts.uri.into_parts().path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
    let upgrade = parts.headers.get(header::UPGRADE).cloned();
    let (method, version, headers) = (parts.method, parts.version, parts.headers);
    (
        RequestHead { method, scheme: None, authority, path, version, headers, upgrade, spelling: Spelling::default() },
        body,
    )
}
