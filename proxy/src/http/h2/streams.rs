//! What the streams of a client's connection have in common; and what the heads of their requests may take together. By HPACK a few
//! bytes mean a large head again and again, and each is held, as it came and as it goes on, for as long as its answer is waited for.

use std::cell::Cell;
use std::rc::Rc;

use super::watched::Progress;
use super::{MAX_STREAMS, field_limits};
use crate::http::h1::parse::Limits;
use crate::request::HttpConnection;

/// What streams share.
pub(super) struct Streams {
    pub(super) connection: Rc<HttpConnection>,
    /// The bounds of one head.
    pub(super) limits: Limits,
    pub(super) progress: Rc<Progress>,
    heads: Heads,
}

/// A stream that is served, until this is dropped.
pub(super) struct Open {
    streams: Rc<Streams>,
    /// Bytes of its head that count.
    head: Cell<usize>,
}

/// Bytes of the heads of requests that wait for their answers, and the bound of that.
struct Heads {
    bytes: Cell<usize>,
    most: usize,
}

impl Streams {
    pub(super) fn new(connection: Rc<HttpConnection>, progress: Rc<Progress>) -> Rc<Self> {
        let limits = connection.limits();
        let head = field_limits(&limits, connection.is_hop());
        // Of the mesh's connections as much as other sidecars' streams can have at a time: each is bounded already where its client is.
        let of_a_peer = if connection.is_of_a_peer() { MAX_STREAMS as usize * head.head_bytes } else { 0 };
        let most = of_a_peer.max(limits.connection_header_bytes as usize);
        Rc::new(Self { connection, limits: head, progress, heads: Heads { bytes: Cell::new(0), most } })
    }

    /// Serves a stream whose request has so large a head. `None`: that is too much beside the others.
    pub(super) fn open(self: &Rc<Self>, head: usize) -> Option<Open> {
        self.heads.add(head).then(|| Open { streams: self.clone(), head: Cell::new(head) })
    }

    /// Whether none is served.
    pub(super) fn are_over(self: &Rc<Self>) -> bool {
        Rc::strong_count(self) == 1
    }
}

impl Open {
    pub(super) fn connection(&self) -> &Rc<HttpConnection> {
        &self.streams.connection
    }

    /// There is an answer, so nothing holds the head any more.
    pub(super) fn answered(&self) {
        self.streams.heads.remove(self.head.take());
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.answered();
    }
}

impl Heads {
    /// Adds one, unless that is too much. One alone never is: it has a bound of its own.
    fn add(&self, head: usize) -> bool {
        let bytes = self.bytes.get() + head;
        let fits = bytes <= self.most || bytes == head;
        if fits {
            self.bytes.set(bytes);
        }
        fits
    }

    fn remove(&self, head: usize) {
        self.bytes.set(self.bytes.get() - head);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_bounded_together_and_one_alone_is_not() {
        let heads = Heads { bytes: Cell::new(0), most: 100 };
        assert!(heads.add(60) && heads.add(40) && !heads.add(1));
        heads.remove(40);
        assert!(!heads.add(41) && heads.add(40), "what was refused does not count");
        heads.remove(60);
        heads.remove(40);
        assert!(heads.add(1_000) && !heads.add(1));
        heads.remove(1_000);
        assert!(heads.add(1));
    }
}
