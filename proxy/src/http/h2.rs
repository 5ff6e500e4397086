//! HTTP/2 (RFC 9113) on the h2 crate, driven directly: both ends of a connection, and the pumping of bodies.
//!
//! Windows are budgets: a connection to an endpoint carries at most [`MAX_STREAMS`] streams, and its connection window holds
//! every one of their stream windows. So streams that nobody reads can fill their own windows only, never the connection's, and a
//! stream beside them is never held up by flow control.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::{Reason, SendStream};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Method, header};
use http_body::Body as _;
use remora_model::HttpLimits;
use tokio::task::spawn_local;
use tokio::time::Instant;

pub(crate) mod keep_alive;

use super::body::{Body, BodyError, Timed};
use super::h1::parse::{InvalidHead, Limits};
use super::head::{RequestHead, ResponseHead};
use super::informational::Informational;
use super::spelling::Spelling;
use crate::Error;
use crate::drain::Drain;
use crate::io::{Downstream, Replay, Upstream};
use crate::request::{HttpConnection, ResponseBody};

mod written;

use written::Watched;

/// Streams one connection to an endpoint carries at a time. A connection's window has room for so many streams' windows.
pub(crate) const MAX_STREAMS: u32 = 100;

/// Fields that a hop may add to a request.
const HOP_FIELDS: usize = 16;
/// Streams opened on a connection before its peer has said how many it takes, which may be one: it would refuse the others.
const STREAMS_BEFORE_SETTINGS: usize = 1;
/// Streams that the h2 crate resets by itself before it ends the connection: room for a client that opens many before it has heard
/// how many it may.
const RESETS: usize = 2048;
/// How long a connection without streams may take to end after it was asked to.
const FAREWELL: Duration = Duration::from_secs(10);
/// How long the last GOAWAY may take to be written.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Bound of the client's preface.
const PREFACE: Duration = Duration::from_secs(10);

/// The sending half of a client connection.
pub(crate) type Sender = h2::client::SendRequest<Bytes>;

/// Serves a downstream connection until it ends. A drain announces itself by GOAWAY and lets open streams finish.
///
/// # Errors
/// The peer broke the protocol, or the connection broke.
pub(crate) async fn serve(
    io: Replay<Downstream>,
    connection: Rc<HttpConnection>,
    drain: Drain,
) -> Result<(), h2::Error> {
    let limits = connection.limits();
    let mut builder = h2::server::Builder::new();
    if connection.extends_connect() {
        builder.enable_connect_protocol();
    }
    let handshake = builder
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(MAX_STREAMS * limits.stream_window)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(read_header_list(&limits, connection.is_hop()))
        .max_local_error_reset_streams(Some(RESETS))
        .handshake::<_, Bytes>(Watched::new(io, connection.counts().clone()));
    let Ok(h2) = tokio::time::timeout(PREFACE, handshake).await else {
        tracing::debug!("no HTTP/2 preface in time");
        connection.counts().violation("preface_timeout");
        return Ok(());
    };
    let told = |error: h2::Error| {
        if let Some(violation) = violation(&error) {
            connection.counts().violation(violation);
        }
        error
    };
    let mut h2 = h2.map_err(told)?;
    let mut over = pin!(drain.over());
    let outlived = drain.outlived();
    let mut ends = pin!(async {
        tokio::select! {
            () = drain.signaled() => {}
            () = outlived => {}
            () = connection.idle() => {}
        }
    });
    let mut ending = false;
    let mut farewell = pin!(tokio::time::sleep(FAREWELL));
    loop {
        tokio::select! {
            biased;
            accepted = h2.accept() => match accepted {
                Some(Ok(_)) if connection.is_abused() => {
                    connection.counts().violation("too_many_resets");
                    return end(h2, Reason::ENHANCE_YOUR_CALM).await;
                }
                Some(Ok((request, respond))) => {
                    spawn_local(serve_stream(connection.clone(), request, respond));
                }
                Some(Err(error)) => return Err(told(error)),
                None => return Ok(()),
            },
            () = &mut ends, if !ending => {
                h2.graceful_shutdown();
                ending = true;
                farewell.as_mut().reset(Instant::now() + FAREWELL);
            }
            () = &mut farewell, if ending => {
                // Who does not even read that it is over is not waited for.
                if connection.is_idle() {
                    connection.counts().violation("not_read");
                    return Ok(());
                }
                farewell.as_mut().reset(Instant::now() + FAREWELL);
            }
            () = &mut over => {
                // Says that no stream broke by mistake: it had its grace.
                return end(h2, Reason::NO_ERROR).await;
            }
        }
    }
}

