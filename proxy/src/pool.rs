//! Upstream HTTP connections that wait for work, in one worker and cluster, keyed by endpoint and by what is offered to it.
//!
//! HTTP/1.1 connections are lent one request at a time, the last one used first. HTTP/2 connections are shared; another is
//! opened when each carries as many streams as it may. Cold, the first request dials and the others wait for the same
//! connection. A connection made with an earlier SVID gets no new requests.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::Error;
use crate::breaker::{Bounds, Place};
use crate::http::h1;

mod dialling;
mod driven;
mod patience;
mod shared;

pub(crate) use dialling::{Dialling, Ticket};
pub(crate) use driven::Driven;
use patience::Patience;
pub(crate) use shared::{Shared, Stream};

/// How long a host's shared connections are kept at least after others were superseded.
const SUPERSEDED: Duration = Duration::from_secs(1);
/// How often a host's connections are looked at, at most, for those that have ended.
const LOOK: Duration = Duration::from_secs(1);

/// What is spoken towards an endpoint. Connections are shared within one kind only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Hop {
    /// HTTP/1.1 in plaintext.
    Http1,
    /// HTTP/2 with prior knowledge, in plaintext.
    Http2,
    /// mTLS, for HTTP/1.1 requests: shared HTTP/2 to our own sidecars, HTTP/1.1 to others.
    MeshHttp1,
    /// mTLS, for HTTP/2 requests.
    MeshHttp2,
    /// mTLS, for an HTTP/1.1 request that asks to leave HTTP.
    MeshUpgrade,
}

/// A connection just made.
#[derive(Debug)]
pub(crate) enum Fresh {
    /// For one request at a time.
    Http1(h1::client::Sender),
    /// Shared.
    Http2(Rc<Shared>),
}

/// A connection for one request.
#[derive(Debug)]
pub(crate) enum Connection {
    /// Lent; goes back by [`Host::give_back`].
    Http1(h1::client::Sender),
    /// One stream of a shared one.
    Http2(Stream),
}

/// An endpoint, what is offered to it, and the client whose address it is to see, if any.
pub(crate) type Key = (SocketAddr, Hop, Option<IpAddr>);

/// Every pool of a cluster.
#[derive(Debug)]
pub(crate) struct Pool {
    /// Asked once a request.
    hosts: RefCell<HashMap<Key, Rc<Host>, foldhash::fast::RandomState>>,
    /// The cluster's, where it has any.
    pub(crate) bounds: Option<Rc<Bounds>>,
}

/// The connections to one endpoint by one hop.
#[derive(Debug)]
pub(crate) struct Host {
    idle: RefCell<Vec<h1::client::Sender>>,
    shared: RefCell<Vec<Rc<Shared>>>,
    dialling: RefCell<Option<Rc<Dialling>>>,
    /// The SVID generation its connections were made with.
    generation: Cell<u64>,
    /// The endpoint chose HTTP/1.1, so requests must not wait for one another's connection.
    exclusive: Cell<bool>,
    /// A dial is under way that outlives its request though no other waits for it.
    proving: Cell<bool>,
    /// When its shared connections were last superseded.
    superseded: Cell<Option<Instant>>,
    /// When its connections were last looked at for those that have ended.
    looked: Cell<Option<Instant>>,
    patience: Patience,
    /// As its requests meet them, where there are any.
    pub(crate) bounds: Option<Rc<Bounds>>,
}

/// How a request comes to a connection.
pub(crate) enum Checkout {
    /// It has one.
    Ready(Connection),
    /// It must dial, and tell the others if the ticket is given; the place is the connection's.
    Dial(Option<Ticket>, Option<Place>),
    /// Somebody is dialling; wait, then ask again.
    Wait(Rc<Dialling>),
    /// There are as many connections as there may be, or others wait for one; wait behind them, then ask again.
    Full(Rc<Bounds>),
}

impl Pool {
    pub(crate) fn new(bounds: Option<Rc<Bounds>>) -> Self {
        Self { hosts: RefCell::default(), bounds }
    }

