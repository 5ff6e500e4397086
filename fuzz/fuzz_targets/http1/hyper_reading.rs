//! What a reader makes of bytes, and the same bytes read by hyper.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;
use remora_proxy::http::trailers::is_harmful;

/// What a reader makes of a message.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Content {
    pub(super) line: Vec<String>,
    pub(super) headers: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Vec<(String, Vec<u8>)>,
}

pub(super) fn fields(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}

/// Trailers in one order, without what ours carry of their spelling.
pub(super) fn sorted(trailers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let mut fields = fields(trailers);
    fields.retain(|(name, _)| name != "x-remora-hop");
    fields.sort();
    fields
}

/// What should have been percent-encoded in a target, which hyper refuses and we pass, and what stands for it.
const RAW: [(u8, u8); 4] = [(b'"', b'!'), (b'<', b'('), (b'>', b')'), (b'`', b'\'')];

/// With other characters in the place of raw ones.
pub(super) fn plain(bytes: &[u8]) -> Vec<u8> {
    let plain = |byte: &u8| RAW.iter().find(|(raw, _)| raw == byte).map_or(*byte, |(_, plain)| *plain);
    bytes.iter().map(plain).collect()
}

/// The same, in what looks like a request's line: bodies are compared in their plain form, so it does no harm there.
fn plain_targets(bytes: &[u8]) -> Vec<u8> {
    let line = |line: &[u8]| match line.splitn(3, |byte| *byte == b' ').collect::<Vec<_>>()[..] {
        // Not a field's, whose name has no space behind it.
        [method, target, b"HTTP/1.1\r\n" | b"HTTP/1.0\r\n"] if !method.contains(&b':') => {
            [method, b" ", &plain(target), &line[method.len() + 1 + target.len()..]].concat()
        }
        _ => line.to_vec(),
    };
    bytes.split_inclusive(|byte| *byte == b'\n').flat_map(line).collect()
}

/// A path in the form of an origin's. hyper does not tell `OPTIONS http://a`, which means `*`, from `OPTIONS http://a/`.
pub(super) fn path(method: &Method, path: &str) -> String {
    if path == "/" && *method == Method::OPTIONS {
        return "*".to_owned();
    }
    let slash = if path.starts_with(['/', '*']) { "" } else { "/" };
    slash.to_owned() + str::from_utf8(&plain(path.as_bytes())).expect("ASCII is left")
}

pub(super) fn version(version: Version) -> String {
    format!("{version:?}")
}

/// A connection on which bytes come before its end; what is written to it is forgotten.
struct Sent<'a> {
    bytes: &'a [u8],
    /// They answer what is written.
    waits: bool,
}

impl Read for Sent<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if self.waits {
            return Poll::Pending;
        }
        let (now, rest) = self.bytes.split_at(buf.remaining().min(self.bytes.len()));
        buf.put_slice(now);
        self.bytes = rest;
        Poll::Ready(Ok(()))
    }
}

impl Write for Sent<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.waits = false;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Whole requests, one after another.
pub(super) fn requests(bytes: &[u8]) -> Vec<Content> {
    let bytes = &plain_targets(bytes);
    let seen = RefCell::new(Vec::new());
    let service = service_fn(|request: Request<Incoming>| async {
        let (parts, body) = request.into_parts();
        if let Ok(body) = body.collect().await {
            let host = parts.headers.get(header::HOST).map_or("", |host| host.to_str().unwrap_or_default());
            let authority = parts.uri.authority().map_or(host, |authority| authority.as_str());
            let line = vec![
                parts.method.to_string(),
                authority.to_owned(),
                path(&parts.method, parts.uri.path_and_query().map_or("/", |path| path.as_str())),
                version(parts.version),
            ];
            let trailers = kept(body.trailers());
            let body = plain(&body.to_bytes());
            seen.borrow_mut().push(Content { line, headers: fields(&parts.headers), body, trailers });
        }
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(Sent { bytes, waits: false }, service);
    let _ = run(connection);
    seen.into_inner()
}

/// The answer to a request, behind informational ones.
pub(super) fn response(bytes: &[u8], head: bool) -> Option<Content> {
    run(async {
        let connecting = hyper::client::conn::http1::Builder::new()
            .allow_spaces_after_header_name_in_responses(true)
            .handshake(Sent { bytes, waits: true });
        let (mut sender, connection) = connecting.await.ok()?;
        let mut request = Request::new(Empty::<Bytes>::new());
        if head {
            *request.method_mut() = Method::HEAD;
        }
        let mut answered = pin!(async {
            let (mut parts, body) = sender.send_request(request).await.ok()?.into_parts();
            if parts.status == StatusCode::NO_CONTENT {
                // Must not be there (RFC 9110 section 8.6), and is not passed on.
                parts.headers.remove(header::CONTENT_LENGTH);
            }
            let body = body.collect().await.ok()?;
            let (line, trailers) = (vec![parts.status.as_str().to_owned()], kept(body.trailers()));
            let body = body.to_bytes().to_vec();
            Some(Content { line, headers: fields(&parts.headers), body, trailers })
        });
        let mut connection = pin!(connection);
        std::future::poll_fn(|cx| {
            let _ = connection.as_mut().poll(cx);
            answered.as_mut().poll(cx)
        })
        .await
    })
    .flatten()
}

fn kept(trailers: Option<&HeaderMap>) -> Vec<(String, Vec<u8>)> {
    let mut trailers = trailers.map(sorted).unwrap_or_default();
    trailers.retain(|(name, _)| !is_harmful(name));
    trailers
}

/// Nothing waits for anything but a next turn.
fn run<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    (0..100_000).find_map(|_| match future.as_mut().poll(&mut cx) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    })
}
