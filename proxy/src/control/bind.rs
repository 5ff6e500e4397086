//! Binding every listening address before anything else is started, so that a second process is told at once.

use std::net::{SocketAddr, TcpListener};

use remora_model::{OriginalDst, Snapshot};

use super::Failure;
use crate::socket;
use crate::worker::ListenerId;

/// Every listening socket of the process.
#[derive(Debug)]
pub(super) struct Bound {
    /// For each worker its own sockets on the same addresses.
    pub(super) workers: Vec<Vec<(ListenerId, TcpListener)>>,
    /// What interception listens on: never dialled on behalf of a connection.
    pub(super) own: Vec<SocketAddr>,
}

/// The sockets of the proxy's own interfaces.
#[derive(Debug)]
pub(super) struct AdminListeners {
    pub(super) admin: TcpListener,
    pub(super) metrics: TcpListener,
    pub(super) readiness: TcpListener,
}

impl Bound {
    /// Binds the admin interfaces alone on their ports, then every worker's sockets.
    ///
    /// # Errors
    /// A port is in use, or no address of a listener exists here.
    pub(super) fn bind(snapshot: &Snapshot) -> Result<(Self, AdminListeners), Failure> {
        let admin = alone(snapshot.admin.address, "admin")?;
        let metrics = alone(snapshot.admin.metrics, "metrics")?;
        let readiness = alone(snapshot.admin.readiness, "readiness")?;
        let mut own: Vec<_> = [&admin, &metrics, &readiness].iter().filter_map(|at| at.local_addr().ok()).collect();
        let mut workers: Vec<Vec<_>> = (0..worker_count(snapshot)).map(|_| Vec::new()).collect();
        for (index, listener) in snapshot.listeners.iter().enumerate() {
            let transparent = listener.original_dst == OriginalDst::Tproxy;
            let mut bound = Vec::new();
            let mut missing = None;
            for &address in &listener.addresses {
                match shared(address, transparent, workers.len()) {
                    Ok(sockets) => {
                        bound.push(sockets[0].local_addr()?);
                        for (worker, socket) in workers.iter_mut().zip(sockets) {
                            worker.push((ListenerId(index), socket));
                        }
                    }
                    // One family may be absent from the namespace; the other serves.
                    Err(source) if socket::unavailable(&source) => missing = Some((address, source)),
                    Err(source) => return Err(Failure::bind(address, &listener.name, source)),
                }
            }
            match missing {
                Some((address, source)) if bound.is_empty() => {
                    return Err(Failure::bind(address, &listener.name, source));
                }
                Some((address, source)) => {
                    tracing::info!(%address, listener = %listener.name, "not listening: {source}")
                }
                None => {}
            }
            tracing::info!(listener = %listener.name, addresses = ?bound, "listening");
            if listener.original_dst != OriginalDst::None {
                own.extend(bound);
            }
        }
        Ok((Self { workers, own }, AdminListeners { admin, metrics, readiness }))
    }
}

fn alone(address: SocketAddr, purpose: &str) -> Result<TcpListener, Failure> {
    socket::listen(address, false, false, socket::BACKLOG).map_err(|source| Failure::bind(address, purpose, source))
}

/// One socket for each worker on one address, after making sure that no other process has it.
fn shared(address: SocketAddr, transparent: bool, count: usize) -> std::io::Result<Vec<TcpListener>> {
    socket::probe(address)?;
    let first = socket::listen(address, true, transparent, socket::BACKLOG)?;
    // Port 0: the others share the port that the first was given.
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(socket::listen(address, true, transparent, socket::BACKLOG)?);
    }
    Ok(sockets)
}

/// The CPUs this process may use (affinity and cgroup quota), at most 2 for a sidecar.
fn worker_count(snapshot: &Snapshot) -> usize {
    let quota = || std::thread::available_parallelism().map_or(1, usize::from);
    match snapshot.workers {
        Some(count) => count as usize,
        None if snapshot.listeners.iter().all(|listener| listener.original_dst == OriginalDst::None) => quota(),
        None => quota().min(2),
    }
}
