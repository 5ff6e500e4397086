//! HTTPS for the API server: bounded, and each request answered by [`super::review`].

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::certificates::Shown;
use super::connections::Connections;
use super::patience::{Patience, Patient};
use super::review::{LARGEST_BODY, Review, Unreadable, Verdict, check_head};
use crate::control_plane::LAME_DUCK;
use crate::control_plane::metrics::{Metrics, Outcome};
use crate::control_plane::namespaces::Namespaces;
use crate::inject::Settings;

/// Where reviews are posted.
pub const PATH: &str = "/inject";
/// Connections at once.
const MAX_CONNECTIONS: usize = 512;
/// How long a handshake may take.
const TIMEOUT: Duration = Duration::from_secs(10);
const PATIENCE: Patience = Patience {
    // Longer than the API server keeps an idle connection (90 s), so that none ends as a review is sent.
    idle: Duration::from_secs(180),
    // The API server waits ten seconds for the whole.
    request: Duration::from_secs(10),
};
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a request needs.
pub struct Webhook {
    /// What injection does.
    pub settings: Settings,
    /// What is known about namespaces.
    pub namespaces: Arc<Namespaces>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Serves until `ending` says so: then every answer asks for its connection to be closed, new ones are accepted for
/// [`LAME_DUCK`], and calls under way are finished.
///
/// # Errors
/// TLS cannot be set up.
pub async fn serve(
    listener: TcpListener,
    shown: Arc<Shown>,
    webhook: Arc<Webhook>,
    ending: watch::Receiver<bool>,
) -> Result<(), rustls::Error> {
    let (close, closing) = watch::channel(false);
    let mut told = ending.clone();
    let mut stop = std::pin::pin!(async move {
        let _ = told.wait_for(|ending| *ending).await;
        tokio::time::sleep(LAME_DUCK).await;
    });
    let tls = TlsAcceptor::from(Arc::new(tls(shown)?));
    let mut connections = Connections::new(MAX_CONNECTIONS);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the webhook cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (tls, webhook, ending, closing) = (tls.clone(), Arc::clone(&webhook), ending.clone(), closing.clone());
        connections.add(peer.ip().to_canonical(), connection(stream, tls, webhook, ending, closing));
    }
    drop(listener);
    close.send_replace(true);
    connections.ended().await;
    Ok(())
}

fn tls(shown: Arc<Shown>) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(shown);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn connection(
    stream: TcpStream,
    tls: TlsAcceptor,
    webhook: Arc<Webhook>,
    ending: watch::Receiver<bool>,
    mut closing: watch::Receiver<bool>,
) {
    let stream = match tokio::time::timeout(TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a handshake with the webhook failed");
            return;
        }
        Err(_) => return,
    };
    let service = service_fn(|request: Request<Incoming>| {
        let (webhook, ending) = (Arc::clone(&webhook), ending.clone());
        async move {
            let mut response = webhook.answer(request).await;
            // Not closed while it is idle: the API server may be sending its next review.
            if *ending.borrow() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    // The stream has bounds of its own.
    let stream = TokioIo::new(Patient::new(stream, PATIENCE));
    let serving = http1::Builder::new().header_read_timeout(None).serve_connection(stream, service);
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        _ = serving.as_mut() => return,
        _ = closing.wait_for(|closing| *closing) => serving.as_mut().graceful_shutdown(),
    }
    let _ = tokio::time::timeout(TIMEOUT, serving).await;
}

impl Webhook {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let began = Instant::now();
        let (outcome, response) = match self.review(request).await {
            Ok((outcome, body)) => (outcome, of(StatusCode::OK, "application/json", body)),
            Err(Unreadable { status, reason }) => {
                tracing::info!(%status, reason, "what is no review was sent to the webhook");
                let mut response = of(status, "text/plain; charset=utf-8", format!("{reason}\n").into_bytes());
                if status == StatusCode::METHOD_NOT_ALLOWED {
                    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
                }
                (Outcome::Unreadable, response)
            }
        };
        self.metrics.reviewed(outcome, began.elapsed());
        response
    }

    async fn review(&self, request: Request<Incoming>) -> Result<(Outcome, Vec<u8>), Unreadable> {
        let (head, body) = request.into_parts();
        if head.uri.path() != PATH {
            let reason = format!("reviews are posted to {PATH}");
            return Err(Unreadable { status: StatusCode::NOT_FOUND, reason });
        }
        check_head(&head.method, head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()))?;
        let review = Review::parse(&read(body).await?)?;
        let annotations = self.namespaces.annotations(review.namespace()).await;
        let verdict = review.judge(annotations, &self.settings);
        let outcome = match &verdict {
            Verdict::Unchanged(_) => Outcome::Unchanged,
            Verdict::Injected(_) => Outcome::Injected,
            Verdict::Denied(reason) => {
                tracing::info!(namespace = review.namespace(), reason, "a pod was refused");
                Outcome::Denied
            }
        };
        // A labelled namespace has them anyway, and loses them with its label.
        if outcome == Outcome::Injected && review.asks_itself(&self.settings) && !review.is_dry_run() {
            self.namespaces.needs_copies(review.namespace());
        }
        Ok((outcome, review.answer(verdict)))
    }
}

async fn read(body: Incoming) -> Result<Bytes, Unreadable> {
    let bad = |status, reason: String| Unreadable { status, reason };
    match Limited::new(body, LARGEST_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(bad(StatusCode::PAYLOAD_TOO_LARGE, format!("a review has at most {LARGEST_BODY} bytes")))
        }
        Err(error) => Err(bad(StatusCode::BAD_REQUEST, format!("the body broke off: {error}"))),
    }
}

fn of(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
