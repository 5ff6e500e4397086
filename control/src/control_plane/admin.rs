//! /healthz, /ready and /metrics.

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
use remora_certs::server::{Watched, prometheus_text};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::metrics::Metrics;
use super::namespaces::Namespaces;
use crate::webhook::certificates::Shown;

const MAX_CONNECTIONS: usize = 64;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Whom it asks.
#[derive(Clone)]
pub struct Admin {
    /// The authority.
    pub authority: Watched,
    /// The webhook's certificate.
    pub shown: Arc<Shown>,
    /// The copies.
    pub namespaces: Arc<Namespaces>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whether we are told to end.
    pub ending: watch::Receiver<bool>,
}

impl Admin {
    /// Serves until dropped.
    pub async fn serve(self, listener: TcpListener) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let this = self.clone();
                    connections.spawn(async move {
                        let _slot = slot;
                        let service = service_fn(|request: Request<Incoming>| {
                            let response = this.answer(request.method(), request.uri().path());
                            async move { Ok::<_, Infallible>(response) }
                        });
                        let serving = http1::Builder::new()
                            .timer(TokioTimer::new())
                            .header_read_timeout(HEAD_TIMEOUT)
                            .serve_connection(TokioIo::new(stream), service);
                        let _ = tokio::time::timeout(CONNECTION_TIMEOUT, serving).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin interface cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
    }

    /// Why we are not ready; nothing where we are.
    fn reasons(&self) -> Vec<String> {
        let mut reasons: Vec<_> =
            self.authority.reasons().into_iter().map(|reason| format!("certificate authority: {reason}")).collect();
        if *self.ending.borrow() {
            reasons.push("ending".to_owned());
        }
        if !self.shown.is_there() {
            reasons.push("webhook: there is no certificate yet".to_owned());
        }
        reasons.extend(self.namespaces.problem().map(|problem| format!("namespaces: {problem}")));
        reasons
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned());
        }
        match path {
            "/metrics" => {
                let own = prometheus_text(&self.metrics.text());
                let mut response = text(StatusCode::OK, self.authority.metrics() + &own);
                let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            "/ready" => match self.reasons() {
                reasons if reasons.is_empty() => text(StatusCode::OK, "ready\n".to_owned()),
                reasons => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{}\n", reasons.join("\n"))),
            },
            "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
            "/" | "/help" => text(StatusCode::OK, "/metrics /ready /healthz\n".to_owned()),
            _ => text(StatusCode::NOT_FOUND, "/metrics, /ready and /healthz are here\n".to_owned()),
        }
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