    /// The pool of an endpoint; made if there is none. A new SVID generation retires what an older one made.
    pub(crate) fn host(&self, key: Key, generation: u64) -> Rc<Host> {
        let mut hosts = self.hosts.borrow_mut();
        let host = hosts
            .entry(key)
            .or_insert_with(|| Rc::new(Host::new(generation, self.bounds.as_deref().map(Bounds::another))));
        if host.generation.get() != generation {
            host.retire();
            host.generation.set(generation);
        }
        host.clone()
    }

    /// Drops the pools of the addresses that `keep` refuses; requests on them finish.
    pub(crate) fn retain(&self, keep: impl Fn(SocketAddr) -> bool) {
        self.hosts.borrow_mut().retain(|(address, ..), host| {
            let keep = keep(*address);
            if !keep {
                host.retire();
            }
            keep
        });
    }

    /// The host of the connection that waits for work longest, and since when.
    pub(crate) fn longest_idle(&self) -> Option<(Instant, Rc<Host>)> {
        let hosts = self.hosts.borrow();
        let idle = hosts.values().filter_map(|host| Some((host.idle_since()?, host)));
        idle.min_by_key(|(since, _)| *since).map(|(since, host)| (since, host.clone()))
    }

    /// Closes what was idle longer than `timeout` (zero: never), retires what an older SVID made, and forgets empty pools.
    pub(crate) fn sweep(&self, timeout: Duration, generation: u64) {
        let now = Instant::now();
        self.hosts.borrow_mut().retain(|(_, hop, _), host| {
            if !matches!(hop, Hop::Http1 | Hop::Http2) && host.generation.get() != generation {
                host.retire();
                host.generation.set(generation);
            }
            host.sweep(now, timeout);
            // What an exchange has on loan comes back to it.
            !host.is_unused() || Rc::strong_count(host) > 1
        });
    }
}

impl Host {
    fn new(generation: u64, bounds: Option<Rc<Bounds>>) -> Self {
        Self {
            idle: RefCell::default(),
            shared: RefCell::default(),
            dialling: RefCell::default(),
            generation: Cell::new(generation),
            exclusive: Cell::new(false),
            proving: Cell::new(false),
            superseded: Cell::new(None),
            looked: Cell::new(None),
            patience: Patience::default(),
            bounds,
        }
    }

    /// Takes a waiting connection or a stream of a shared one, or says how to get one. Who has not `waited` goes behind those who
    /// do. A `fresh` one is none that its server may have closed meanwhile: it comes in the place of the one that waits longest.
    pub(crate) fn checkout(self: &Rc<Self>, hop: Hop, waited: bool, fresh: bool) -> Checkout {
        if let Some(bounds) = self.bounds.as_ref().filter(|bounds| !waited && bounds.is_waited_for()) {
            // A server that lets more streams be opened tells nobody.
            self.pass_on();
            return Checkout::Full(bounds.clone());
        }
        if let Some(shared) = self.shared.borrow().iter().find(|shared| shared.has_room()) {
            return Checkout::Ready(Connection::Http2(Stream::new(shared.clone())));
        }
        if fresh {
            self.close_idle();
        } else if let Some(sender) = self.take_idle() {
            return Checkout::Ready(Connection::Http1(sender));
        }
        let unshared = self.is_unshared(hop);
        let mut dialling = self.dialling.borrow_mut();
        if let Some(dialling) = dialling.as_ref().filter(|_| !unshared) {
            return Checkout::Wait(dialling.clone());
        }
        let place = self.bounds.as_ref().map(|bounds| bounds.connect(self.has_streams()).ok_or_else(|| bounds.clone()));
        let place = match place.transpose() {
            Ok(place) => place,
            Err(bounds) => return Checkout::Full(bounds),
        };
        if unshared {
            return Checkout::Dial(None, place);
        }
        let ticket = Ticket::new(self);
        *dialling = Some(ticket.dialling());
        Checkout::Dial(Some(ticket), place)
    }

