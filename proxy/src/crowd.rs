//! Windows of HTTP/2 streams, which are narrower in a crowd. What a peer may send before anybody reads it is memory, a window for each
//! stream: so the more are under way in a worker, the less each may have.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;

use crate::signal::{Reaches, Signal};
use crate::telemetry::metrics::Counter;

/// From so many streams of a worker on, each may have so many bytes unread. The first of these windows is the one that HTTP/2 begins
/// with (RFC 9113 section 6.9.2).
const LEVELS: [(u32, u32); 3] = [(128, 64 * 1024), (512, 32 * 1024), (2_048, 16 * 1024)];

/// The streams under way of one kind, in a worker.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    streams: Cell<u32>,
    /// How many of [`LEVELS`] have been reached.
    level: Cell<usize>,
    /// Memory is short.
    pressed: Cell<bool>,
    /// How often the level has changed.
    changes: Rc<Signal<u64>>,
    /// How often the windows became narrower.
    narrowed: Arc<Counter>,
}

impl Crowd {
    /// An empty one, which counts how often its windows become narrower.
    pub(crate) fn new(narrowed: Arc<Counter>) -> Self {
        Self { narrowed, ..Self::default() }
    }

    /// One more.
    pub(crate) fn enter(&self) {
        let streams = self.streams.get() + 1;
        self.streams.set(streams);
        if LEVELS.get(self.level.get()).is_some_and(|(from, _)| streams >= *from) {
            self.set(self.level.get() + 1);
        }
    }

    pub(crate) fn leave(&self) {
        self.streams.set(self.streams.get() - 1);
    }

    #[cfg(test)]
    pub(crate) fn streams(&self) -> u32 {
        self.streams.get()
    }

    /// Widens the windows again where no more than half of the crowd is left that made them narrow. Asked from time to time: a
    /// crowd that comes and goes is not to cost every connection a frame each time.
    pub(crate) fn ease(&self) {
        let mut level = self.level.get();
        while level > 0 && !self.pressed.get() && self.streams.get() <= LEVELS[level - 1].0 / 2 {
            level -= 1;
        }
        self.set(level);
    }

    /// While memory is `short` the windows are as narrow as in the largest crowd.
    pub(crate) fn press(&self, short: bool) {
        self.pressed.set(short);
        if short {
            self.set(LEVELS.len());
        }
    }

    /// Bytes that a stream may have unread now, at `most` these.
    pub(crate) fn window(&self, most: u32) -> u32 {
        self.level.get().checked_sub(1).map_or(most, |level| most.min(LEVELS[level].1))
    }

    fn set(&self, level: usize) {
        let before = self.level.replace(level);
        if before < level {
            self.narrowed.add(1);
        }
        if before != level {
            self.changes.advance(self.changes.stage() + 1);
        }
    }

    /// Completes when the level changes.
    fn changed(&self) -> Reaches<u64> {
        self.changes.reaches(self.changes.stage() + 1)
    }
}

/// What the peer of a connection knows of its streams' windows, and what it is to know.
#[derive(Debug)]
pub(crate) struct Told {
    crowd: Rc<Crowd>,
    changed: Reaches<u64>,
    /// The window, in bytes, where there is no crowd.
    most: u32,
    /// What was told last.
    last: u32,
}

impl Told {
    /// Of a connection that is about to begin, with the window that [`Self::last`] says.
    pub(crate) fn new(crowd: Rc<Crowd>, most: u32) -> Self {
        Self { changed: crowd.changed(), last: crowd.window(most), crowd, most }
    }

    /// The window, in bytes, that the peer was told last.
    pub(crate) fn last(&self) -> u32 {
        self.last
    }

    /// Has the connection's task woken when there is something else to tell.
    pub(crate) fn listen(&mut self, cx: &mut Context<'_>) {
        while Pin::new(&mut self.changed).poll(cx).is_ready() {
            self.changed = self.crowd.changed();
        }
    }

    /// Has the peer told of the window, unless it knows and is not to hear it `again`; whether it was. One that has not yet acknowledged
    /// what it heard before (RFC 9113 section 6.5.3) cannot be told: so this is asked again behind each frame.
    ///
    /// Where not all is `quiet`, the windows of streams under way are not made narrower: of one of which much was read already nothing
    /// would be left, and the h2 crate gives such a window back with the next data alone, which then cannot come. They become no wider
    /// than what HTTP/2 begins with: who keeps one open is not to have the others' windows opened for the next crowd.
    pub(crate) fn tell(&mut self, quiet: bool, again: bool, tell: impl FnOnce(u32) -> Result<(), ::h2::Error>) -> bool {
        let window = self.crowd.window(self.most);
        let window = if quiet { window } else { window.min(LEVELS[0].1).max(self.last) };
        let told = (again || window != self.last) && tell(window).is_ok();
        if told {
            self.last = window;
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u32 = 256 * 1024;

    fn enter(crowd: &Crowd, streams: u32) {
        (0..streams).for_each(|_| crowd.enter());
    }

    fn leave(crowd: &Crowd, streams: u32) {
        (0..streams).for_each(|_| crowd.leave());
    }

    #[test]
    fn windows_narrow_at_once_and_widen_when_half_of_the_crowd_is_gone() {
        let crowd = Crowd::default();
        let more = |streams| {
            enter(&crowd, streams);
            crowd.window(MOST) / 1024
        };
        assert_eq!((more(127), more(1)), (256, 64), "127, 128");
        assert_eq!((more(383), more(1)), (64, 32), "511, 512");
        assert_eq!((more(1_535), more(1), more(5_000)), (32, 16, 16), "2,047, 2,048");
        assert_eq!((crowd.window(20_000), crowd.window(10_000)), (16_384, 10_000), "never wider than configured");
        let fewer = |streams| {
            leave(&crowd, streams);
            let before = crowd.window(MOST) / 1024;
            crowd.ease();
            (before, crowd.window(MOST) / 1024)
        };
        assert_eq!((fewer(6_023), fewer(1)), ((16, 16), (16, 32)), "1,025, 1,024");
        assert_eq!((fewer(767), fewer(1)), ((32, 32), (32, 64)), "257, 256");
        assert_eq!((fewer(191), fewer(1)), ((64, 64), (64, 256)), "65, 64");
        enter(&crowd, 1_000);
        assert_eq!(fewer(1_064), (32, 256), "all at once");
    }

    #[test]
    fn windows_are_narrow_while_memory_is_short() {
        let crowd = Crowd::default();
        crowd.press(true);
        crowd.ease();
        assert_eq!(crowd.window(MOST), 16 * 1024);
        crowd.press(false);
        crowd.ease();
        assert_eq!(crowd.window(MOST), MOST);
    }

    #[test]
    fn beside_streams_windows_are_not_made_narrower_and_no_wider_than_http2_begins_with() {
        let crowd = Rc::<Crowd>::default();
        let mut told = Told::new(crowd.clone(), MOST);
        enter(&crowd, 512);
        let mut tell = |quiet, again| told.tell(quiet, again, |_| Ok(())).then(|| told.last() / 1024);
        assert_eq!((tell(false, false), tell(false, true)), (None, Some(256)));
        assert_eq!((tell(true, false), tell(true, false)), (Some(32), None));
        leave(&crowd, 512);
        crowd.ease();
        assert_eq!((tell(false, false), tell(false, false), tell(true, false)), (Some(64), None, Some(256)));
        enter(&crowd, 128);
        let refused = told.tell(true, false, |_| Err(::h2::Reason::INTERNAL_ERROR.into()));
        assert_eq!((refused, told.last()), (false, MOST), "asked again");
    }
}