/// Ends a connection at once, and says why if that can be written soon.
async fn end(
    mut h2: h2::server::Connection<Watched<Replay<Downstream>>, Bytes>,
    reason: Reason,
) -> Result<(), h2::Error> {
    h2.abrupt_shutdown(reason);
    let _ = tokio::time::timeout(LAST_WORD, poll_fn(|cx| h2.poll_closed(cx))).await;
    Ok(())
}

/// What ended a connection that its client broke, as metrics count it.
fn violation(error: &h2::Error) -> Option<&'static str> {
    if error.is_remote() || error.is_io() {
        return None;
    }
    Some(match error.reason()? {
        Reason::NO_ERROR => return None,
        Reason::ENHANCE_YOUR_CALM => "h2_calm",
        Reason::PROTOCOL_ERROR => "h2_protocol",
        Reason::FLOW_CONTROL_ERROR => "h2_flow_control",
        Reason::STREAM_CLOSED => "h2_stream_closed",
        Reason::FRAME_SIZE_ERROR => "h2_frame_size",
        Reason::COMPRESSION_ERROR => "h2_compression",
        _ => "h2_other",
    })
}

/// What of a request is read: up to twice what is served, to be answered 431. One beyond ends in a reset, one far beyond ends the
/// connection.
fn read_header_list(limits: &HttpLimits, hop: bool) -> u32 {
    max_header_list(limits, hop) * if hop { 1 } else { 2 }
}

/// Between our own sidecars, whatever HTTP/1 head one of them takes must reach the other: a field counts 32 bytes more in a
/// list, and the hop adds the version, the spelling and the trace.
fn max_header_list(limits: &HttpLimits, hop: bool) -> u32 {
    limits.header_bytes + if hop { limits.headers * 32 + 4 * 1024 } else { 0 }
}

async fn serve_stream(
    connection: Rc<HttpConnection>,
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) {
    let limits = connection.limits();
    let (bytes, fields) = (limits.header_bytes as usize, limits.headers as usize);
    // What a hop adds is not the client's.
    let limits = match connection.is_hop() {
        true => Limits { head_bytes: usize::MAX, headers: fields + HOP_FIELDS },
        false => Limits { head_bytes: bytes, headers: fields },
    };
    let (head, body) = request_parts(request, &limits);
    let body = match body {
        Ok(body) => body,
        // It may be well-formed, but is too large to look.
        Err(error @ Error::InvalidHead(_)) => {
            connection.cut_short();
            let (head, body) = connection.refuse(head, error);
            return answer(respond, head, body).await;
        }
        // Malformed: a stream error, whatever else is said (RFC 9113 section 8.1.1).
        Err(error) => {
            connection.cut_short();
            drop(connection.refuse(head, error));
            return respond.send_reset(Reason::PROTOCOL_ERROR);
        }
    };
    let informational = Informational::default();
    let mut handled = pin!(connection.handle(head, body, &informational));
    let answer = poll_fn(|cx| {
        let answer = handled.as_mut().poll(cx);
        while let Some(head) = informational.pop() {
            // Fails only for a stream that is gone, which is told next.
            let _ = respond.send_informational(response(head));
        }
        if let Poll::Ready(answer) = answer {
            return Poll::Ready(Some(answer));
        }
        // A client that gave up cancels the upstream too: dropping the future resets its stream.
        respond.poll_reset(cx).map(|_| None)
    });
    match answer.await {
        Some((head, body)) => self::answer(respond, head, body).await,
        None => connection.cut_short(),
    }
}

async fn answer(mut respond: h2::server::SendResponse<Bytes>, head: ResponseHead, body: ResponseBody) {
    let mut body = pin!(body);
    let end = body.is_end_stream();
    let Ok(mut send) = respond.send_response(response(head), end) else { return };
    if !end {
        // The guards in the body record how it ended.
        let _ = pump(&mut send, body.as_mut()).await;
    }
}

/// Takes a request apart; its body, unless it cannot be handled.
fn request_parts(request: http::Request<h2::RecvStream>, limits: &Limits) -> (RequestHead, Result<Body, Error>) {
    let (mut parts, stream) = request.into_parts();
    let uri = parts.uri.into_parts();
    let mut head = RequestHead {
        method: parts.method,
        scheme: uri.scheme,
        authority: uri.authority,
        path: uri.path_and_query.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/")),
        version: http::Version::HTTP_2,
        headers: parts.headers,
        upgrade: None,
        protocol: parts.extensions.remove(),
        spelling: Spelling::default(),
    };
    let within = within_limits(&head.headers, limits);
    let body = match within.map(|()| well_formed(&head).and_then(|()| authority(&head))) {
        Ok(Ok(authority)) => {
            head.authority = authority;
            head.headers.remove(header::HOST);
            join_cookies(&mut head.headers);
            Ok(Body::from_h2(stream))
        }
        Ok(Err(reason)) => Err(Error::DownstreamProtocol(reason.into())),
        Err(invalid) => Err(Error::InvalidHead(invalid)),
    };
    (head, body)
}

