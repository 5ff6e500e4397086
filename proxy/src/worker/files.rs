//! A worker's share of the open files. Half of it is for the connections it accepts, half for those that are dialled for them: here is
//! the second half. What uses many, as the streams of one HTTP/2 client may, leaves a quarter of it to others.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::waiting::Waits;

/// Who uses a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// The only request of its client's connection.
    First,
    /// One beside which others of the same client are under way.
    More,
}

/// How many connections may be dialled, and who waits to dial one: whoever came first is the next.
#[derive(Debug)]
pub(crate) struct Files {
    all: Arc<Semaphore>,
    waiting: Cell<u32>,
    /// How many of them may serve [`Need::More`], do, and are waited for.
    most_shares: usize,
    shares: Cell<usize>,
    waiting_to_share: Cell<u32>,
    shared: Notify,
}

/// The file of a connection that is being dialled, or was; free again when dropped.
#[derive(Debug)]
pub(crate) struct File {
    files: Rc<Files>,
    share: RefCell<Share>,
    _permit: OwnedSemaphorePermit,
}

/// What a need takes beside a file: one of those that serve [`Need::More`], or nothing.
#[derive(Debug, Default)]
pub(crate) struct Share(Option<Rc<Files>>);

impl Files {
    /// For so many connections, at least two.
    pub(crate) fn new(most: usize) -> Rc<Self> {
        let most = most.clamp(2, Semaphore::MAX_PERMITS);
        let (waiting, shares, waiting_to_share, shared) = Default::default();
        let (all, most_shares) = (Arc::new(Semaphore::new(most)), most - most.div_ceil(4));
        Rc::new(Self { all, waiting, most_shares, shares, waiting_to_share, shared })
    }

    /// A file that is free; the share is the one for `need`, if that was taken before.
    pub(crate) fn take(self: &Rc<Self>, need: Need, share: &mut Option<Share>) -> Option<File> {
        *share = share.take().or_else(|| self.share(need));
        share.as_ref()?;
        let permit = self.all.clone().try_acquire_owned().ok()?;
        share.take().map(|share| self.file(share, permit))
    }

    /// Waits for a file until then.
    pub(crate) async fn wait(self: &Rc<Self>, share: Share, by: Instant) -> Option<File> {
        let _waits = Waits::new(&self.waiting);
        let permit = timeout_at(by, self.all.clone().acquire_owned()).await.ok()?.ok()?;
        Some(self.file(share, permit))
    }

    fn file(self: &Rc<Self>, share: Share, permit: OwnedSemaphorePermit) -> File {
        File { files: self.clone(), share: share.into(), _permit: permit }
    }

    /// Whether somebody waits for one, who needs it more than whoever can do without.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting() > 0
    }

    /// How many wait for one.
    pub(super) fn waiting(&self) -> u32 {
        self.waiting.get()
    }

    /// What the need takes; `None` where others have it, or wait for it.
    pub(crate) fn share(self: &Rc<Self>, need: Need) -> Option<Share> {
        match need {
            Need::First => Some(Share::default()),
            Need::More if self.waiting_to_share.get() > 0 => None,
            Need::More => self.take_share(),
        }
    }

    fn take_share(self: &Rc<Self>) -> Option<Share> {
        let shares = self.shares.get();
        (shares < self.most_shares).then(|| {
            self.shares.set(shares + 1);
            Share(Some(self.clone()))
        })
    }

    /// Waits until then for what the need takes. `None`: others had it all the while.
    pub(crate) async fn wait_to_share(self: &Rc<Self>, need: Need, by: Instant) -> Option<Share> {
        if let Some(share) = self.share(need) {
            return Some(share);
        }
        let _waits = Waits::new(&self.waiting_to_share);
        let share = async {
            loop {
                self.shared.notified().await;
                if let Some(share) = self.take_share() {
                    return share;
                }
            }
        };
        timeout_at(by, share).await.ok()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(files) = &self.0 else { return };
        files.shares.set(files.shares.get() - 1);
        if files.waiting_to_share.get() > 0 {
            // Who is told and gone before it looks has the next one told.
            files.shared.notify_one();
        }
    }
}

