//! One dial that the requests to an endpoint wait for together.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::sync::Notify;

use super::Host;
use crate::Error;

/// A dial that several requests wait for.
#[derive(Debug, Default)]
pub(crate) struct Dialling {
    /// The error all of them get, if it failed.
    failed: RefCell<Option<Error>>,
    done: Cell<bool>,
    notify: Notify,
}

/// The duty to tell those who wait how the dial ended. Dropped without a word, they dial themselves.
#[derive(Debug)]
pub(crate) struct Ticket {
    host: Rc<Host>,
    dialling: Rc<Dialling>,
}

impl Dialling {
    /// Waits for the end of the dial.
    ///
    /// # Errors
    /// The dial failed; every waiting request gets the same answer.
    pub(crate) async fn wait(&self) -> Result<(), Error> {
        loop {
            let notified = self.notify.notified();
            if self.done.get() {
                break;
            }
            notified.await;
        }
        self.failed.borrow().clone().map_or(Ok(()), Err)
    }
}

impl Ticket {
    pub(super) fn new(host: &Rc<Host>) -> Self {
        Self { host: host.clone(), dialling: Rc::default() }
    }

    pub(super) fn dialling(&self) -> Rc<Dialling> {
        self.dialling.clone()
    }

    /// Tells those who wait why the dial failed.
    pub(super) fn failed(self, error: &Error) {
        *self.dialling.failed.borrow_mut() = Some(error.clone());
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        *self.host.dialling.borrow_mut() = None;
        self.dialling.done.set(true);
        self.dialling.notify.notify_waiters();
    }
}

/// A dial that is to find out whether the endpoint can be reached; there is one at a time.
#[derive(Debug)]
pub(crate) struct Proof(Rc<Host>);

impl Host {
    /// Has the caller's dial be the one, where there is none.
    pub(crate) fn prove(self: &Rc<Self>) -> Option<Proof> {
        (!self.proving.replace(true)).then(|| Proof(self.clone()))
    }
}

impl Drop for Proof {
    fn drop(&mut self) {
        self.0.proving.set(false);
    }
}
