//! Which signals the command still has to be given: those sent to `remora run` alone. What is sent to the whole process group, by the
//! terminal or by a shell, reaches the command, its first process and `remora run` each by itself; so the first process, which
//! `remora run` tells of its signals by a pipe, knows by its own that the command has them already. Pure: it is told the time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

/// How far apart what belongs together may come: far more than the kernel takes to go through a process group, far less than
/// anybody waits before asking again.
const TOGETHER: Duration = Duration::from_millis(100);

/// What came lately, and what is waited with.
#[derive(Debug, Default)]
pub(super) struct Orders {
    reached: HashMap<Signal, Instant>,
    due: HashMap<Signal, Instant>,
}

impl Orders {
    /// The command has been sent this signal.
    pub(super) fn reached(&mut self, signal: Signal, now: Instant) {
        self.due.remove(&signal);
        self.reached.insert(signal, now);
    }

    /// `remora run` has been sent this signal.
    pub(super) fn told(&mut self, signal: Signal, now: Instant) {
        if self.reached.get(&signal).is_none_or(|at| now.duration_since(*at) > TOGETHER) {
            self.due.entry(signal).or_insert(now + TOGETHER);
        }
    }

    /// When to ask for [`Self::take`]; never, where nothing is waited with.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    /// What is to be handed on now.
    pub(super) fn take(&mut self, now: Instant) -> Vec<Signal> {
        let due: Vec<Signal> = self.due.iter().filter(|(_, at)| **at <= now).map(|(signal, _)| *signal).collect();
        due.iter().for_each(|signal| self.reached(*signal, now));
        due
    }
}

#[cfg(test)]
mod tests {
    use Signal::{SIGHUP, SIGTERM};

    use super::*;

    fn at(began: Instant, milliseconds: u64) -> Instant {
        began + Duration::from_millis(milliseconds)
    }

    #[test]
    fn what_was_sent_to_us_alone_is_handed_on_once() {
        let (mut orders, now) = (Orders::default(), Instant::now());
        assert_eq!(orders.next(), None);
        orders.told(SIGTERM, now);
        orders.told(SIGHUP, at(now, 10));
        // By whoever sends to the process and to its group, as `timeout` does.
        orders.told(SIGTERM, at(now, 20));
        assert_eq!((orders.take(at(now, 99)), orders.next()), (vec![], Some(at(now, 100))));
        assert_eq!(orders.take(at(now, 100)), [SIGTERM]);
        assert_eq!(orders.take(at(now, 110)), [SIGHUP]);
        orders.told(SIGTERM, at(now, 150));
        assert_eq!(orders.next(), None, "a repeat");
        orders.told(SIGTERM, at(now, 250));
        assert_eq!(orders.take(at(now, 350)), [SIGTERM], "another");
    }

    #[test]
    fn what_was_sent_to_the_group_is_not() {
        for (reached, told) in [(0, 5), (5, 0)] {
            let (mut orders, now) = (Orders::default(), Instant::now());
            let mut events = [(reached, true), (told, false)];
            events.sort_unstable();
            for (when, reached) in events {
                let what = if reached { Orders::reached } else { Orders::told };
                what(&mut orders, SIGTERM, at(now, when));
            }
            orders.told(SIGHUP, at(now, 6));
            assert_eq!(orders.take(at(now, 1000)), [SIGHUP]);
        }
    }
}
