//! Informational responses (RFC 9110 section 15.2) on their way to the client, ahead of the answer.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use super::fields;
use super::head::ResponseHead;

/// How many one request may be answered with.
const MOST: u32 = 2_000;

/// Where an exchange leaves the informational responses of its upstream. Whoever drives the exchange passes them on
/// after each turn, in order and before the answer.
#[derive(Debug, Default)]
pub(crate) struct Informational {
    heads: RefCell<VecDeque<ResponseHead>>,
    count: Cell<u32>,
}

impl Informational {
    /// One more is to be passed on; `false`: that is too many.
    pub(crate) fn push(&self, mut head: ResponseHead) -> bool {
        fields::strip_hop_by_hop(&mut head.headers);
        fields::strip_hop(&mut head.headers);
        self.count.set(self.count.get() + 1);
        self.heads.borrow_mut().push_back(head);
        self.count.get() <= MOST
    }

    /// The next that was not passed on yet.
    pub(crate) fn pop(&self) -> Option<ResponseHead> {
        self.heads.borrow_mut().pop_front()
    }
}
