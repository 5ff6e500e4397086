//! Probes by HTTP and HTTPS, by the kubelet's rules: a GET on a connection of its own, redirects on the same host followed, to another host
//! taken for success. And what the kubelet cannot: HTTP/2 without TLS, where the application speaks nothing else.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, LOCATION, TE, TRAILER, TRANSFER_ENCODING, USER_AGENT};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use remora_model::probe::HttpProbe;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use url::Url;

use super::{Failure, MAX_BODY, dial, https};

/// Requests of one probe at most; Go's limit, which is the kubelet's.
const MAX_REQUESTS: usize = 10;
/// Bytes of an answer's head.
const MAX_HEAD: usize = 64 * 1024;
/// Of the declared headers, those that frame the message are the connection's, as in Go.
const OF_THE_CONNECTION: [HeaderName; 6] = [HOST, CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING];

/// The answer's head; its body was read to the bound.
struct Answer {
    status: StatusCode,
    location: Option<String>,
}

/// Asks once, redirects included. `known_http2` is what was learnt of the application.
pub(super) async fn ask(
    probe: &HttpProbe,
    pod: IpAddr,
    asked: &HeaderMap,
    known_http2: &AtomicBool,
) -> Result<(), Failure> {
    let scheme = if probe.tls { "https" } else { "http" };
    let first = format!("{scheme}://{}{}", SocketAddr::new(pod, probe.port), probe.path);
    let mut url = Url::parse(&first).map_err(|error| Failure::Request(format!("{}: {error}", probe.path)))?;
    let (headers, mut host) = headers(probe, asked);
    let declared = url.host().map(|host| host.to_owned());
    for _ in 0..MAX_REQUESTS {
        let port = url.port_or_known_default().unwrap_or(probe.port);
        let address = SocketAddr::new(pod, port);
        let authority = host.clone().unwrap_or_else(|| authority(&url));
        let answer = exchange(&url, address, &authority, &headers, known_http2).await?;
        let Some(location) = answer.location else { return verdict(answer.status) };
        let relative = Url::parse(&location) == Err(url::ParseError::RelativeUrlWithoutBase);
        let next = url.join(&location).map_err(|error| Failure::Request(format!("a redirect to nowhere: {error}")))?;
        if next.host().map(|host| host.to_owned()) != declared {
            // Whether that other host lives is not the pod's affair.
            return Ok(());
        }
        if !matches!(next.scheme(), "http" | "https") {
            return Err(Failure::Request(format!("a redirect to a {} address", next.scheme())));
        }
        if !relative {
            host = None;
        }
        url = next;
    }
    Err(Failure::Request(format!("redirected after {MAX_REQUESTS} requests")))
}

fn verdict(status: StatusCode) -> Result<(), Failure> {
    if status.is_success() || status.is_redirection() { Ok(()) } else { Err(Failure::Status(status)) }
}

/// What is sent but for the host, and the declared host.
fn headers(probe: &HttpProbe, asked: &HeaderMap) -> (HeaderMap, Option<String>) {
    let (mut headers, mut host) = (HeaderMap::new(), None);
    for (name, value) in &probe.headers {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) else { continue };
        if name == HOST {
            host = value.to_str().ok().filter(|host| !host.is_empty()).map(str::to_owned);
        } else if !OF_THE_CONNECTION.contains(&name) {
            headers.append(name, value);
        }
    }
    // The kubelet's own, unless declared; an empty declaration takes them out.
    let agent = asked.get(USER_AGENT).cloned().unwrap_or(HeaderValue::from_static("kube-probe/remora"));
    for (name, usual) in [(USER_AGENT, agent), (ACCEPT, HeaderValue::from_static("*/*"))] {
        let declared = headers.entry(name.clone()).or_insert(usual);
        if declared.is_empty() {
            headers.remove(name);
        }
    }
    (headers, host)
}

fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// One request on a connection of its own. What does not answer HTTP/1.1 is tried once with HTTP/2.
async fn exchange(
    url: &Url,
    address: SocketAddr,
    host: &str,
    headers: &HeaderMap,
    known_http2: &AtomicBool,
) -> Result<Answer, Failure> {
    let stream = dial(address).await?;
    if url.scheme() == "https" {
        let (stream, http2) = https::connect(stream, address).await?;
        return if http2 {
            by_http2(stream, url, host, headers).await
        } else {
            by_http1(stream, url, host, headers).await
        };
    }
    if known_http2.load(Ordering::Relaxed) {
        let answer = by_http2(stream, url, host, headers).await;
        // Another application may have come; the next probe finds out.
        known_http2.store(answer.is_ok(), Ordering::Relaxed);
        return answer;
    }
    match by_http1(stream, url, host, headers).await {
        Err(Failure::Http(error)) => {
            let answer = by_http2(dial(address).await?, url, host, headers).await.map_err(|_| Failure::Http(error))?;
            known_http2.store(true, Ordering::Relaxed);
            Ok(answer)
        }
        answer => answer,
    }
}

async fn by_http1<S>(stream: S, url: &Url, host: &str, headers: &HeaderMap) -> Result<Answer, Failure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let mut request = request(path.parse(), headers)?;
    let value = HeaderValue::from_str(host).map_err(|error| Failure::Request(format!("host: {error}")))?;
    request.headers_mut().insert(HOST, value);
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    let mut http = http1::Builder::new();
    let (mut sender, connection) = http.max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await?;
    // Ends with this exchange, however that ends.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    read(sender.send_request(request).await?).await
}

async fn by_http2<S>(stream: S, url: &Url, host: &str, headers: &HeaderMap) -> Result<Answer, Failure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let authority: Authority = host.parse().map_err(|error| Failure::Request(format!("host: {error}")))?;
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let uri = Uri::builder().scheme(url.scheme()).authority(authority).path_and_query(path).build();
    let request = request(uri, headers)?;
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.max_header_list_size(MAX_HEAD as u32);
    let (mut sender, connection) = http.handshake(TokioIo::new(stream)).await?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    read(sender.send_request(request).await?).await
}

fn request<E: std::fmt::Display>(uri: Result<Uri, E>, headers: &HeaderMap) -> Result<Request<Empty<Bytes>>, Failure> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = uri.map_err(|error| Failure::Request(format!("path: {error}")))?;
    *request.headers_mut() = headers.clone();
    Ok(request)
}

async fn read(answer: http::Response<hyper::body::Incoming>) -> Result<Answer, Failure> {
    let (head, mut body) = answer.into_parts();
    let mut read = 0;
    while read < MAX_BODY
        && let Some(frame) = body.frame().await
    {
        read += frame?.data_ref().map_or(0, Bytes::len);
    }
    let redirect = matches!(head.status.as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = head.headers.get(LOCATION).filter(|location| redirect && !location.is_empty());
    let location = location.map(|location| String::from_utf8_lossy(location.as_bytes()).into_owned());
    Ok(Answer { status: head.status, location })
}
