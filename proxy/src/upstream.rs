//! The attempt loop: choose an endpoint, get a connection, send, and move on where the request provably had no effect.

use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use remora_model::{Direction, Discovery, Protocol, UpstreamTls};

use crate::Error;
use crate::address::OrigDst;
use crate::breaker::Limit;
use crate::cluster::ClusterState;
use crate::http::body::{Body, RequestBody};
use crate::http::informational::Informational;
use crate::http::{RequestHead, ResponseHead};
use crate::io::{Replay, Upstream};
use crate::live::LiveConnection;
use crate::pool::Hop;
use crate::telemetry::{AttemptTelemetry, RequestTelemetry};
use crate::worker::{Need, Worker};

mod bound;
mod checkout;
mod connect;
mod exchange;

pub(crate) use bound::{Bound, Receiving};
use checkout::{Checked, checkout};
pub(crate) use connect::{UpstreamConnection, connect_tcp, tcp_place};
pub(crate) use exchange::Lease;
use exchange::exchange;

/// How long an upload that goes on beyond its answer may stand still.
pub(crate) const STALLED: Duration = Duration::from_secs(30);
/// Tries of one request or connection at most, the first included.
const MAX_ATTEMPTS: usize = 8;

/// On whose behalf a connection is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    /// The direction of the connection that needs it.
    pub(crate) direction: Direction,
    /// The client's address, where the application sees that and not the proxy's.
    pub(crate) kept: Option<IpAddr>,
}

/// A request on its way to a cluster.
#[derive(Debug)]
pub(crate) struct Request {
    /// On whose behalf it is made.
    pub(crate) caller: Caller,
    /// Where its connection was aimed.
    pub(crate) orig_dst: OrigDst,
    /// Its head; boxed, since it moves from hand to hand.
    pub(crate) head: Box<RequestHead>,
    /// Its body.
    pub(crate) body: RequestBody,
    /// Whether others of the same client are under way.
    pub(crate) need: Need,
    /// Our own sidecar sends it, which hears of a refusal and tries again itself: it may know another endpoint.
    pub(crate) relayed: bool,
}

/// A response that has begun.
#[derive(Debug)]
pub(crate) struct Response {
    /// Its head.
    pub(crate) head: ResponseHead,
    /// Its body.
    pub(crate) body: Body,
    /// Ends with the body.
    pub(crate) attempt: AttemptTelemetry,
    /// Goes back to the pool at the end of the body; `None` where the connection leaves HTTP.
    pub(crate) lease: Option<Lease>,
    /// The connection, where it leaves HTTP.
    pub(crate) upgrade: Option<Box<Upgrade>>,
}

/// A connection that leaves HTTP.
#[derive(Debug)]
pub(crate) struct Upgrade {
    /// Its bytes, those behind the 101 first.
    pub(crate) io: Replay<Upstream>,
    /// Of the mesh's connections.
    pub(crate) live: Option<Rc<LiveConnection>>,
    /// It counts as open until this is dropped.
    pub(crate) counted: UpstreamConnection,
    /// And so does its request.
    pub(crate) lease: Option<Lease>,
}

/// A try that failed, and the request if it had no effect or may be made twice.
struct Failure {
    error: Error,
    request: Option<Box<(Box<RequestHead>, RequestBody)>>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, request: None }
    }
}

/// Waits no longer than `bound`. What fails behind it has failed of it: a server that knows the deadline too ends the work at the same
/// time, and an answer must not depend on whose timer is first. The work is borrowed: a future that holds another by value has room
/// for it twice.
async fn within<T>(
    bound: Option<&Bound>,
    cluster: &Arc<str>,
    mut work: Pin<&mut impl Future<Output = Result<T, Failure>>>,
) -> Result<T, Failure> {
    let Some(bound) = bound else { return work.await };
    loop {
        match tokio::time::timeout_at(bound.next(), work.as_mut()).await {
            Ok(result) if result.is_ok() || !bound.is_over() => return result,
            Err(_) if !bound.is_over() => {}
            _ => return Err(Error::RequestTimeout { cluster: cluster.clone(), timeout: bound.timeout }.into()),
        }
    }
}

/// Lets an upload go on beyond its answer, for as long as its `progress` does; whether it came to its end.
pub(crate) async fn while_it_moves<T: PartialEq>(mut upload: Pin<&mut impl Future>, progress: impl Fn() -> T) -> bool {
    let mut last = progress();
    while tokio::time::timeout(STALLED, upload.as_mut()).await.is_err() {
        let before = std::mem::replace(&mut last, progress());
        if last == before {
            return false;
        }
    }
    true
}

