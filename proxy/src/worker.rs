//! One worker: a thread with a current-thread runtime, its own listeners, pools, balancers and metric shard.
//!
//! It is handed whole inputs (snapshot, resolved addresses, identity) through a `watch` and resolves them once, into a
//! [`View`]; on the request path it only reads its own view.

mod files;
mod room;
mod spread;
mod view;

use std::cell::{Cell, RefCell};
use std::net::TcpListener;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use remora_model::{Direction, SpiffeId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::Instant;

use crate::address::OrigDst;
use crate::admin::{ClusterStatus, EndpointStatus};
use crate::cluster::ClusterState;
use crate::crowd::Crowd;
use crate::drain::{Connections, Drain, Phase};
use crate::live::{Drained, Live, LiveConnection};
use crate::memory::Pressure;
use crate::original_dst::OwnAddresses;
use crate::readiness::ReadyGuard;
use crate::signal::Signal;
use crate::telemetry::{ConnectionStatus, DrainReason, Registry, Sinks, TlsSide, WorkerTelemetry};
use crate::tls::{Connector, Offer, TlsInfo};
use crate::{allocator, filter_chain, listener, tcp_proxy};

pub(crate) use files::{File, Files, Need, Share};
pub(crate) use room::Room;
pub(crate) use spread::{Handed, Inbox, Place, Spread};
pub(crate) use view::{ChainView, Input, ListenerId, View};

/// How often log records are handed over.
const FLUSH: Duration = Duration::from_millis(100);
/// How many flushes lie between two sweeps of the pools; spans are handed over as often.
const FLUSHES_A_SWEEP: u32 = 10;

/// The idle timeout of pooled connections while memory is short, and of clusters that were replaced.
const SOON: Duration = Duration::from_secs(1);

/// For so many connections that may be open there may be a pipe to move bulk through, itself two files.
pub(crate) const CONNECTIONS_A_PIPE: usize = 16;

/// Log lines that peers may cause between two flushes.
const LINES_A_TICK: u32 = 5;

/// What the control thread asks a worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// Whether it still turns.
    Ping(oneshot::Sender<()>),
    /// Its endpoints, for the admin page.
    Clusters(oneshot::Sender<Vec<ClusterStatus>>),
    /// Its downstream connections, for the admin page.
    Connections(oneshot::Sender<Vec<ConnectionStatus>>),
}

/// What a worker thread starts with.
pub(crate) struct Start {
    pub(crate) index: usize,
    pub(crate) listeners: Vec<(ListenerId, TcpListener)>,
    pub(crate) own: OwnAddresses,
    pub(crate) spread: Spread,
    /// Connections that other workers hand over.
    pub(crate) inbox: Inbox,
    pub(crate) input: watch::Receiver<Input>,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) pressure: watch::Receiver<Pressure>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) sinks: Sinks,
    pub(crate) ready: ReadyGuard,
}

/// A worker's state. Lives in one thread.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) telemetry: Rc<WorkerTelemetry>,
    pub(crate) connections: Rc<Connections>,
    live: Rc<Live>,
    pub(crate) own: OwnAddresses,
    /// Of the connections that are dialled.
    pub(crate) files: Rc<Files>,
    pub(crate) spread: Spread,
    pub(crate) room: Rc<Room>,
    /// Of the streams to endpoints.
    pub(crate) crowd: Rc<Crowd>,
    /// Of the streams that clients send on.
    pub(crate) uploads: Rc<Crowd>,
    view: RefCell<Rc<View>>,
    /// Clusters of older views that requests may still use.
    replaced: RefCell<Vec<Weak<ClusterState>>>,
    /// As connections hear of it.
    phase: Rc<Signal<Phase>>,
    random: Cell<u64>,
    lines: Cell<u32>,
    /// Which of the reserved source addresses the inbound leg dials from.
    pub(crate) leg_source: Cell<u8>,
}

