//! A stage that only goes forward, told within one worker: what connections listen to beside their work.
//!
//! A connection's task listens at every wake, so for each frame that comes. Invariant: to listen in vain compares a cell
//! and a waker; it takes no lock and reads nothing that another thread writes.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

/// How far something has come.
#[derive(Debug, Default)]
pub(crate) struct Signal<S: Copy> {
    stage: Cell<S>,
    listening: RefCell<Slab<Waker>>,
}

impl<S: Copy + Ord> Signal<S> {
    pub(crate) fn stage(&self) -> S {
        self.stage.get()
    }

    /// From now on it is `stage`, or a later one if that was told before.
    pub(crate) fn advance(&self, stage: S) {
        if self.stage.get() < stage {
            self.stage.set(stage);
            // Whoever is woken may stop listening at once.
            let wakers: Vec<Waker> = self.listening.borrow().iter().map(|(_, waker)| waker.clone()).collect();
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// Completes when `stage` has come; at once if it has.
    pub(crate) fn reaches(self: &Rc<Self>, stage: S) -> Reaches<S> {
        Reaches { signal: self.clone(), stage, key: None }
    }
}

/// Made by [`Signal::reaches`].
#[derive(Debug)]
pub(crate) struct Reaches<S: Copy> {
    signal: Rc<Signal<S>>,
    stage: S,
    /// Of its waker.
    key: Option<usize>,
}

impl<S: Copy + Ord + Unpin> Future for Reaches<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { signal, stage, key } = &mut *self;
        if signal.stage() >= *stage {
            return Poll::Ready(());
        }
        let mut listening = signal.listening.borrow_mut();
        match *key {
            Some(key) => listening[key].clone_from(cx.waker()),
            None => *key = Some(listening.insert(cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl<S: Copy> Drop for Reaches<S> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.signal.listening.borrow_mut().remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn what_was_told_before_is_heard_and_stages_do_not_go_back() {
        let signal = Rc::new(Signal::default());
        signal.advance(1);
        signal.reaches(1).await;
        signal.advance(2);
        signal.advance(1);
        signal.reaches(2).await;
    }

    #[test]
    fn who_listens_again_and_again_is_woken_once_by_its_last_waker_and_leaves_nothing() {
        let signal = Rc::new(Signal::default());
        let (first, last) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
        let mut other = pin!(signal.reaches(2));
        assert!(other.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        {
            let mut reaches = pin!(signal.reaches(1));
            for woken in [&first, &first, &last, &last] {
                let waker = woken.clone().into();
                assert!(reaches.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            }
            assert_eq!((Arc::strong_count(&first), Arc::strong_count(&last)), (1, 2), "kept once");
            signal.advance(1);
            assert_eq!((first.0.load(Ordering::Relaxed), last.0.load(Ordering::Relaxed)), (0, 1));
            assert!(reaches.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
        }
        assert_eq!((Arc::strong_count(&last), signal.listening.borrow().len()), (1, 1));
    }
}