/// The limits of an HTTP/1 head, for a list of fields. The crumbs of a cookie are one field, as large as all of them.
fn within_limits(headers: &HeaderMap, limits: &Limits) -> Result<(), InvalidHead> {
    let (mut bytes, mut fields, mut crumbs) = (0, 0, 0);
    for (name, value) in headers {
        bytes += name.as_str().len() + value.len() + 32;
        fields += 1;
        crumbs += usize::from(name == header::COOKIE);
    }
    if bytes > limits.head_bytes {
        return Err(InvalidHead::TooLarge(limits.head_bytes));
    }
    if fields - crumbs + crumbs.min(1) > limits.headers {
        return Err(InvalidHead::TooManyFields(limits.headers));
    }
    Ok(())
}

/// What the h2 crate leaves unchecked of a request's fields.
fn well_formed(head: &RequestHead) -> Result<(), &'static str> {
    let space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let mut values = head.headers.values().map(HeaderValue::as_bytes);
    // RFC 9113 section 8.2.1; HTTP/1 has no way to say it.
    if values.any(|value| space(value.first()) || space(value.last())) {
        return Err("a field value begins or ends with whitespace");
    }
    // RFC 9113 section 8.3.1. One that is not ASCII is read in more ways than one.
    let path = head.path.as_str();
    let origin_form = path.starts_with('/') && path.is_ascii();
    let tunnel = head.method == Method::CONNECT && head.protocol.is_none();
    if !origin_form && !tunnel && (path != "*" || head.method != Method::OPTIONS) {
        return Err(":path is none");
    }
    // RFC 9113 section 8.5.
    if head.method == Method::CONNECT && head.authority.is_none() {
        return Err("CONNECT without :authority");
    }
    Ok(())
}

/// Whom a request is for. Without `:authority`, Host says it; beside it, Host must say the same (RFC 9113 section 8.3.1).
fn authority(head: &RequestHead) -> Result<Option<Authority>, &'static str> {
    let host = super::h1::host(&head.headers, head.version)?;
    let valid = |authority: &Authority| super::h1::target::valid(authority.clone()).is_some();
    if head.authority.as_ref().is_some_and(|authority| !valid(authority)) {
        return Err("invalid :authority");
    }
    let port = |authority: &Authority| {
        let default = if head.scheme == Some(Scheme::HTTPS) { 443 } else { 80 };
        authority.port_u16().unwrap_or(default)
    };
    match (&head.authority, host) {
        (Some(authority), Some(host))
            if !host.host().eq_ignore_ascii_case(authority.host()) || port(&host) != port(authority) =>
        {
            Err("Host and :authority differ")
        }
        (Some(authority), _) => Ok(Some(authority.clone())),
        (None, host) => Ok(host),
    }
}

/// Puts the crumbs of a cookie together: HTTP/1 has one field for them (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    let Some(first) = crumbs.next().filter(|_| crumbs.next().is_some()) else { return };
    let mut whole = BytesMut::from(first.as_bytes());
    for crumb in headers.get_all(header::COOKIE).iter().skip(1) {
        whole.extend_from_slice(b"; ");
        whole.extend_from_slice(crumb.as_bytes());
    }
    let whole = HeaderValue::from_maybe_shared(whole.freeze()).expect("valid values and what joins them");
    headers.insert(header::COOKIE, whole);
}

fn response(head: ResponseHead) -> http::Response<()> {
    let mut response = http::Response::new(());
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    response
}

/// Moves a body into a stream, no faster than its window opens.
///
/// # Errors
/// The body broke off, or the peer reset the stream; the stream is reset then.
pub(crate) async fn pump<B>(send: &mut SendStream<Bytes>, mut body: Pin<&mut B>) -> Result<(), BodyError>
where
    B: Timed,
{
    let mut sent = 0;
    loop {
        let frame = poll_fn(|cx| {
            if let Poll::Ready(reset) = send.poll_reset(cx) {
                return Poll::Ready(Some(Err(reset.map_or_else(BodyError::from, BodyError::Reset))));
            }
            body.as_mut().poll_frame(cx)
        })
        .await;
        let frame = match frame {
            None => return send.send_data(Bytes::new(), true).map_err(BodyError::from),
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                send.send_reset(reset_reason(&error));
                return Err(error);
            }
        };
        match frame.into_data() {
            Ok(data) => {
                let end = body.is_end_stream();
                if let Err(error) = send_data(send, body.as_mut(), data, end, &mut sent).await {
                    send.send_reset(reset_reason(&error));
                    return Err(error);
                }
                if end {
                    return Ok(());
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    return send.send_trailers(trailers).map_err(BodyError::from);
                }
            }
        }
    }
}

