//! Signals as events.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::Error;

const WATCHED: [Signal; 7] = [
    Signal::SIGCHLD,
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A child ended.
    Child,
    /// Another signal.
    Sent(Signal),
}

/// The signals of this process, and of every thread made after them.
#[derive(Debug)]
pub(super) struct Signals(SignalFd);

impl Signals {
    /// Takes them.
    pub(super) fn take() -> Result<Self, Error> {
        let set: SigSet = WATCHED.into_iter().collect();
        // What is blocked is inherited: see `inside::heeding`.
        set.thread_block().map_err(Error::kernel("block signals"))?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC);
        signals.map(Self).map_err(Error::kernel("watch signals"))
    }

    /// Waits for the next.
    pub(super) fn next(&self) -> Result<Event, Error> {
        loop {
            let Some(info) = self.0.read_signal().map_err(Error::kernel("read signals"))? else { continue };
            let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
            match signal {
                Some(Signal::SIGCHLD) => return Ok(Event::Child),
                Some(signal) => return Ok(Event::Sent(signal)),
                None => {}
            }
        }
    }

    /// Waits for them on a thread of its own, which ends with the process: the receiver never sees an end.
    pub(super) fn receive(self) -> UnboundedReceiver<Event> {
        let (sender, receiver) = unbounded_channel();
        std::thread::spawn(move || {
            while let Ok(event) = self.next() {
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        receiver
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Gives them back.
pub(super) fn let_through() -> Result<(), Error> {
    let set: SigSet = WATCHED.into_iter().collect();
    set.thread_unblock().map_err(Error::kernel("let signals through"))
}
