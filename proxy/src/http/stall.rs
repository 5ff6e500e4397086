//! When what should get on stands still: a timer that is armed by the first wait alone.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Ends a wait in which nothing moved for its timeout, and before it passed twice.
#[derive(Debug)]
pub(crate) struct Stall {
    /// Zero: never.
    timeout: Duration,
    seen: u64,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    /// Nothing is waited for yet; zero: for ever.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout, seen: 0, sleep: None }
    }

    /// How long nothing may move.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Asked while waiting, with how much has moved so far. Completes when that was too little.
    pub(crate) fn poll(&mut self, moved: u64, cx: &mut Context<'_>) -> Poll<()> {
        if self.timeout.is_zero() {
            return Poll::Pending;
        }
        let Self { timeout, seen, sleep } = self;
        let sleep = sleep.get_or_insert_with(|| {
            *seen = moved;
            Box::pin(tokio::time::sleep(*timeout))
        });
        loop {
            ready!(sleep.as_mut().poll(cx));
            if *seen == moved {
                return Poll::Ready(());
            }
            *seen = moved;
            sleep.as_mut().reset(Instant::now() + *timeout);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_moves_is_waited_for_and_what_stands_still_is_not() {
        let minute = Duration::from_secs(60);
        let begun = Instant::now();
        let moved = Cell::new(0);
        let moves = async {
            for _ in 0..10 {
                tokio::time::sleep(minute / 2).await;
                moved.set(moved.get() + 1);
            }
        };
        let mut stall = Stall::new(minute);
        tokio::join!(moves, poll_fn(|cx| stall.poll(moved.get(), cx)));
        assert!((6 * minute..=7 * minute).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        let mut never = Stall::new(Duration::ZERO);
        let wait = poll_fn(|cx| never.poll(0, cx));
        tokio::time::timeout(1_000_000 * minute, wait).await.expect_err("it is waited for");
    }
}
