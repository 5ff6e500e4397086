//! Connecting to an endpoint: TCP, mTLS where the cluster says so, and the driver of an HTTP connection.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use model::{Direction, UpstreamTls, capture};
use remora_model as model;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::{Caller, MAX_ATTEMPTS};
use crate::address::OrigDst;
use crate::breaker::{Limit, Place};
use crate::cluster::{ClusterState, Picked};
use crate::crowd::Told;
use crate::http::h2::keep_alive;
use crate::http::{h1, h2};
use crate::io::Upstream;
use crate::live::{self, LiveConnection};
use crate::pool::{Driven, Fresh, Hop, Shared};
use crate::telemetry::{TlsSide, UpstreamMetrics, UpstreamProtocol};
use crate::tls::{MeshProtocol, Offer};
use crate::worker::{File, Need, Share, Worker};
use crate::{Error, socket, tls};

/// How long an address is waited for before one of the other family is asked as well: the connection attempt delay that
/// RFC 8305 recommends.
const HEAD_START: Duration = Duration::from_millis(250);

/// How often a hello is said to who answers with what is no TLS.
const HELLOS: u32 = 4;

/// Counts an upstream connection as open until it is dropped.
#[derive(Debug)]
pub(crate) struct UpstreamConnection {
    metrics: Arc<UpstreamMetrics>,
    /// Of the mesh's connections.
    live: Option<Rc<LiveConnection>>,
    /// Within the cluster's bounds.
    place: Option<Place>,
    pub(crate) file: File,
}

impl UpstreamConnection {
    pub(crate) fn opened(
        metrics: &Arc<UpstreamMetrics>,
        protocol: UpstreamProtocol,
        live: Option<Rc<LiveConnection>>,
        place: Option<Place>,
        file: File,
    ) -> Self {
        metrics.connection_opened(protocol);
        Self { metrics: metrics.clone(), live, place, file }
    }

    /// It counts within the bounds of `cluster` from now on.
    ///
    /// # Errors
    /// No place is left.
    pub(crate) fn enter(&mut self, cluster: &ClusterState) -> Result<(), Error> {
        self.place = tcp_place(cluster)?;
        Ok(())
    }

    /// More came on it than it was asked for.
    pub(crate) fn surplus_answer(&self) {
        self.metrics.surplus_answer();
    }

    #[cfg(test)]
    pub(crate) fn surplus_answers(&self) -> u64 {
        self.metrics.surplus.value()
    }

    /// Completes when the connection was drained and its grace is over.
    pub(crate) fn over(&self) -> impl Future<Output = ()> + use<> {
        live::over(self.live.clone())
    }
}

/// A connection just made.
struct Dialled {
    io: Upstream,
    protocol: Option<MeshProtocol>,
    live: Option<Rc<LiveConnection>>,
}

impl Drop for UpstreamConnection {
    fn drop(&mut self) {
        self.metrics.connection_closed();
    }
}

/// What the need takes of the share of the open files, within the time that there is to make a connection.
///
/// # Errors
/// Others have it.
pub(super) async fn share(worker: &Worker, cluster: &ClusterState, need: Need) -> Result<Share, Error> {
    let timeout = cluster.config.connect_timeout;
    worker.files.wait_to_share(need, Instant::now() + timeout).await.ok_or(Error::NoFile(timeout))
}

/// A file for a connection, within the time that there is to make one.
///
/// # Errors
/// None was free.
pub(super) async fn file(
    worker: &Worker,
    cluster: &ClusterState,
    need: Need,
    share: Option<Share>,
) -> Result<File, Error> {
    let timeout = cluster.config.connect_timeout;
    worker.file(need, share, Instant::now() + timeout).await.ok_or(Error::NoFile(timeout))
}

