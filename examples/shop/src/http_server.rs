//! A plain HTTP server: one handler, connections served until the application is told to stop, then those under way
//! finished.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;

use crate::{GRACE, stop};

/// What a handler answers.
pub(crate) type Answer = Response<Full<Bytes>>;

/// The largest request body an application reads, in bytes.
const BODY_LIMIT: usize = 1 << 20;

/// Which versions of HTTP a server accepts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Versions {
    Http1,
    Http1And2,
}

/// Serves `listener` with `handler` until SIGTERM or Ctrl-C, then ends what is under way within [`GRACE`].
pub(crate) async fn serve<H, F>(listener: TcpListener, versions: Versions, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let mut server = auto::Builder::new(TokioExecutor::new());
    if versions == Versions::Http1 {
        server = server.http1_only();
    }
    let graceful = GracefulShutdown::new();
    let stop = stop::requested();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        // An accept fails for that one client (it hung up) or for want of descriptors; either way the next may succeed.
        let Ok((stream, _)) = accepted else { continue };
        let handler = handler.clone();
        let service = service_fn(move |request| {
            let answer = handler(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let connection = server.serve_connection(TokioIo::new(stream), service).into_owned();
        let watched = graceful.watch(connection);
        tokio::spawn(async move { drop(watched.await) });
    }
    drop(listener);
    drop(tokio::time::timeout(GRACE, graceful.shutdown()).await);
}

/// Reads a whole request body of at most [`BODY_LIMIT`] bytes.
pub(crate) async fn read_body(body: Incoming) -> Result<Bytes, Answer> {
    match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(failure(StatusCode::BAD_REQUEST, &format!("cannot read the request body: {error}"))),
    }
}

/// `value` as a JSON answer.
pub(crate) fn json(value: &serde_json::Value) -> Answer {
    with_json(StatusCode::OK, value)
}

/// An answer that says in JSON why there is no better one.
pub(crate) fn failure(status: StatusCode, reason: &str) -> Answer {
    with_json(status, &serde_json::json!({ "error": reason }))
}

fn with_json(status: StatusCode, value: &serde_json::Value) -> Answer {
    let mut text = value.to_string();
    text.push('\n');
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}
