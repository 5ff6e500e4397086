//! Binding every listening address before anything else is started, so that a second process is told at once.

use std::io;
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
    pub(super) metrics: Vec<TcpListener>,
    pub(super) readiness: Vec<TcpListener>,
}

impl Bound {
    /// Binds the admin interfaces alone on their ports, then every worker's sockets.
    ///
    /// # Errors
    /// A port is in use, or no address of a listener exists here.
    pub(super) fn bind(snapshot: &Snapshot) -> Result<(Self, AdminListeners), Failure> {
        let admin =
            alone(snapshot.admin.address).map_err(|source| Failure::bind(snapshot.admin.address, "admin", source))?;
        let metrics = available(&snapshot.admin.metrics, "metrics", alone)?;
        let readiness = available(&snapshot.admin.readiness, "readiness", alone)?;
        let interfaces = [&admin].into_iter().chain(&metrics).chain(&readiness);
        let mut own: Vec<_> = interfaces.filter_map(|at| at.local_addr().ok()).collect();
        let mut workers: Vec<Vec<_>> = (0..worker_count(snapshot)).map(|_| Vec::new()).collect();
        for (index, listener) in snapshot.listeners.iter().enumerate() {
            let transparent = listener.original_dst == OriginalDst::Tproxy;
            let mut bound = Vec::new();
            let count = workers.len();
            for sockets in available(&listener.addresses, &listener.name, |at| shared(at, transparent, count))? {
                bound.push(sockets[0].local_addr()?);
                for (worker, socket) in workers.iter_mut().zip(sockets) {
                    worker.push((ListenerId(index), socket));
                }
            }
            tracing::info!(listener = %listener.name, addresses = ?bound, "listening");
            if listener.original_dst != OriginalDst::None {
                own.extend(bound);
            }
        }
        Ok((Self { workers, own }, AdminListeners { admin, metrics, readiness }))
    }
}

/// Binds the addresses that exist here: one family may be absent from the namespace; the other serves.
fn available<T>(
    addresses: &[SocketAddr],
    purpose: &str,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> Result<Vec<T>, Failure> {
    let mut bound = Vec::new();
    let mut missing = None;
    for &address in addresses {
        match bind(address) {
            Ok(socket) => bound.push(socket),
            Err(source) if socket::unavailable(&source) => missing = Some((address, source)),
            Err(source) => return Err(Failure::bind(address, purpose, source)),
        }
    }
    match missing {
        Some((address, source)) if bound.is_empty() => return Err(Failure::bind(address, purpose, source)),
        Some((address, source)) => tracing::info!(%address, listener = purpose, "not listening: {source}"),
        None => {}
    }
    Ok(bound)
}

fn alone(address: SocketAddr) -> io::Result<TcpListener> {
    socket::listen(address, false, false, socket::BACKLOG)
}

/// One socket for each worker on one address, after making sure that no other process has it.
fn shared(address: SocketAddr, transparent: bool, count: usize) -> io::Result<Vec<TcpListener>> {
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
