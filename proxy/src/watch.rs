//! Whether a peer from which nothing is read is still there: no event tells.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// How often that is asked.
pub(crate) const WATCH: Duration = Duration::from_secs(1);

/// The watch over one peer. Costs nothing until it is asked first.
#[derive(Debug, Default)]
pub(crate) struct Watch(Option<Pin<Box<Sleep>>>);

impl Watch {
    /// Completes when the peer is `gone`.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, mut gone: impl FnMut() -> bool) -> Poll<()> {
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep(WATCH)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if gone() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(Instant::now() + WATCH);
        }
    }
}