/// Makes an HTTP connection to an endpoint and starts its driver.
pub(super) async fn open(
    worker: &Rc<Worker>,
    cluster: &Rc<ClusterState>,
    address: SocketAddr,
    hop: Hop,
    caller: Caller,
    (mut place, file): (Option<Place>, File),
) -> Result<Fresh, Error> {
    let offer = match hop {
        Hop::Http1 | Hop::MeshHttp1 => Offer::Http1,
        Hop::Http2 | Hop::MeshHttp2 => Offer::Http2,
        Hop::MeshUpgrade => Offer::Upgrade,
    };
    let Dialled { io, protocol, live } = dial(worker, cluster, address, offer, caller).await?;
    let http1 = match (hop, protocol) {
        (Hop::Http1, _) | (_, Some(MeshProtocol::IstioHttp11)) => true,
        // Istio's own inbound side tells HTTP by what is offered and agrees on none of it: what was asked for counts.
        (Hop::MeshHttp1 | Hop::MeshUpgrade, None) => true,
        _ => false,
    };
    let closed = |message: String| Error::UpstreamClosed {
        cluster: cluster.name().clone(),
        endpoint: address,
        message,
        code: None,
        unprocessed: true,
    };
    let limits = worker.view().limits();
    if http1 {
        let counted = UpstreamConnection::opened(&cluster.metrics, UpstreamProtocol::Http1, live.clone(), place, file);
        return Ok(Fresh::Http1(h1::client::Sender::new(io, counted, live, (&limits).into())));
    }
    let ours = protocol == Some(MeshProtocol::RemoraH2);
    let told = Told::new(worker.crowd.clone(), limits.stream_window);
    let connected = h2::connect(io, ours, limits, told.last()).await;
    let (sender, mut connection) = connected.map_err(|error| closed(error.to_string()))?;
    if let Some(place) = &mut place {
        place.is_shared();
    }
    let shared = Shared::new(sender, ours, &limits, file.take_share(), worker.crowd.clone());
    let counted = UpstreamConnection::opened(&cluster.metrics, UpstreamProtocol::Http2, live.clone(), place, file);
    let silence = keep_alive::unanswered(connection.ping_pong().filter(|_| ours));
    let connection = Driven::new(connection, &shared, told);
    spawn_local(drive(connection, silence, Rc::downgrade(&shared), live, counted));
    Ok(Fresh::Http2(shared))
}

/// Drives a shared connection until it ends, or is silent for too long, or was drained and its grace is over.
async fn drive<T>(
    connection: impl Future<Output = T>,
    silence: impl Future<Output = ()>,
    shared: Weak<Shared>,
    live: Option<Rc<LiveConnection>>,
    counted: UpstreamConnection,
) {
    let (mut connection, mut silence) = (pin!(connection), pin!(silence));
    let close = || drop(shared.upgrade().inspect(|shared| shared.mark_closed()));
    if let Some(live) = live {
        tokio::select! {
            biased;
            _ = connection.as_mut() => return close(),
            () = silence.as_mut() => return close(),
            () = live.drained() => close(),
        }
    }
    tokio::select! {
        biased;
        _ = connection => {}
        () = silence => {}
        () = counted.over() => drop(shared.upgrade().inspect(|shared| shared.retire())),
    }
    close();
    drop(counted);
}

/// Connects to an endpoint, with mTLS where the cluster says so, all of it within the time that there is to make a connection. What is no TLS
/// at all is tried again: a permissive peer whose application speaks first takes a hello that is later than its patience for a
/// plaintext client's silence.
///
/// # Errors
/// Refused, not reached in time, or the handshake failed.
async fn dial(
    worker: &Worker,
    cluster: &ClusterState,
    address: SocketAddr,
    offer: Offer,
    caller: Caller,
) -> Result<Dialled, Error> {
    let until = Instant::now() + cluster.config.connect_timeout;
    let mut tries = 1;
    loop {
        match dial_once(worker, cluster, address, offer, caller, until).await {
            Err(Error::UpstreamTls { reason: "protocol", .. }) if tries < HELLOS => tries += 1,
            dialled => return dialled,
        }
    }
}

/// The connection below TLS.
async fn connect(
    worker: &Worker,
    cluster: &ClusterState,
    address: SocketAddr,
    caller: Caller,
    until: Instant,
) -> Result<TcpStream, Error> {
    let connecting = async {
        match caller {
            Caller { kept: Some(client), .. } => socket::connect_as(client, address, worker.random()).await,
            Caller { direction: Direction::Inbound, .. } => connect_leg(worker, address).await,
            Caller { .. } => socket::connect(address, None).await,
        }
    };
    let connected = tokio::select! {
        connected = tokio::time::timeout_at(until, connecting) => connected.ok(),
        () = overtaken(worker, cluster, address) => None,
    };
    let name = || cluster.name().clone();
    let error = match connected {
        Some(Ok(stream)) => {
            if let Some(longest) = cluster.config.unacknowledged {
                // A socket that is closed already says so later.
                let _ = socket::bound_unacknowledged(&stream, longest);
            }
            return Ok(stream);
        }
        Some(Err(source)) => Error::Connect { cluster: name(), endpoint: address, source: Arc::new(source) },
        None => {
            let timeout = cluster.config.connect_timeout;
            Error::ConnectTimeout { cluster: name(), endpoint: address, timeout }
        }
    };
    cluster.metrics.connect_failed();
    Err(error)
}

