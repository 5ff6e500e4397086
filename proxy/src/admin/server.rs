//! HTTP/1.1 for the proxy's own interfaces: connections, bounds, and who may ask.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use remora_model::probe::PROBE_PREFIX;

use super::{AdminState, pages};

/// Connections to one interface at most; more wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// A request's head, and the silence before it.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// A connection's whole life, so that a peer that does not read keeps no place.
const CONNECTION_TIME: Duration = Duration::from_secs(300);
/// The last response of a connection whose time is up.
const LAST_RESPONSE: Duration = Duration::from_secs(10);
/// A request's head, in bytes.
const HEAD_BYTES: usize = 16 * 1024;

/// Which of the interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interface {
    Admin,
    Metrics,
    Readiness,
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug)]
struct From {
    /// Where the interface listens.
    own: SocketAddr,
    /// Which of the pod's addresses it was asked at.
    local: SocketAddr,
    peer: SocketAddr,
}

/// A page, ready to send.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
    pub(crate) allow: Option<&'static str>,
}

impl Page {
    pub(crate) fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into(), allow: None }
    }

    pub(crate) fn ok(body: impl Into<String>) -> Self {
        Self::text(StatusCode::OK, body)
    }
}

pub(crate) async fn serve(listener: TcpListener, interface: Interface, state: Arc<AdminState>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let own = listener.local_addr()?;
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // The peer is gone already, or descriptors have run out: the next accept may be better, later.
                tracing::debug!(%error, "cannot accept");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            serve_connection(stream, own, interface, state).await;
            drop(place);
        });
    }
}

async fn serve_connection(stream: TcpStream, own: SocketAddr, interface: Interface, state: Arc<AdminState>) {
    // Gone already.
    let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else { return };
    let from = From { own, local, peer };
    let service = service_fn(|request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(respond(from, interface, &state, &request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(HEAD_BYTES);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // What a peer does wrong ends its connection and concerns nobody else.
        _ = connection.as_mut() => return,
        () = sleep(CONNECTION_TIME) => connection.as_mut().graceful_shutdown(),
    }
    let _ = timeout(LAST_RESPONSE, connection).await;
}

async fn respond(
    from: From,
    interface: Interface,
    state: &AdminState,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    let page = if interface == Interface::Admin && !from_here(from.own, request.uri(), request.headers()) {
        Page::text(StatusCode::FORBIDDEN, "the admin interface is asked by its address or as localhost\n")
    } else if interface == Interface::Metrics && request.uri().path().starts_with(PROBE_PREFIX) {
        probe(from, state, request).await
    } else {
        page(from, interface, state, request.method(), request.uri()).await
    };
    let head_only = request.method() == Method::HEAD;
    let body = if head_only { Bytes::new() } else { Bytes::from(page.body) };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = page.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    if let Some(allow) = page.allow {
        headers.insert(ALLOW, HeaderValue::from_static(allow));
    }
    response
}

/// Asks the application what the kubelet asks, if injection has seen such a probe.
async fn probe(from: From, state: &AdminState, request: &Request<Incoming>) -> Page {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let page = Page::text(StatusCode::METHOD_NOT_ALLOWED, "probes take GET, HEAD\n");
        return Page { allow: Some("GET, HEAD"), ..page };
    }
    match state.prober.ask(request.uri().path(), from.local.ip(), request.headers()).await {
        None => Page::text(StatusCode::NOT_FOUND, "no such probe\n"),
        Some(Ok(())) => Page::ok("healthy\n"),
        Some(Err(error)) => Page::text(error.status(), format!("{error}\n")),
    }
}

/// Finds the page, or says what there is.
async fn page(from: From, interface: Interface, state: &AdminState, method: &Method, uri: &Uri) -> Page {
    let path = uri.path();
    let Some(route) = pages::ROUTES.iter().find(|route| route.path == path && route.on.contains(&interface)) else {
        let body = format!("no page {path}\n\n{}", pages::help(interface));
        return Page::text(StatusCode::NOT_FOUND, body);
    };
    let read = matches!(*method, Method::GET | Method::HEAD);
    let allow = match (route.read, route.write) {
        (true, true) => "GET, HEAD, POST",
        (true, false) => "GET, HEAD",
        _ => "POST",
    };
    if !((read && route.read) || (*method == Method::POST && route.write)) {
        let body = format!("{path} takes {allow}\n");
        return Page { allow: Some(allow), ..Page::text(StatusCode::METHOD_NOT_ALLOWED, body) };
    }
    // From its own address to its own address nothing comes but by loopback.
    let loopback = from.peer.ip().to_canonical().is_loopback() || from.peer.ip() == from.local.ip();
    if route.loopback && !loopback {
        return Page::text(StatusCode::FORBIDDEN, format!("{path} is for this pod's own processes, over loopback\n"));
    }
    pages::page(interface, state, route.page, !read, uri.query().unwrap_or_default()).await
}

/// Whether the request names this machine, and comes from a page of this machine if from any: a browser that was led here by another
/// site's name, or by another site's page, is refused.
fn from_here(own: SocketAddr, uri: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok().and_then(|text| text.parse::<Authority>().ok()),
        _ => None,
    };
    let Some(host) = host else { return false };
    let origin = match headers.get(ORIGIN) {
        None => true,
        Some(origin) => {
            let origin = origin.to_str().ok().and_then(|text| text.parse::<Uri>().ok());
            origin.and_then(|origin| origin.into_parts().authority).is_some_and(|origin| is_here(own, origin.host()))
        }
    };
    is_here(own, host.host()) && uri.host().is_none_or(|host| is_here(own, host)) && origin
}

/// Names can be made to point here; addresses and `localhost` cannot.
fn is_here(own: SocketAddr, host: &str) -> bool {
    if host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match literal.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(ip) if own.ip().is_loopback() => ip.is_loopback(),
        // On the pod's address it may be asked by any address the pod has.
        Ok(_) => true,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_accepted() {
        let loopback: SocketAddr = "127.0.0.1:15000".parse().unwrap();
        let cases = [
            ("localhost", true),
            ("LOCALHOST:15000", true),
            ("127.0.0.1:15000", true),
            ("127.1.2.3", true),
            ("[::1]:15000", true),
            ("[::ffff:127.0.0.1]", true),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("169.254.169.254", false),
            ("", false),
        ];
        for (host, accepted) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static(host));
            assert_eq!(from_here(loopback, &Uri::from_static("/stats"), &headers), accepted, "{host}");
        }
        assert!(!from_here(loopback, &Uri::from_static("/stats"), &HeaderMap::new()));
    }

    #[test]
    fn a_page_of_another_site_is_refused_whatever_the_host() {
        let own: SocketAddr = "127.0.0.1:15000".parse().unwrap();
        for (origin, accepted) in [("http://evil.example", false), ("null", false), ("http://localhost:15000", true)] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("localhost"));
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
            assert_eq!(from_here(own, &Uri::from_static("/loggers"), &headers), accepted, "{origin}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        assert!(!from_here(own, &Uri::from_static("http://evil.example/loggers"), &headers));
    }

    #[test]
    fn on_the_pods_address_any_address_will_do_but_no_name() {
        let own: SocketAddr = "0.0.0.0:15000".parse().unwrap();
        assert!(is_here(own, "10.7.0.2"));
        assert!(!is_here(own, "storefront.example"));
    }
}
