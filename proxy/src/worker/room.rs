//! What a worker has room for, as its open files and the memory allow, and who could make some: clients that may have gone.

use std::cell::Cell;
use std::rc::Rc;

use super::{Files, Spread};
use crate::memory::Pressure;
use crate::signal::{Reaches, Signal};

/// The room of one worker for connections and requests.
#[derive(Debug)]
pub(crate) struct Room {
    spread: Spread,
    files: Rc<Files>,
    pressure: Cell<Pressure>,
    /// Whether one connection, and one request, may still be let in before the next tick though memory is short.
    spare: [Cell<bool>; 2],
    /// How often some was wanted.
    wanted: Rc<Signal<u64>>,
}

impl Room {
    /// With the connections of `spread` and the files of those that are dialled.
    pub(crate) fn new(spread: Spread, files: Rc<Files>) -> Rc<Self> {
        let (pressure, spare, wanted) = Default::default();
        Rc::new(Self { spread, files, pressure, spare, wanted })
    }

    /// How short memory is.
    pub(super) fn pressure(&self) -> Pressure {
        self.pressure.get()
    }

    /// From now on memory is so short.
    pub(super) fn press(&self, pressure: Pressure) {
        self.pressure.set(pressure);
    }

    /// Whether there are as many connections as the limits of open files and of memory allow.
    pub(crate) fn is_full(&self) -> bool {
        self.spread.is_full() || self.pressure.get() >= Pressure::Connections
    }

    /// Whether one connection is taken in though memory is short. None at all would be too few: what is free again is only found
    /// by use, and whoever waits must not wait for ever.
    pub(crate) fn has_spare(&self) -> bool {
        !self.spread.is_full() && self.spare[0].get()
    }

    /// That one was taken in.
    pub(crate) fn take_spare(&self) {
        self.spare[0].set(false);
    }

    /// One connection and one request more, however short memory is.
    pub(super) fn spare_again(&self) {
        self.spare.iter().for_each(|spare| spare.set(true));
    }

    /// Whether a request may be served; while memory is very short few are.
    pub(crate) fn admits_request(&self) -> bool {
        self.pressure.get() < Pressure::Requests || self.spare[1].replace(false)
    }

    /// Others wait for what connections hold. Whoever can do without its own hears of it.
    pub(crate) fn want(&self) {
        self.wanted.advance(self.wanted.stage() + 1);
    }

    /// Completes when others wait for what connections hold; at once where they do.
    pub(crate) fn wanted(&self) -> Reaches<u64> {
        let wanted = self.is_full() || self.files.is_waited_for();
        self.wanted.reaches(self.wanted.stage() + u64::from(!wanted))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::worker::{ListenerId, Need, Share};

    fn is_wanted(room: &Room) -> bool {
        pin!(room.wanted()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_wanted_where_there_is_none_and_where_somebody_waits_for_a_file() {
        let (spread, _inbox) = Spread::among(1, 1, 2).remove(0);
        let files = Files::new(2);
        let room = Room::new(spread.clone(), files.clone());
        let first = spread.own_place(ListenerId(0));
        assert!(!room.is_full() && !is_wanted(&room));
        let second = spread.own_place(ListenerId(0));
        assert!(room.is_full() && is_wanted(&room));
        drop((first, second));
        assert!(!is_wanted(&room));
        room.press(Pressure::Connections);
        assert!(is_wanted(&room));
        room.press(Pressure::None);
        let taken = [(); 2].map(|()| files.take(Need::First, &mut None).unwrap());
        assert!(!is_wanted(&room), "nobody waits for a third");
        {
            let mut third = pin!(files.wait(Share::default(), Instant::now() + Duration::from_secs(1)));
            assert!(third.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            assert!(is_wanted(&room));
            drop(taken);
            third.await.unwrap();
        }
        assert!(!is_wanted(&room));
    }

    #[tokio::test(start_paused = true)]
    async fn who_can_do_without_hears_of_it_when_room_is_wanted_later() {
        let (spread, _inbox) = Spread::among(1, 1, 2).remove(0);
        let room = Room::new(spread, Files::new(2));
        let hour = Duration::from_secs(3600);
        let mut wanted = room.wanted();
        tokio::time::timeout(hour, &mut wanted).await.expect_err("there is room");
        room.want();
        wanted.await;
        assert!(!is_wanted(&room), "others hear of the next time");
    }
}
