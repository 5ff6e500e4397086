//! The operator's HTTP interface: /metrics, /ready and /healthz. Read-only, on loopback unless told otherwise.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::Health;
use super::metrics::Metrics;

/// Connections at once.
const MAX_CONNECTIONS: usize = 64;
/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may live; whoever scrapes comes again.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);

/// Serves until dropped.
pub(crate) async fn serve(listener: TcpListener, metrics: Arc<Metrics>, health: Health) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (metrics, health) = (Arc::clone(&metrics), health.clone());
                connections.spawn(async move {
                    let _slot = slot;
                    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection(stream, metrics, health)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin interface cannot accept");
                tokio::time::sleep(super::listener::ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, metrics: Arc<Metrics>, health: Health) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), &metrics, &health);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an admin connection ended badly");
    }
}

fn answer(method: &Method, path: &str, metrics: &Metrics, health: &Health) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned());
    }
    match path {
        "/metrics" => {
            let mut response = text(StatusCode::OK, metrics.text());
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        "/ready" => match health.reasons() {
            reasons if reasons.is_empty() => text(StatusCode::OK, "ready\n".to_owned()),
            reasons => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{}\n", reasons.join("\n"))),
        },
        "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
        "/" | "/help" => text(StatusCode::OK, "/metrics /ready /healthz\n".to_owned()),
        _ => text(StatusCode::NOT_FOUND, "/metrics, /ready and /healthz are here\n".to_owned()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
