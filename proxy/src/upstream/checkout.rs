//! How a request comes to a connection: one from the pool, or one that is dialled, within the bounds of its cluster and of the open files.

use std::pin::Pin;
use std::rc::Rc;

use tokio::sync::oneshot;
use tokio::task::spawn_local;

use super::connect::{self, open};
use super::{Caller, Failure};
use crate::Error;
use crate::breaker::{Limit, Place};
use crate::cluster::{ClusterState, EndpointState, Picked};
use crate::pool::{Checkout, Connection, Fresh, Hop, Host, Ticket};
use crate::worker::{File, Need, Share, Worker};

/// A connection for a request.
pub(super) struct Checked {
    pub(super) host: Rc<Host>,
    pub(super) connection: Connection,
    pub(super) generation: u64,
    pub(super) hop: Hop,
    /// The request's within the cluster's bounds.
    pub(super) place: Option<Place>,
}

/// A connection for a request; a `fresh` one where it must not be one that its server has closed meanwhile.
pub(super) async fn checkout(
    worker: &Rc<Worker>,
    cluster: &Rc<ClusterState>,
    picked: &Picked,
    (hop, caller, need): (Hop, Caller, Need),
    fresh: bool,
) -> Result<Checked, Failure> {
    let (mut pending, mut full) = (None, false);
    let (mut share, mut file): (Option<Share>, Option<File>) = (None, None);
    let address = picked.address();
    loop {
        // Plaintext has nothing to do with the SVID in use.
        let plaintext = matches!(hop, Hop::Http1 | Hop::Http2);
        let generation = if plaintext { 0 } else { worker.generation() };
        let host = cluster.pool.host((address, hop, caller.kept), generation);
        if share.is_none() && file.is_none() && host.is_unshared(hop) {
            share = worker.files.share(need);
            if share.is_none() {
                wait(cluster, &mut pending)?;
                share = Some(Box::pin(connect::share(worker, cluster, need)).await?);
            }
        }
        let connection = match host.checkout(hop, pending.is_some(), fresh) {
            Checkout::Ready(connection) => {
                cluster.metrics.reused();
                if let Connection::Http1(sender) = &connection {
                    sender.serve(share.or_else(|| file.map(|file| file.take_share())).unwrap_or_default());
                }
                connection
            }
            Checkout::Wait(dialling) => {
                wait(cluster, &mut pending)?;
                (share, file) = (None, None);
                dialling.wait().await?;
                continue;
            }
            Checkout::Full(bounds) => {
                wait(cluster, &mut pending)?;
                if !std::mem::replace(&mut full, true) {
                    cluster.metrics.overflowed(Limit::Connections);
                }
                (share, file) = (None, None);
                bounds.freed().await?;
                continue;
            }
            Checkout::Dial(ticket, place) => {
                wait(cluster, &mut pending)?;
                let Some(file) = file.take().or_else(|| worker.files.take(need, &mut share)) else {
                    // Others, whose need may be greater, do not wait behind it.
                    drop((ticket, place));
                    file = Some(Box::pin(connect::file(worker, cluster, need, share.take())).await?);
                    continue;
                };
                let (worker, cluster, host) = (worker.clone(), cluster.clone(), host.clone());
                // Rare, and large: every connection that waits for its next request would keep room for it.
                let open = Box::pin(async move { open(&worker, &cluster, address, hop, caller, (place, file)).await });
                dial(host, generation, ticket, picked.endpoint(), open).await?
            }
        };
        let place = match cluster.enter(host.bounds.as_ref(), Limit::Requests) {
            Ok(place) => place,
            Err(error) => {
                host.put_back(connection, generation);
                return Err(error.into());
            }
        };
        host.pass_on();
        return Ok(Checked { host, connection, generation, hop, place });
    }
}

/// Dials. Who has the ticket, or of those without one who is first, does so in a task of its own, for however short a time it waits
/// itself: others get the connection, and that an endpoint cannot be reached becomes known.
async fn dial(
    host: Rc<Host>,
    generation: u64,
    ticket: Option<Ticket>,
    endpoint: Option<Rc<EndpointState>>,
    open: Pin<Box<impl Future<Output = Result<Fresh, Error>> + 'static>>,
) -> Result<Connection, Error> {
    let proof = if ticket.is_none() { host.prove() } else { None };
    let outlives = ticket.is_some() || proof.is_some();
    let pool = host.clone();
    let dialled = async move {
        let dialled = open.await.map(|fresh| host.add(fresh, generation));
        if let Err(error) = &dialled {
            if let Some(endpoint) = endpoint {
                endpoint.unreachable(error);
            }
            host.failed(ticket, error);
        }
        drop(proof);
        dialled
    };
    if !outlives {
        return dialled.await;
    }
    let (tell, told) = oneshot::channel();
    spawn_local(async move {
        if let Err(Ok(connection)) = tell.send(dialled.await) {
            pool.put_back(connection, generation);
        }
    });
    told.await.expect("the dial's task ends with a word")
}

/// Counts a request among those that wait for a connection, from its first wait.
fn wait(cluster: &ClusterState, pending: &mut Option<Option<Place>>) -> Result<(), Error> {
    if pending.is_none() {
        *pending = Some(cluster.enter(cluster.pool.bounds.as_ref(), Limit::Pending)?);
    }
    Ok(())
}