impl Worker {
    fn new(start: &Start) -> Rc<Self> {
        let telemetry = WorkerTelemetry::new(&start.registry, start.sinks.clone());
        let input = start.input.borrow().clone();
        telemetry.apply(&input.snapshot.telemetry);
        let view = View::new(input, None, &telemetry);
        let files = Files::new(start.spread.most);
        let narrowed = telemetry.shard().narrowed();
        Rc::new(Self {
            connections: Rc::default(),
            live: Rc::default(),
            own: start.own.clone(),
            room: Room::new(start.spread.clone(), files.clone()),
            crowd: Rc::new(Crowd::new(narrowed.endpoints)),
            uploads: Rc::new(Crowd::new(narrowed.clients)),
            files,
            spread: start.spread.clone(),
            view: RefCell::new(Rc::new(view)),
            replaced: RefCell::default(),
            phase: Rc::default(),
            random: Cell::new(seed(start.index)),
            lines: Cell::new(0),
            leg_source: Cell::new(0),
            telemetry,
        })
    }

    fn apply(&self, input: Input) {
        self.telemetry.apply(&input.snapshot.telemetry);
        let view = Rc::new(View::new(input, Some(&self.view.borrow()), &self.telemetry));
        let old = self.view.replace(view.clone());
        // Connections that outlive their snapshot keep its clusters; those that were replaced wait for no more work.
        let replaced = |cluster: &&Rc<ClusterState>| !view.clusters.iter().any(|new| Rc::ptr_eq(new, cluster));
        for cluster in old.clusters.iter().filter(replaced) {
            cluster.pool.retain(|_| false);
            self.replaced.borrow_mut().push(Rc::downgrade(cluster));
        }
        if view.generation() != old.generation() {
            self.told(self.live.judge(view.grace(), |peer| view.verdict(peer)));
        }
    }

    /// A file for a connection to an endpoint, by then: that of connections that wait for work, if need be, the longest idle ones first.
    pub(crate) async fn file(&self, need: Need, share: Option<Share>, by: Instant) -> Option<File> {
        let mut share = match share {
            None => Some(self.files.wait_to_share(need, by).await?),
            share => share,
        };
        loop {
            if let Some(file) = self.files.take(need, &mut share) {
                return Some(file);
            }
            if self.close_longest_idle() != Some(true) {
                self.room.want();
                return self.files.wait(share?, by).await;
            }
        }
    }

    /// Closes connections that came to wait for work while others wait for their files, one for each: shared ones do not ask.
    fn make_room(&self) {
        let mut waiting = self.files.waiting();
        while waiting > 0 && self.close_longest_idle().is_some() {
            waiting -= 1;
        }
    }

    /// Closes the connection that waits for work longest, if there is one. Whether its file is free now.
    fn close_longest_idle(&self) -> Option<bool> {
        let view = self.view();
        let replaced: Vec<_> = self.replaced.borrow().iter().filter_map(Weak::upgrade).collect();
        let hosts = view.clusters.iter().chain(&replaced).filter_map(|cluster| cluster.pool.longest_idle());
        hosts.min_by_key(|(since, _)| *since).map(|(_, host)| host.close_longest_idle())
    }

    pub(crate) fn view(&self) -> Rc<View> {
        self.view.borrow().clone()
    }

    /// The chain that a connection to `orig_dst` takes now.
    pub(crate) fn chain(&self, listener: ListenerId, orig_dst: OrigDst) -> ChainView {
        let view = self.view();
        let at = view.listener(listener);
        let chosen = filter_chain::select(at, orig_dst, &view.input.snapshot, &view.input.resolved);
        let index = at.chains.iter().position(|chain| std::ptr::eq(chain, chosen));
        ChainView { view, listener, index }
    }

    /// The chain of a connection that is under way, in the newest snapshot: the one of the same name. A name that has come
    /// to resolve to something else meanwhile must not turn the connection's next request into plaintext elsewhere.
    pub(crate) fn chain_again(&self, old: &ChainView, orig_dst: OrigDst) -> ChainView {
        let view = self.view();
        let mut chains = view.listener(old.listener).chains.iter();
        match old.index.and_then(|_| chains.position(|chain| chain.name == old.chain().name)) {
            Some(index) => ChainView { view, listener: old.listener, index: Some(index) },
            None => self.chain(old.listener, orig_dst),
        }
    }

