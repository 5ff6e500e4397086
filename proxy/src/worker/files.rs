//! A worker's share of the open files: the connections it accepted, and those that are dialled for them.
//!
//! An accepted connection is sure of a second file, for the one upstream connection that most of them need. What asks for more, as the
//! streams of one HTTP/2 client may, leaves a quarter of the share to others.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Who asks for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Of its client's connection it is the only one.
    First,
    /// Others of the same client are under way.
    More,
}

/// How many files may be open, how many are, and who waits for one.
#[derive(Debug, Default)]
pub(crate) struct Files {
    most: usize,
    dialled: Cell<usize>,
    waiting: [Cell<u32>; 2],
    freed: [Notify; 2],
}

/// The file of a connection that is being dialled or was; free again when dropped.
#[derive(Debug)]
pub(crate) struct File(Rc<Files>);

impl Files {
    /// For `connections` that are accepted, two for each.
    pub(super) fn new(connections: usize) -> Rc<Self> {
        let (dialled, waiting, freed) = Default::default();
        Rc::new(Self { most: connections.saturating_mul(2), dialled, waiting, freed })
    }

    /// Whether one more connection can be accepted beside `accepted`, and served.
    pub(super) fn accepts(&self, accepted: usize) -> bool {
        self.has_room(accepted, 2, self.most)
    }

    /// Whether one more can be dialled.
    pub(super) fn dials(&self, need: Need, accepted: usize) -> bool {
        let most = match need {
            Need::First => self.most,
            Need::More => self.most - self.most / 4,
        };
        self.has_room(accepted, 1, most)
    }

    fn has_room(&self, accepted: usize, wanted: usize, most: usize) -> bool {
        accepted + self.dialled.get() + wanted <= most
    }

    /// Takes one.
    pub(crate) fn take(self: &Rc<Self>) -> File {
        self.dialled.set(self.dialled.get() + 1);
        File(self.clone())
    }

    /// Waits until one may be free; `false`: none was by then.
    pub(crate) async fn freed(&self, need: Need, by: Instant) -> bool {
        let waiting = &self.waiting[need as usize];
        waiting.set(waiting.get() + 1);
        let _waits = Waits(waiting);
        timeout_at(by, self.freed[need as usize].notified()).await.is_ok()
    }

    /// One may be free: tells the one that waits longest, of those with the greater need.
    pub(crate) fn tell_one(&self) {
        let waiting = |need: &Need| self.waiting[*need as usize].get() > 0;
        if let Some(need) = [Need::First, Need::More].into_iter().find(waiting) {
            self.freed[need as usize].notify_one();
        }
    }
}

/// One that waits.
struct Waits<'a>(&'a Cell<u32>);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl File {
    /// Its connection is idle: another may have it, or the file.
    pub(crate) fn is_idle(&self) {
        self.0.tell_one();
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.0.dialled.set(self.0.dialled.get() - 1);
        self.0.tell_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn whoever_has_some_leaves_a_quarter_to_others() {
        let files = Files::new(8);
        let mut taken = Vec::new();
        while files.dials(Need::More, 1) {
            taken.push(files.take());
        }
        assert_eq!(taken.len(), 11, "twelve of sixteen, with the one that was accepted");
        let mut accepted = 1;
        while files.accepts(accepted) {
            accepted += 1;
            assert!(files.dials(Need::First, accepted), "who was accepted is served");
            taken.push(files.take());
        }
        assert_eq!((accepted, taken.len()), (3, 13));
        taken.clear();
        assert!(files.dials(Need::More, accepted) && files.accepts(accepted));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_none_is_told_first() {
        let files = Files::new(8);
        let by = Instant::now() + Duration::from_secs(1);
        let (file, told) = (files.take(), Cell::new(None));
        let wait = async |need| {
            assert!(files.freed(need, by).await);
            told.set(told.get().or(Some(need)));
        };
        tokio::join!(wait(Need::More), wait(Need::First), async {
            tokio::task::yield_now().await;
            drop(file);
            while told.get().is_none() {
                tokio::task::yield_now().await;
            }
            files.tell_one();
        });
        assert_eq!(told.get(), Some(Need::First));
        assert!(!files.freed(Need::More, by).await, "in vain");
    }
}
