//! A connection whose bytes are passed on as they are, from its first to its end.

use std::rc::Rc;
use std::time::Duration;

use crate::Error;
use crate::cluster::Picked;
use crate::drain::Drain;
use crate::io::{Downstream, Replay, Upstream};
use crate::live::LiveConnection;
use crate::tcp_proxy::{self, RelayError};
use crate::telemetry::ConnectionTelemetry;
use crate::upstream::UpstreamConnection;

/// Both sides of it, and the guards that end with it.
pub(super) struct Relay {
    pub(super) downstream: Replay<Downstream>,
    pub(super) upstream: Replay<Upstream>,
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
        let Self { downstream, upstream, idle, drain, mut telemetry, counted, _picked, _live } = self;
        let over = async {
            tokio::select! {
                () = drain.over() => {}
                () = counted.over() => {}
            }
        };
        match tcp_proxy::relay(downstream, upstream, idle, &telemetry, over).await {
            Ok(()) => {}
            Err(RelayError::Over) => telemetry.failed(&Error::Retired),
            Err(RelayError::Idle(bound)) => telemetry.failed(&Error::IdleTimeout(bound)),
            Err(RelayError::Downstream(_)) => telemetry.failed(&Error::DownstreamClosed),
            Err(RelayError::Upstream(error)) => telemetry.failed(&Error::ResponseTruncated(error.to_string())),
        }
    }
}