    /// Whether each request has a connection of its own.
    pub(crate) fn is_unshared(&self, hop: Hop) -> bool {
        hop == Hop::Http1 || self.exclusive.get()
    }

    /// Whether there are streams for whose end to wait.
    fn has_streams(&self) -> bool {
        self.shared.borrow().iter().any(|shared| !shared.closed.get() && shared.active.get() > 0)
    }

    /// Tells those who wait that a connection could not be made: where there is no other, theirs could not either.
    pub(crate) fn failed(&self, ticket: Option<Ticket>, error: &Error) {
        if let Some(ticket) = ticket {
            ticket.failed(error);
        }
        if let Some(bounds) = self.bounds.as_ref().filter(|bounds| bounds.is_alone(self.has_streams())) {
            bounds.failed(error);
        }
    }

    /// Lets the next of those who wait have what is left.
    pub(crate) fn pass_on(&self) {
        if let Some(bounds) = self.bounds.as_ref().filter(|bounds| bounds.is_waited_for())
            && (!self.idle.borrow().is_empty() || self.shared.borrow().iter().any(|shared| shared.has_room()))
        {
            bounds.tell_one();
        }
    }

    /// Since when the one waits for work that waits longest.
    fn idle_since(&self) -> Option<Instant> {
        let shared = self.longest_idle_shared().map(|shared| shared.last_used.get());
        self.unshared_since().into_iter().chain(shared).min()
    }

    fn longest_idle_shared(&self) -> Option<Rc<Shared>> {
        let shared = self.shared.borrow();
        // The file of a closed one is free already, or soon.
        let idle = shared.iter().filter(|shared| !shared.closed.get() && shared.active.get() == 0);
        idle.min_by_key(|shared| shared.last_used.get()).cloned()
    }

    /// Closes that one. A shared one says so first: `false`.
    pub(crate) fn close_longest_idle(&self) -> bool {
        let unshared = self.unshared_since();
        match self.longest_idle_shared() {
            Some(shared) if unshared.is_none_or(|since| shared.last_used.get() <= since) => {
                self.discard(&shared);
                false
            }
            _ => {
                self.close_idle();
                true
            }
        }
    }

    /// Since when the HTTP/1.1 connection waits for work that waits longest.
    fn unshared_since(&self) -> Option<Instant> {
        self.idle.borrow().first()?.rested()
    }

    fn close_idle(&self) {
        let mut idle = self.idle.borrow_mut();
        let longest = (!idle.is_empty()).then(|| idle.remove(0));
        drop((idle, longest));
    }

    /// The connection used last, unless its server ended it or is about to.
    fn take_idle(&self) -> Option<h1::client::Sender> {
        let mut idle = self.idle.borrow_mut();
        while let Some(sender) = idle.pop() {
            if self.is_fit(&sender) {
                return Some(sender);
            }
        }
        None
    }

    /// Whether an idle connection can take a request.
    fn is_fit(&self, sender: &h1::client::Sender) -> bool {
        let limit = sender.idle_limit().into_iter().chain(self.patience.limit()).min();
        if sender.is_draining() || limit.is_some_and(|limit| is_older(sender, limit)) {
            return false;
        }
        let ended = sender.has_ended();
        if ended {
            self.learn(sender);
        }
        !ended
    }

    /// Its server closed a connection while it was idle, if it ever was.
    pub(crate) fn learn(&self, sender: &h1::client::Sender) {
        if let Some(since) = sender.rested() {
            self.patience.learn(since);
        }
    }

    /// Its server closed a connection, if it was used again, without a word to that request.
    pub(crate) fn learn_haste(&self, sender: &h1::client::Sender) {
        if let Some(since) = sender.rested() {
            self.patience.learn_haste(since);
        }
    }

    /// Takes an HTTP/1.1 connection back after its exchange ended well; it is closed where somebody waits for an open file.
    pub(crate) fn give_back(&self, sender: h1::client::Sender, generation: u64) {
        if self.generation.get() == generation && sender.is_reusable() {
            if sender.rested().is_some() {
                self.patience.answered();
            }
            sender.rest();
            self.idle.borrow_mut().push(sender);
        }
    }

