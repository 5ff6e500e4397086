//! A connection whose bytes are passed on as they are, from its first to its end.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Buf;

use super::{Accepted, Carried};
use crate::Error;
use crate::breaker::Place;
use crate::cluster::{ClusterState, Picked};
use crate::drain::Drain;
use crate::io::{Downstream, Replay, Upstream};
use crate::live::LiveConnection;
use crate::tcp_proxy::{self, RelayError};
use crate::telemetry::{ConnectionTelemetry, DownstreamProtocol};
use crate::upstream::{self, UpstreamConnection};

/// A TCP connection to an endpoint, and the guards that end with it.
pub(super) type Dialled = (Replay<Upstream>, Picked, UpstreamConnection);

/// Both sides of it, and the guards that end with it.
pub(super) struct Relay {
    pub(super) downstream: Replay<Downstream>,
    pub(super) upstream: Replay<Upstream>,
    /// The server spoke first, to who may be a sidecar.
    pub(super) wary: bool,
    pub(super) idle: Duration,
    pub(super) drain: Drain,
    pub(super) telemetry: ConnectionTelemetry,
    pub(super) counted: UpstreamConnection,
    pub(super) _picked: Picked,
    pub(super) _live: Option<Rc<LiveConnection>>,
}

impl Relay {
    /// Relays until it ends, and records how.
    pub(super) async fn run(self) {
        let Self { downstream, upstream, wary, idle, drain, mut telemetry, counted, _picked, _live } = self;
        let over = async {
            tokio::select! {
                () = drain.over() => {}
                () = counted.over() => {}
            }
        };
        match tcp_proxy::relay(downstream, upstream, wary, idle, &telemetry, over).await {
            Ok(()) => {}
            Err(RelayError::Over) => telemetry.failed(&Error::Retired),
            Err(RelayError::LateHello) => telemetry.failed(&Error::DownstreamProtocol(
                "a sidecar, whose hello came behind the server's first word".into(),
            )),
            Err(RelayError::Idle(bound)) => telemetry.failed(&Error::IdleTimeout(bound)),
            Err(RelayError::Downstream(_)) => telemetry.failed(&Error::DownstreamClosed),
            Err(RelayError::Upstream(error)) => telemetry.failed(&Error::ResponseTruncated(error.to_string())),
        }
    }
}

impl Accepted {
    /// Where bytes go.
    pub(super) fn tcp_cluster(&self) -> Result<&Rc<ClusterState>, Error> {
        let id = self.chain.chain().tcp;
        let id = id.ok_or_else(|| Error::DownstreamProtocol("not HTTP, and nothing else is served here".into()))?;
        Ok(self.chain.view().cluster(id))
    }

    pub(super) async fn dial_tcp(&self, place: Option<Place>) -> Result<Dialled, Error> {
        let cluster = self.tcp_cluster()?;
        let caller = self.chain.caller(self.info.client);
        let (io, picked, counted) = tokio::select! {
            dialled = upstream::connect_tcp(&self.worker, cluster, self.orig_dst, caller, place) => dialled?,
            () = self.drain().over() => return Err(Error::Retired),
        };
        Ok((Replay::new(io), picked, counted))
    }

    pub(super) async fn tcp(mut self, io: Replay<Downstream>) -> Option<Carried> {
        if self.chain.chain().tcp.is_some() {
            self.telemetry.protocol(DownstreamProtocol::Tcp);
        }
        let dialled = match self.tcp_cluster().and_then(|cluster| upstream::tcp_place(cluster)) {
            Ok(place) => self.dial_tcp(place).await,
            Err(error) => Err(error),
        };
        match dialled {
            Ok(dialled) => self.relay(io, dialled, 0),
            Err(error) => self.fail(&io.prefix, io.stream.tcp(), &error),
        }
    }

    /// It is the cluster's connection to `endpoint`, which has been `shown` so many of its bytes.
    pub(super) fn reaches(&mut self, endpoint: SocketAddr, shown: usize) {
        if let Some(id) = self.chain.chain().tcp {
            self.telemetry.tcp(self.chain.view().cluster(id).traffic(self.info.direction));
        }
        self.telemetry.endpoint(endpoint);
        self.telemetry.received(shown);
    }

    /// Relays what comes, after the bytes that the upstream has been `shown` already.
    pub(super) fn relay(
        mut self,
        mut downstream: Replay<Downstream>,
        dialled: Dialled,
        shown: usize,
    ) -> Option<Carried> {
        let (upstream, picked, counted) = dialled;
        self.telemetry.protocol(DownstreamProtocol::Tcp);
        self.reaches(picked.address(), shown);
        let wary =
            downstream.prefix.is_empty() && self.terminates() && matches!(downstream.stream, Downstream::Plain(_));
        downstream.prefix.advance(shown);
        let (idle, drain) = (self.idle(), self.drain());
        // A connection may live for days; its snapshot need not.
        let Self { telemetry, live, .. } = self;
        Some(Carried::Bytes(Relay {
            downstream,
            upstream,
            wary,
            idle,
            drain,
            telemetry,
            counted,
            _picked: picked,
            _live: live,
        }))
    }
}
