//! The worker threads as the control thread holds them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::Failure;
use super::bind::Bound;
use crate::admin::{ClusterStatus, EndpointStatus};
use crate::drain::Farewell;
use crate::memory::Pressure;
use crate::original_dst::OwnAddresses;
use crate::readiness::Readiness;
use crate::telemetry::{ConnectionStatus, Registry, Sinks};
use crate::worker::{self, CONNECTIONS_A_PIPE, Command, Input, Spread, Start};

/// Open files kept for everything but connections.
const RESERVED: usize = 16;
/// Open files a worker has besides.
const A_WORKERS: usize = 4;
/// Connections a worker may have, however few files there are.
const LEAST: usize = 4;
/// How long a worker may take to answer.
const ANSWER: Duration = Duration::from_secs(1);

/// Every worker: how to ask it, and its thread.
#[derive(Debug)]
pub(super) struct Workers {
    commands: Vec<mpsc::UnboundedSender<Command>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Connections a worker may have: each takes two files and its part of a pipe, and some are kept for the admin interface, for names and for certificates.
fn most_connections(workers: usize) -> usize {
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let limit = limit.map_or(usize::MAX, |(limit, _)| usize::try_from(limit).unwrap_or(usize::MAX));
    // A worker makes a few files of its own when it starts.
    let taken = open + RESERVED + workers * A_WORKERS;
    let files = limit.saturating_sub(taken) / workers.max(1);
    ((files - files / (CONNECTIONS_A_PIPE + 1)) / 2).max(LEAST)
}

impl Workers {
    /// Starts a thread for each worker's sockets.
    ///
    /// # Errors
    /// A thread or runtime could not be made, or the interfaces could not be listed.
    pub(super) fn spawn(
        bound: &mut Bound,
        input: &watch::Receiver<Input>,
        (farewell, pressure): (&Farewell, &watch::Receiver<Pressure>),
        (registry, sinks): (&Arc<Registry>, &Sinks),
        readiness: &Readiness,
    ) -> Result<Self, Failure> {
        let own = OwnAddresses::from_interfaces(&bound.own)?;
        let most = most_connections(bound.workers.len());
        let mut commands = Vec::new();
        let mut threads = Vec::new();
        let listeners = input.borrow().snapshot.listeners.len();
        let spread = Spread::among(bound.workers.len(), listeners, most);
        let sockets = std::mem::take(&mut bound.workers);
        for (index, (listeners, (spread, inbox))) in sockets.into_iter().zip(spread).enumerate() {
            let (sender, receiver) = mpsc::unbounded_channel();
            let start = Start {
                index,
                listeners,
                own: own.clone(),
                spread,
                inbox,
                input: input.clone(),
                phase: farewell.subscribe(),
                pressure: pressure.clone(),
                commands: receiver,
                registry: registry.clone(),
                sinks: sinks.clone(),
                ready: readiness.register(format!("worker {index}")),
            };
            threads.push(worker::spawn(start)?);
            commands.push(sender);
        }
        Ok(Self { commands, threads: threads.into() })
    }

    pub(super) fn len(&self) -> usize {
        self.commands.len()
    }

    /// The workers that do not answer in time.
    pub(super) async fn silent(&self) -> Vec<String> {
        let mut silent = Vec::new();
        for (index, answer) in self.ask(Command::Ping).into_iter().enumerate() {
            if !matches!(timeout(ANSWER, answer).await, Ok(Ok(()))) {
                silent.push(format!("worker {index} does not answer"));
            }
        }
        silent
    }

    /// Every cluster's endpoints, active requests summed over the workers.
    pub(super) async fn clusters(&self) -> Vec<ClusterStatus> {
        let mut clusters: BTreeMap<String, Vec<EndpointStatus>> = BTreeMap::new();
        for answer in self.ask(Command::Clusters) {
            let Ok(Ok(status)) = timeout(ANSWER, answer).await else { continue };
            for ClusterStatus { name, endpoints } in status {
                let known = clusters.entry(name).or_default();
                for endpoint in endpoints {
                    match known.iter_mut().find(|known| known.address == endpoint.address) {
                        Some(known) => {
                            known.active += endpoint.active;
                            known.healthy &= endpoint.healthy;
                        }
                        None => known.push(endpoint),
                    }
                }
            }
        }
        clusters.into_iter().map(|(name, endpoints)| ClusterStatus { name, endpoints }).collect()
    }

    /// Every open downstream connection, the oldest first.
    pub(super) async fn connections(&self) -> Vec<ConnectionStatus> {
        let mut connections = Vec::new();
        for answer in self.ask(Command::Connections) {
            if let Ok(Ok(more)) = timeout(ANSWER, answer).await {
                connections.extend(more);
            }
        }
        connections.sort_by(|one, other| other.age_seconds.total_cmp(&one.age_seconds));
        connections
    }

    fn ask<T>(&self, command: impl Fn(oneshot::Sender<T>) -> Command) -> Vec<oneshot::Receiver<T>> {
        let ask = |worker: &mpsc::UnboundedSender<Command>| {
            let (reply, answer) = oneshot::channel();
            // A worker that is gone drops the sender, which the receiver tells.
            let _ = worker.send(command(reply));
            answer
        };
        self.commands.iter().map(ask).collect()
    }

    /// Completes when every thread has ended.
    pub(super) async fn ended(&self) {
        for worker in &self.commands {
            worker.closed().await;
        }
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}