    pub(crate) fn is_current(&self, chain: &ChainView) -> bool {
        Rc::ptr_eq(&chain.view, &self.view.borrow())
    }

    /// The generation of the SVID in use; 0 without one.
    pub(crate) fn generation(&self) -> u64 {
        self.view.borrow().generation()
    }

    /// The TLS configuration towards `expected`; `None` without an identity.
    pub(crate) fn connector(&self, expected: &[SpiffeId], offer: Offer) -> Option<Connector> {
        self.view.borrow().tls().map(|tls| tls.connector(expected, offer))
    }

    /// The end as connections of `direction` see it: outbound ones serve the application until it leaves.
    pub(crate) fn drain(&self, direction: Direction) -> Drain {
        match direction {
            Direction::Outbound => Drain::only_over(self.phase.clone()),
            Direction::Inbound | Direction::Gateway => Drain::new(self.phase.clone()),
        }
    }

    /// A handshake of the mesh succeeded: from now on the connection is judged again whenever trust changes.
    pub(crate) fn shook_hands(&self, side: TlsSide, tls: &TlsInfo) -> Rc<LiveConnection> {
        self.telemetry.tls().handshake(side, tls.resumed);
        tracing::debug!(
            side = side.as_str(),
            peer = %tls.peer.spiffe_id,
            peer_serial = tls.peer.serial,
            serial = self.view.borrow().input.identity.as_ref().map(|identity| identity.svid().serial()),
            resumed = tls.resumed,
            "mTLS handshake"
        );
        let anchor = self.telemetry.shard().anchor(tls.peer.anchor);
        anchor.seen(SystemTime::now());
        let view = self.view();
        let connection = self.live.enter(tls.peer.clone(), anchor, view.max_age(), self.random());
        if tls.generation != view.generation() {
            // Trust changed during the handshake.
            self.told(self.live.judge(view.grace(), |peer| view.verdict(peer)));
        }
        connection
    }

    /// Counts and logs connections that began to drain.
    fn told(&self, drained: Drained) {
        for (reason, count) in DrainReason::ALL.into_iter().zip(drained).filter(|(_, count)| *count > 0) {
            self.telemetry.shard().connections_drained(reason, count);
            tracing::info!(reason = reason.as_str(), connections = count, "mesh connections drain, to be replaced");
        }
    }

    /// Whether one more line may be logged about what peers do: at most [`LINES_A_TICK`] each 100 ms.
    pub(crate) fn may_log(&self) -> bool {
        let lines = self.lines.get();
        self.lines.set(lines.saturating_add(1));
        lines < LINES_A_TICK
    }

    /// A number for balancing, not for secrets (xorshift64*).
    pub(crate) fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Completes when the application is gone, and no connection is open.
    async fn left(&self) {
        self.phase.reaches(Phase::Gone).await;
        self.connections.none().await;
    }

    /// Accepts what comes to each of them.
    fn listen(self: &Rc<Self>, listeners: Vec<(ListenerId, TcpListener)>) -> std::io::Result<()> {
        for (id, socket) in listeners {
            let socket = tokio::net::TcpListener::from_std(socket)?;
            spawn_local(listener::accept(self.clone(), id, socket));
        }
        Ok(())
    }

    fn answer(&self, command: Command) {
        match command {
            Command::Ping(reply) => drop(reply.send(())),
            Command::Clusters(reply) => drop(reply.send(self.cluster_status())),
            Command::Connections(reply) => drop(reply.send(self.telemetry.open_connections())),
        }
    }

    /// Does what is done from time to time, and that of every so many times where that is `due`.
    fn tick(&self, due: bool) {
        self.lines.set(0);
        self.room.spare_again();
        self.make_room();
        if due {
            self.telemetry.flush();
            self.sweep();
        } else {
            self.telemetry.flush_lines();
        }
    }

