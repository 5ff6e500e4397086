//! Connections: accepted, TLS 1.3, then HTTP/2, each within its bounds, and ended in order when the server ends.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::ServiceExt;

use super::connections::{Connection, Share, Shares};
use super::metrics::Metrics;
use super::signing::Signing;
use crate::Peer;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long to wait after the system refused a connection, such as for want of file descriptors.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection may be without a call, its first bytes of HTTP/2 included.
const IDLE: Duration = Duration::from_secs(20);
/// How long a call may take until its answer begins, the message that asks included.
const CALL: Duration = Duration::from_secs(30);
/// How long a client may take to close its side after the last answer.
const LINGER: Duration = Duration::from_secs(2);
/// Calls at once on one connection.
const MAX_STREAMS: u32 = 64;
/// Header bytes of one call; a token has at most 16 KiB.
const MAX_HEADERS: u32 = 24 * 1024;
/// How often a silent client is asked whether it is still there, and how long its answer may take.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// What every connection needs.
#[derive(Clone)]
pub(crate) struct Front {
    pub(crate) routes: Routes,
    pub(crate) signing: watch::Receiver<Arc<Signing>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) ending: watch::Receiver<bool>,
    pub(crate) shares: Arc<Shares>,
}

impl Front {
    /// Accepts until the server ends, then waits up to `grace` for the calls that run.
    pub(crate) async fn serve(mut self, listener: TcpListener, grace: Duration) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = ended(&mut self.ending) => break,
            };
            match accepted {
                Ok((stream, address)) => self.start(stream, address, &mut connections),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
        // Nobody may be told "connected" by a queue that nobody will serve.
        drop(listener);
        let finished = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, finished).await.is_err() {
            tracing::warn!(connections = connections.len(), "calls still run after the grace; they are cut");
        }
    }

    fn start(&self, stream: TcpStream, address: SocketAddr, connections: &mut JoinSet<()>) {
        let share: Share = match self.shares.take(address.ip()) {
            Ok(share) => share,
            Err(word) => return self.metrics.handshake_failed(word),
        };
        let front = self.clone();
        connections.spawn(async move {
            let _share = share;
            front.metrics.connections.inc();
            front.connection(stream, address).await;
            front.metrics.connections.dec();
        });
    }

    async fn connection(&self, stream: TcpStream, address: SocketAddr) {
        let signing = Arc::clone(&self.signing.borrow());
        let _ = stream.set_nodelay(true);
        // Without a descriptor to spare the connection is served all the same.
        let held = stream.as_fd().try_clone_to_owned().ok();
        let handshake = TlsAcceptor::from(Arc::clone(&signing.tls)).accept(stream);
        let stream = match tokio::time::timeout(HANDSHAKE, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.metrics.handshake_failed("tls");
                tracing::debug!(peer = %address, %error, "a handshake failed");
                return;
            }
            Err(_) => {
                self.metrics.handshake_failed("timeout");
                return;
            }
        };
        match peer(&stream, &signing) {
            Ok(peer) => {
                self.calls(stream, Connection::new(address, peer)).await;
                if *self.ending.borrow() {
                    linger(held).await;
                }
            }
            Err(error) => {
                self.metrics.handshake_failed("peer");
                tracing::debug!(peer = %address, %error, "a client certificate is not accepted");
            }
        }
    }

    async fn calls(&self, stream: TlsStream<TcpStream>, connection: Connection) {
        let service = service_fn(|mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(connection.clone());
            let (call, answer) = (connection.calls.begin(), self.routes.clone().oneshot(request));
            async move {
                let _call = call;
                let late = |_| Ok(Status::deadline_exceeded("the call took too long").into_http::<Body>());
                tokio::time::timeout(CALL, answer).await.unwrap_or_else(late)
            }
        });
        let (interval, timeout) = KEEP_ALIVE;
        let served = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADERS)
            .keep_alive_interval(interval)
            .keep_alive_timeout(timeout)
            .serve_connection(TokioIo::new(stream), service);
        let mut served = std::pin::pin!(served);
        let mut ending = self.ending.clone();
        let result = tokio::select! {
            result = served.as_mut() => result,
            () = ended(&mut ending) => {
                served.as_mut().graceful_shutdown();
                served.await
            }
            () = connection.calls.idle_for(IDLE) => {
                served.as_mut().graceful_shutdown();
                // A call may be on its way; a client that says nothing is not waited for.
                tokio::select! {
                    result = served => result,
                    () = connection.calls.idle_for(LINGER) => Ok(()),
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(peer = %connection.address, %error, "a connection ended badly");
        }
    }
}

/// Reads on what a client sends that has not yet heard that the server ends, until it closes too: a socket closed over
/// unread bytes is reset, and answers that are still on their way would be lost.
async fn linger(held: Option<OwnedFd>) {
    let stream = held.map(std::net::TcpStream::from).map(TcpStream::from_std);
    let Some(Ok(mut stream)) = stream else { return };
    let mut unread = [0; 4096];
    let read = async { while stream.read(&mut unread).await.is_ok_and(|read| read > 0) {} };
    let _ = tokio::time::timeout(LINGER, read).await;
}

/// Waits until the server ends; at once if nobody could tell any more.
pub(super) async fn ended(ending: &mut watch::Receiver<bool>) {
    // The guard within the result must not live across an await.
    let _ = ending.wait_for(|ending| *ending).await.map(drop);
}

/// The client's certificate judged, resumed handshakes included; none where it showed none.
fn peer(stream: &TlsStream<TcpStream>, signing: &Signing) -> Result<Option<Peer>, crate::VerifyError> {
    let (_, session) = stream.get_ref();
    session.peer_certificates().map(|_| signing.verifier.peer(session, SystemTime::now())).transpose()
}