async fn dial_once(
    worker: &Worker,
    cluster: &ClusterState,
    address: SocketAddr,
    offer: Offer,
    caller: Caller,
    until: Instant,
) -> Result<Dialled, Error> {
    let stream = connect(worker, cluster, address, caller, until).await?;
    let UpstreamTls::Mesh { identities } = &cluster.config.tls else {
        return Ok(Dialled { io: Upstream::Plain(stream), protocol: None, live: None });
    };
    let handshake = match worker.connector(identities, offer) {
        Some(connector) => {
            let left = until.saturating_duration_since(Instant::now());
            tls::connect(&connector, stream, cluster.server_name(address), left).await
        }
        None => Err(tls::TlsError::no_identity()),
    };
    match handshake {
        Ok((stream, info)) => {
            let live = Some(worker.shook_hands(TlsSide::Client, &info));
            let shared = matches!(info.protocol, Some(MeshProtocol::RemoraH2 | MeshProtocol::IstioH2));
            if shared && cluster.config.unacknowledged.is_none() {
                // Its other end always reads, so silence means that it is gone.
                let _ = socket::bound_unacknowledged(stream.get_ref().0.tcp(), socket::HOP_UNACKNOWLEDGED);
            }
            Ok(Dialled { io: Upstream::Tls(Box::new(stream)), protocol: info.protocol, live })
        }
        Err(error) => {
            worker.telemetry.tls().handshake_failed(TlsSide::Client, error.reason);
            cluster.metrics.connect_failed();
            if worker.may_log() {
                tracing::warn!(endpoint = %address, cluster = %cluster.name(), reason = error.reason, "TLS handshake failed: {}", error.message);
            }
            let cluster = cluster.name().clone();
            Err(Error::UpstreamTls { cluster, endpoint: address, reason: error.reason, message: error.message })
        }
    }
}

/// Completes when another family's address of the same name took a connection, though it was asked later: this one is passed
/// over then, and the other asked in its place (RFC 8305 section 5).
async fn overtaken(worker: &Worker, cluster: &ClusterState, address: SocketAddr) {
    let Some(other) = cluster.other_family(address) else { return std::future::pending().await };
    tokio::time::sleep(HEAD_START).await;
    let Some(_file) = worker.files.take(Need::More, &mut None) else { return std::future::pending().await };
    if socket::connect(other, None).await.is_err() {
        std::future::pending().await
    }
}

/// The inbound leg comes from a reserved source, which redirection lets pass to the application: as long as it can from the
/// one used last, then from the next, since each has so many ports towards one port of the application and no more.
async fn connect_leg(worker: &Worker, to: SocketAddr) -> io::Result<TcpStream> {
    let first = worker.leg_source.get();
    let mut n = 0;
    loop {
        let number = (first + n) % capture::INBOUND_SOURCES;
        let connected = socket::connect(to, Some(capture::inbound_source(to.is_ipv6(), number))).await;
        n += 1;
        match connected {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable && n < capture::INBOUND_SOURCES => {}
            connected => {
                worker.leg_source.set(number);
                return connected;
            }
        }
    }
}

/// The place of a TCP connection within the bounds of `cluster`.
///
/// # Errors
/// None is left.
pub(crate) fn tcp_place(cluster: &ClusterState) -> Result<Option<Place>, Error> {
    cluster.enter(cluster.pool.bounds.as_ref(), Limit::Connections)
}

/// Connects to an endpoint of `cluster` for a TCP connection, and to another where that failed.
///
/// # Errors
/// No endpoint is left to try, or the last could not be reached.
pub(crate) async fn connect_tcp(
    worker: &Worker,
    cluster: &ClusterState,
    orig_dst: OrigDst,
    caller: Caller,
    place: Option<Place>,
) -> Result<(Upstream, Picked, UpstreamConnection), Error> {
    let file = file(worker, cluster, Need::First, None).await?;
    let mut tried = Vec::new();
    let mut last = None;
    while tried.len() < MAX_ATTEMPTS {
        let Some(picked) = cluster.pick(orig_dst.socket(), &tried, || worker.random()) else { break };
        cluster.metrics.attempt();
        if last.is_some() {
            cluster.metrics.retry();
        }
        match dial(worker, cluster, picked.address(), Offer::Tcp, caller).await {
            Ok(Dialled { io, live, .. }) => {
                picked.reached();
                let counted = UpstreamConnection::opened(&cluster.metrics, UpstreamProtocol::Tcp, live, place, file);
                return Ok((io, picked, counted));
            }
            Err(error) => {
                picked.unreachable(&error);
                tried.push(picked.address());
                last = Some(error);
            }
        }
    }
    Err(last.unwrap_or_else(|| Error::NoEndpoint { cluster: cluster.name().clone() }))
}