    /// Takes back a connection that was not used after all.
    pub(crate) fn put_back(&self, connection: Connection, generation: u64) {
        match connection {
            Connection::Http1(sender) => self.give_back(sender, generation),
            Connection::Http2(stream) => drop(stream),
        }
        self.pass_on();
    }

    /// Puts a connection just made to use.
    pub(crate) fn add(&self, fresh: Fresh, generation: u64) -> Connection {
        match fresh {
            Fresh::Http1(sender) => {
                self.exclusive.set(true);
                Connection::Http1(sender)
            }
            Fresh::Http2(shared) => {
                self.exclusive.set(false);
                if self.generation.get() == generation {
                    self.shared.borrow_mut().push(shared.clone());
                }
                Connection::Http2(Stream::new(shared))
            }
        }
    }

    /// Forgets a shared connection that takes no more streams.
    pub(crate) fn discard(&self, shared: &Rc<Shared>) {
        shared.closed.set(true);
        self.shared.borrow_mut().retain(|other| !Rc::ptr_eq(other, shared));
    }

    /// Forgets the connections that have ended unnoticed: where one had, others are likely to. Of HTTP/1.1 the kernel is asked, about
    /// each of them, so once a second and no more: a server may end a connection with every request.
    pub(crate) fn discard_ended(&self) {
        if !is_due(&self.looked, LOOK) {
            return;
        }
        self.idle.borrow_mut().retain(|sender| self.is_fit(sender) && !sender.has_input());
        let mut context = Context::from_waker(Waker::noop());
        let mut ended = |shared: &Shared| matches!(shared.sender.clone().poll_ready(&mut context), Poll::Ready(Err(_)));
        self.shared.borrow_mut().retain(|shared| !ended(shared));
    }

    /// Forgets the shared connections, `shared` among them: what is tried again is not to go the same way. Once a second and no
    /// more: while there is no application anywhere, new ones lead nowhere either.
    pub(crate) fn supersede(&self, shared: &Rc<Shared>) {
        let mut all = self.shared.borrow_mut();
        if all.iter().any(|other| Rc::ptr_eq(other, shared)) && is_due(&self.superseded, SUPERSEDED) {
            all.drain(..).for_each(|old| old.closed.set(true));
        }
    }

    fn retire(&self) {
        self.idle.borrow_mut().clear();
        self.exclusive.set(false);
        // The last stream drops the last handle, and the connection says GOAWAY and closes.
        self.shared.borrow_mut().clear();
        if let Some(bounds) = &self.bounds {
            bounds.tell_all();
        }
    }

    fn sweep(&self, now: Instant, timeout: Duration) {
        let fresh = |since: Instant| timeout.is_zero() || now.duration_since(since) < timeout;
        self.idle.borrow_mut().retain(|sender| {
            sender.free_buffer();
            sender.rested().is_some_and(fresh) && self.is_fit(sender)
        });
        // One that takes no streams, as its server says, is none to keep: each request would leave another.
        let serves = |shared: &Shared| fresh(shared.last_used.get()) && shared.has_room();
        self.shared.borrow_mut().retain(|shared| !shared.closed.get() && (shared.active.get() > 0 || serves(shared)));
        self.pass_on();
    }

    fn is_unused(&self) -> bool {
        self.idle.borrow().is_empty() && self.shared.borrow().is_empty() && self.dialling.borrow().is_none()
    }
}

/// Whether something that is done once in a `period` is due, and is done therefore.
fn is_due(last: &Cell<Option<Instant>>, period: Duration) -> bool {
    let due = last.get().is_none_or(|last| last.elapsed() >= period);
    if due {
        last.set(Some(Instant::now()));
    }
    due
}

/// Whether a connection has waited for work so long.
fn is_older(sender: &h1::client::Sender, age: Duration) -> bool {
    sender.rested().is_some_and(|since| since.elapsed() >= age)
}

#[cfg(test)]
mod tests;