impl File {
    /// Its connection serves what has this share, until it rests.
    pub(crate) fn serve(&self, share: Share) {
        self.share.replace(share);
    }

    /// The share alone: its connection waits for work, or the share is kept elsewhere.
    pub(crate) fn take_share(&self) -> Share {
        self.share.take()
    }

    /// Whether somebody waits for one, who needs it more than a connection that waits for work.
    pub(crate) fn is_wanted(&self) -> bool {
        self.files.is_waited_for()
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};
    use std::time::Duration;

    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;

    fn taken(files: &Rc<Files>, need: Need) -> Vec<File> {
        std::iter::from_fn(|| files.take(need, &mut None)).collect()
    }

    async fn waited(files: &Rc<Files>, need: Need, by: Instant) -> Option<File> {
        let share = files.wait_to_share(need, by).await?;
        files.wait(share, by).await
    }

    #[test]
    fn who_has_some_leaves_a_quarter_to_others() {
        for (most, more) in [(0, 1), (2, 1), (4, 3), (5, 3), (16, 12)] {
            let files = Files::new(most);
            let some = taken(&files, Need::More);
            assert_eq!(some.len(), more, "of {most}");
            let others = taken(&files, Need::First);
            assert_eq!(others.len(), most.max(2) - more, "of {most}");
            drop(some);
            assert_eq!(taken(&files, Need::More).len(), more, "they are free again");
        }
    }

    #[test]
    fn whoever_made_a_connection_it_counts_for_those_whom_it_serves() {
        let files = Files::new(4);
        let (some, others) = (taken(&files, Need::More), taken(&files, Need::First));
        assert!(files.share(Need::More).is_none() && files.share(Need::First).is_some());
        some.iter().for_each(|file| drop(file.take_share()));
        for file in &others {
            file.serve(files.share(Need::More).unwrap());
        }
        for file in &some[..2] {
            file.serve(files.share(Need::More).unwrap());
        }
        assert!(files.share(Need::More).is_none());
        drop(others);
        assert!(files.share(Need::More).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_longest_is_next_and_who_has_some_holds_up_nobody() {
        let test = async {
            let (files, got) = (Files::new(4), Rc::<RefCell<Vec<(u32, File)>>>::default());
            let (mut some, mut others) = (taken(&files, Need::More), taken(&files, Need::First));
            for (name, need) in [(1, Need::More), (2, Need::First), (3, Need::First), (4, Need::More)] {
                let (files, got) = (files.clone(), got.clone());
                spawn_local(async move {
                    let by = Instant::now() + Duration::from_secs(1);
                    let file = waited(&files, need, by).await.expect("a file");
                    got.borrow_mut().push((name, file));
                });
                yield_now().await;
            }
            let names = async || {
                for _ in 0..8 {
                    yield_now().await;
                }
                got.borrow().iter().map(|(name, _)| *name).collect::<Vec<_>>()
            };
            assert!(some[0].is_wanted());
            others.pop();
            assert_eq!(names().await, [2], "the first one waits for its own kind");
            some.pop();
            assert_eq!(names().await, [2, 3], "behind whom it is then");
            some.pop();
            assert_eq!(names().await, [2, 3, 1]);
            some.pop();
            assert_eq!(names().await, [2, 3, 1, 4]);
            assert!(!got.borrow()[0].1.is_wanted());
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_no_more_takes_none_along() {
        for need in [Need::First, Need::More] {
            let files = Files::new(3);
            let (mut some, others) = (taken(&files, Need::More), taken(&files, Need::First));
            let by = Instant::now() + Duration::from_secs(1);
            assert!(waited(&files, need, by).await.is_none(), "in vain");
            assert!(!others[0].is_wanted());
            let by = by + Duration::from_secs(1);
            let mut waiting = Box::pin(waited(&files, need, by));
            assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            // It is handed what it wants, and is gone before it looks.
            some.pop();
            drop((waiting, some, others));
            assert_eq!(taken(&files, Need::More).len(), 2, "all are free again");
        }
    }
}