/// Sends a request to an endpoint of `cluster`, and to another where that provably had no effect.
///
/// # Errors
/// No endpoint is left to try, or the last try failed.
pub(crate) async fn send(
    worker: &Rc<Worker>,
    cluster: &Rc<ClusterState>,
    request: Request,
    bound: Option<&Bound>,
    informational: &Informational,
    telemetry: &mut RequestTelemetry,
) -> Result<Response, Error> {
    let Request { caller, orig_dst, mut head, mut body, need, relayed } = request;
    let hop = hop(cluster, &head, caller.direction);
    if head.protocol.is_some() && matches!(hop, Hop::Http1 | Hop::MeshHttp1) {
        return Err(Error::DownstreamProtocol(
            "CONNECT with :protocol, to a service that is declared to speak HTTP/1".into(),
        ));
    }
    let mut tries = Tries::default();
    for _ in 0..MAX_ATTEMPTS {
        let Some(picked) = cluster.pick(orig_dst.socket(), &tries.over, || worker.random()) else { break };
        let bounds = cluster.pool.bounds.as_ref().filter(|_| tries.last.is_some());
        let Ok(_retry) = cluster.enter(bounds, Limit::Retries) else { break };
        let address = picked.address();
        let mut attempt = telemetry.attempt(&cluster.metrics, address, &mut head.headers);
        let checking = checkout(worker, cluster, &picked, (hop, caller, need), tries.meets_ends());
        let checked = within(bound, cluster.name(), pin!(body.wait_for(pin!(checking)))).await;
        let checked = match checked {
            Ok(checked) => checked,
            Err(Failure { error, .. }) if error.is_of_no_endpoint() => {
                attempt.failed(&error);
                return Err(error);
            }
            Err(Failure { error, .. }) => {
                attempt.failed(&error);
                picked.unreachable(&error);
                tries.over.push(address);
                tries.last = Some(error);
                continue;
            }
        };
        match exchange(cluster, picked, checked, attempt, bound, informational, (head, body)).await {
            Ok(response) => return Ok(response),
            Err(Failure { error, request: Some(request) }) if !relayed || error.reset().is_none() => {
                (head, body) = *request;
                if !tries.may_go_on(cluster, address, error) {
                    break;
                }
            }
            Err(Failure { error, .. }) => {
                tries.last = Some(error);
                break;
            }
        }
    }
    Err(tries.error(cluster))
}

/// What became of the tries of a request so far.
#[derive(Default)]
struct Tries {
    /// Endpoints that are asked no more.
    over: Vec<SocketAddr>,
    /// Refused, or their sidecar could not deliver: once more, perhaps on a new connection, which may lead to another pod.
    doubted: Vec<SocketAddr>,
    /// What went wrong last.
    last: Option<Error>,
    /// Why there is no answer from one that may have served it: another serves it once more, and what becomes of it there does
    /// not undo that.
    served: Option<Error>,
    /// A connection ended for an error that its server saw on it, which may be what the request brings about.
    blamed: bool,
}

impl Tries {
    /// One failed, and the request is there still; whether it may be sent again. What ends every connection that it comes to takes the
    /// streams of others with it.
    fn may_go_on(&mut self, cluster: &ClusterState, address: SocketAddr, error: Error) -> bool {
        let blames = matches!(error, Error::UpstreamClosed { code: Some(code), .. } if code != h2::Reason::NO_ERROR);
        let again = !(blames && std::mem::replace(&mut self.blamed, true));
        let refused = matches!(error, Error::Undelivered { .. } | Error::UpstreamReset { .. });
        if refused || cluster.config.discovery == Discovery::OriginalDst {
            let list = if self.doubted.contains(&address) { &mut self.over } else { &mut self.doubted };
            list.push(address);
        }
        if !error.retryable() {
            self.served = Some(error.clone());
        }
        self.last = Some(error);
        again
    }

    /// Whether the last one met a connection that its server had closed.
    fn meets_ends(&self) -> bool {
        matches!(self.last, Some(Error::UpstreamClosed { .. }))
    }

    /// What the client is told. Of a request that may have been served nobody is to think that it had no effect.
    fn error(self, cluster: &ClusterState) -> Error {
        let error = self.last.unwrap_or_else(|| Error::NoEndpoint { cluster: cluster.name().clone() });
        self.served.filter(|_| error.retryable()).unwrap_or(error)
    }
}

/// What to speak towards an endpoint, unless the cluster declares it: a sidecar what its client speaks; a gateway, whose
/// clients do not know the services, HTTP/1.1, except for gRPC.
fn hop(cluster: &ClusterState, head: &RequestHead, direction: Direction) -> Hop {
    let http2 = match cluster.config.protocol {
        Protocol::Http => false,
        Protocol::Http2 => true,
        _ if head.upgrade.is_some() => false,
        _ if head.protocol.is_some() => true,
        Protocol::Auto | Protocol::Tcp if direction == Direction::Gateway => head.is_grpc(),
        Protocol::Auto | Protocol::Tcp => head.version == http::Version::HTTP_2,
    };
    match (&cluster.config.tls, http2) {
        (UpstreamTls::Off, false) => Hop::Http1,
        (UpstreamTls::Off, true) => Hop::Http2,
        (UpstreamTls::Mesh { .. }, false) if head.upgrade.is_some() => Hop::MeshUpgrade,
        (UpstreamTls::Mesh { .. }, false) => Hop::MeshHttp1,
        (UpstreamTls::Mesh { .. }, true) => Hop::MeshHttp2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ResponseFlag;

    #[tokio::test(start_paused = true)]
    async fn what_fails_at_the_deadline_fails_of_it() {
        let timeout = Duration::from_millis(1);
        let flag = async |after| {
            let reset = async {
                tokio::time::sleep(after).await;
                let (cluster, endpoint) = ("a".into(), ([127, 0, 0, 1], 1).into());
                Err::<(), _>(Failure::from(Error::UpstreamReset { cluster, endpoint, code: h2::Reason::CANCEL }))
            };
            let bound = Bound::from_now(timeout);
            within(Some(&bound), &"a".into(), pin!(reset)).await.expect_err("a failure").error.response_flag()
        };
        assert_eq!(flag(Duration::ZERO).await, ResponseFlag::UR);
        assert_eq!(flag(timeout).await, ResponseFlag::UT);
        assert_eq!(flag(timeout * 2).await, ResponseFlag::UT);
    }
}