    /// From now on memory is so short.
    fn press(&self, pressure: Pressure) {
        self.room.press(pressure);
        for crowd in [&self.crowd, &self.uploads] {
            crowd.press(pressure > Pressure::None);
        }
    }

    fn sweep(&self) {
        for crowd in [&self.crowd, &self.uploads] {
            crowd.ease();
        }
        let view = self.view();
        let generation = view.generation();
        self.told(self.live.sweep(view.grace()));
        let short = self.room.pressure() > Pressure::None;
        for cluster in &view.clusters {
            cluster.pool.sweep(if short { SOON } else { cluster.config.idle_timeout }, generation);
        }
        // A request that was waiting when its cluster was replaced fills the old pools again.
        self.replaced.borrow_mut().retain(|cluster| {
            let cluster = cluster.upgrade();
            cluster.inspect(|cluster| cluster.pool.sweep(SOON, generation)).is_some()
        });
        allocator::give_back(short);
    }

    fn cluster_status(&self) -> Vec<ClusterStatus> {
        let endpoint = |state: &Rc<crate::cluster::EndpointState>| EndpointStatus {
            address: state.endpoint.address,
            weight: state.endpoint.weight.get(),
            active: state.active().into(),
            healthy: !state.avoided(),
        };
        let status = |cluster: &Rc<ClusterState>| ClusterStatus {
            name: cluster.name().to_string(),
            endpoints: cluster.endpoint_states().iter().map(endpoint).collect(),
        };
        self.view().clusters.iter().map(status).collect()
    }
}

/// A seed that differs between workers and runs; the state of xorshift must not be zero.
fn seed(index: usize) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(index) | 1
}

/// Starts a worker thread; it ends when a drain has begun, the application is gone and no connection is left.
///
/// # Errors
/// The thread or its runtime could not be made.
pub(crate) fn spawn(start: Start) -> std::io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("worker-{}", start.index)).spawn(move || {
        // A task among the others: what is blocked on itself is asked at every wake of any of them.
        let running = async { spawn_local(run(start)).await };
        if let Err(failed) = LocalSet::new().block_on(&runtime, running) {
            std::panic::resume_unwind(failed.into_panic());
        }
    })
}

async fn run(start: Start) {
    let worker = Worker::new(&start);
    tcp_proxy::allow_pipes(start.spread.most / CONNECTIONS_A_PIPE);
    let Start { index, listeners, mut inbox, mut input, mut phase, mut pressure, mut commands, ready, .. } = start;
    if let Err(error) = worker.listen(listeners) {
        // The guard is kept, so readiness names this worker.
        tracing::error!(worker = index, %error, "cannot listen");
        std::mem::forget(ready);
        return;
    }
    drop(ready);
    let mut tick = tokio::time::interval(FLUSH);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ticks = 0;
    phase.mark_changed();
    let mut left = pin!(worker.left());
    loop {
        tokio::select! {
            changed = input.changed() => match changed {
                Ok(()) => {
                    let input = input.borrow_and_update().clone();
                    worker.apply(input);
                }
                Err(_) => break,
            },
            Ok(()) = pressure.changed() => worker.press(*pressure.borrow_and_update()),
            Ok(()) = phase.changed() => worker.phase.advance(*phase.borrow_and_update()),
            Some(command) = commands.recv() => worker.answer(command),
            Some(handed) = inbox.recv() => listener::serve_handed(&worker, handed),
            _ = tick.tick() => {
                ticks += 1;
                worker.tick(ticks % FLUSHES_A_SWEEP == 0);
            }
            () = &mut left => {
                // Nobody hands anything over any more; what was on its way is served.
                inbox.close();
                let Some(handed) = inbox.recv().await else { break };
                listener::serve_handed(&worker, handed);
                left.set(worker.left());
            }
        }
    }
    worker.telemetry.flush();
}

#[cfg(test)]
mod tests;
