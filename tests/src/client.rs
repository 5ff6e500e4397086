//! Clients on hyper, for what curl and h2load cannot say: one connection, many calls, and what each answered.

use std::net::SocketAddr;

use anyhow::Context;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// One HTTP/2 connection.
pub type H2 = http2::SendRequest<Full<Bytes>>;
/// One HTTP/1.1 connection.
pub type H1 = http1::SendRequest<Full<Bytes>>;

/// Opens an HTTP/2 connection with prior knowledge.
///
/// # Errors
/// It is refused.
pub async fn h2(to: SocketAddr) -> anyhow::Result<H2> {
    let stream = TcpStream::connect(to).await.with_context(|| format!("connect to {to}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Opens an HTTP/1.1 connection.
///
/// # Errors
/// It is refused.
pub async fn h1(to: SocketAddr) -> anyhow::Result<H1> {
    let stream = TcpStream::connect(to).await.with_context(|| format!("connect to {to}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// A GET request for HTTP/1.1 (`host` is a header).
///
/// # Panics
/// When path or host are no valid parts of a request.
#[must_use]
pub fn get(host: &str, path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", host).body(Full::default()).unwrap()
}

/// A GET request for HTTP/2 (`host` is the authority).
///
/// # Panics
/// When path or host are no valid parts of a URI.
#[must_use]
pub fn get2(host: &str, path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("http://{host}{path}")).body(Full::default()).unwrap()
}

/// A response with its whole body.
///
/// # Errors
/// The body is cut.
pub async fn text(response: Response<Incoming>) -> anyhow::Result<(u16, HeaderMap, String)> {
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok((head.status.as_u16(), head.headers, String::from_utf8_lossy(&body).into_owned()))
}

/// The outcome of one gRPC call.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// `grpc-status`, wherever it stood.
    pub status: Option<u32>,
    /// `grpc-message`.
    pub message: String,
    /// Whether the status came in trailers of its own (not with the head).
    pub trailers: bool,
    /// The reply, without its frame.
    pub reply: String,
    /// The status of HTTP.
    pub http: u16,
}

/// A unary gRPC call with an opaque message; `headers` are added.
///
/// # Errors
/// There is no answer.
pub async fn unary(client: &mut H2, authority: &str, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Call> {
    client.ready().await?;
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(4);
    message.put_slice(b"ping");
    let mut request = Request::post(format!("http://{authority}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = client.send_request(request.body(Full::new(message.freeze()))?).await?;
    let (head, body) = response.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let value = |name: &str| {
        let found = trailers.get(name).or_else(|| head.headers.get(name));
        found.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let bytes = collected.to_bytes();
    Ok(Call {
        status: value("grpc-status").and_then(|code| code.parse().ok()),
        message: value("grpc-message").unwrap_or_default(),
        trailers: trailers.contains_key("grpc-status"),
        reply: String::from_utf8_lossy(bytes.get(5..).unwrap_or_default()).into_owned(),
        http: head.status.as_u16(),
    })
}