fn reset_reason(error: &BodyError) -> Reason {
    match error {
        BodyError::Reset(reason) => *reason,
        BodyError::Closed(_) | BodyError::Invalid(_) => Reason::INTERNAL_ERROR,
        BodyError::TimedOut | BodyError::Stalled(_) => Reason::CANCEL,
    }
}

/// Sends a part of `body`, which may give up while the window is closed.
async fn send_data<B: Timed>(
    send: &mut SendStream<Bytes>,
    mut body: Pin<&mut B>,
    mut data: Bytes,
    end: bool,
    sent: &mut u64,
) -> Result<(), BodyError> {
    loop {
        send.reserve_capacity(data.len());
        let capacity = poll_fn(|cx| {
            if data.is_empty() || send.capacity() > 0 {
                return Poll::Ready(Ok(send.capacity()));
            }
            match send.poll_capacity(cx) {
                Poll::Ready(Some(Ok(0))) | Poll::Pending => match send.poll_reset(cx) {
                    Poll::Ready(reset) => Poll::Ready(Err(reset.map_or_else(BodyError::from, BodyError::Reset))),
                    Poll::Pending => body.as_mut().poll_blocked(*sent, cx).map(Err),
                },
                Poll::Ready(Some(capacity)) => Poll::Ready(capacity.map_err(BodyError::from)),
                Poll::Ready(None) => Poll::Ready(Err(BodyError::Reset(Reason::CANCEL))),
            }
        })
        .await?;
        let chunk = data.split_to(capacity.min(data.len()));
        *sent += chunk.len() as u64;
        let last = data.is_empty();
        send.send_data(chunk, end && last)?;
        if last {
            return Ok(());
        }
    }
}

/// Begins HTTP/2 with prior knowledge on a fresh upstream connection; `ours` where the peer is known to take
/// [`MAX_STREAMS`]. The returned connection must be driven.
///
/// # Errors
/// The connection broke before our preface was written.
pub(crate) async fn connect(
    io: Upstream,
    ours: bool,
    limits: HttpLimits,
) -> Result<(Sender, h2::client::Connection<Upstream, Bytes>), h2::Error> {
    h2::client::Builder::new()
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(MAX_STREAMS * limits.stream_window)
        .initial_max_send_streams(if ours { MAX_STREAMS as usize } else { STREAMS_BEFORE_SETTINGS })
        .max_header_list_size(max_header_list(&limits, ours))
        .enable_push(false)
        .handshake(io)
        .await
}

/// The request as HTTP/2 puts it on the wire.
///
/// # Errors
/// Its target does not make a URI; the text says what.
pub(crate) fn request(mut head: RequestHead) -> Result<http::Request<()>, String> {
    let mut parts = http::uri::Parts::default();
    if let Some(authority) = head.authority {
        parts.scheme = Some(head.scheme.unwrap_or(Scheme::HTTP));
        parts.authority = Some(authority);
        // :authority says it (RFC 9113 section 8.3.1).
        head.headers.remove(header::HOST);
    }
    parts.path_and_query = Some(head.path);
    let mut request = http::Request::new(());
    *request.uri_mut() = http::Uri::from_parts(parts).map_err(|error| error.to_string())?;
    *request.method_mut() = head.method;
    // Without an authority the h2 crate insists on a version that may lack one.
    *request.version_mut() =
        if request.uri().authority().is_some() { http::Version::HTTP_2 } else { http::Version::HTTP_11 };
    *request.headers_mut() = head.headers;
    if let Some(protocol) = head.protocol {
        request.extensions_mut().insert(protocol);
    }
    Ok(request)
}

/// Takes a response apart.
pub(crate) fn response_parts(response: http::Response<h2::RecvStream>) -> (ResponseHead, Body) {
    let (parts, stream) = response.into_parts();
    (
        ResponseHead {
            status: parts.status,
            version: parts.version,
            headers: parts.headers,
            spelling: Spelling::default(),
        },
        Body::from_h2(stream),
    )
}

/// Takes an informational response apart.
pub(crate) fn informational(response: http::Response<()>) -> ResponseHead {
    let (parts, ()) = response.into_parts();
    ResponseHead { status: parts.status, version: parts.version, headers: parts.headers, spelling: Spelling::default() }
}

#[cfg(test)]
mod tests;
