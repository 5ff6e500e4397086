//! When to renew, and when to try again: pure, handed the time and a seed.
//!
//! Two clocks are asked. The wall clock, because certificates live by it and a machine may have slept; the steady one,
//! because the wall clock may be wound. Renewal is due when either says so, a wound clock costs one attempt at most, and
//! every attempt that brought nothing is followed by a wait, so there is no time at which it becomes a busy loop.

use std::time::{Duration, Instant, SystemTime};

/// The least time between two attempts, whatever the clocks say.
const LEAST: Duration = Duration::from_secs(1);
/// The longest wait between two attempts that fail.
pub(super) const BACK_OFF_CAP: Duration = Duration::from_secs(60);
/// The same as long as there is no identity at all and the workload stands still.
const FIRST_CAP: Duration = Duration::from_secs(15);
/// The longest sleep before the wall clock is asked again.
const LOOK: Duration = Duration::from_secs(30);

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) wall: SystemTime,
    pub(super) steady: Instant,
}

/// When the next attempt is due.
#[derive(Debug)]
pub(super) struct Schedule {
    random: Random,
    failures: u32,
    /// The longest wait between attempts that fail.
    cap: Duration,
    earliest: Instant,
    /// Reached as soon as either clock says so; [`None`]: as soon as `earliest` allows.
    due: Option<(SystemTime, Instant)>,
}

impl Schedule {
    /// The first attempt is due at once.
    pub(super) fn new(now: Now, seed: u64) -> Self {
        Self { random: Random(seed), failures: 0, cap: FIRST_CAP, earliest: now.steady, due: None }
    }

    /// A certificate that ends at `not_after` was taken into use: it is renewed at half of what is left of its life,
    /// give or take a tenth of that, so that workloads that started together do not renew together.
    pub(super) fn renewed(&mut self, now: Now, not_after: SystemTime) {
        let life = not_after.duration_since(now.wall).unwrap_or_default();
        let wait = self.random.around(life / 2, 0.1).max(LEAST);
        self.failures = 0;
        // A short life leaves room for a few attempts before it ends.
        self.cap = (life / 10).clamp(LEAST, BACK_OFF_CAP);
        self.earliest = now.steady + LEAST;
        self.due = Some((now.wall + wait, now.steady + wait));
    }

    /// An attempt failed. Waits double to the cap, each cut by up to a third; the first is of a second at least and two
    /// at most, since those that fail together must not come back together.
    pub(super) fn failed(&mut self, now: Now) {
        let doubled = LEAST.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(self.cap);
        self.failures = (self.failures + 1).min(31);
        let wait = match doubled <= LEAST {
            true => LEAST + LEAST.mul_f64(self.random.fraction()),
            false => self.random.around(doubled.mul_f64(5.0 / 6.0), 0.2).max(LEAST),
        };
        self.earliest = now.steady + wait;
        self.due = None;
    }

    /// There is a reason to renew soon: within `spread`, at a random moment of it.
    pub(super) fn hurry(&mut self, now: Now, spread: Duration) {
        let wait = spread.mul_f64(self.random.fraction());
        let sooner = (now.wall + wait, now.steady + wait);
        if let Some(due) = &mut self.due
            && due.1 > sooner.1
        {
            *due = sooner;
        }
    }

    /// How long to sleep before this is asked again; [`None`] when an attempt is due now. Never more than half a
    /// minute: the wall clock may be wound while we sleep.
    pub(super) fn wait(&self, now: Now) -> Option<Duration> {
        let until_earliest = self.earliest.saturating_duration_since(now.steady);
        let until_due = self.due.map_or(Duration::ZERO, |(wall, steady)| {
            let by_wall = wall.duration_since(now.wall).unwrap_or_default();
            by_wall.min(steady.saturating_duration_since(now.steady))
        });
        let wait = until_earliest.max(until_due);
        (!wait.is_zero()).then(|| wait.min(LOOK))
    }

    /// The moment of the next attempt, by the wall clock as it stands.
    pub(super) fn next_attempt(&self, now: Now) -> SystemTime {
        let steady = self.due.map_or(self.earliest, |(_, steady)| steady.max(self.earliest));
        now.wall + steady.saturating_duration_since(now.steady)
    }
}

/// SplitMix64: good enough to spread a herd, and the same for the same seed.
#[derive(Debug)]
struct Random(u64);

impl Random {
    /// In `0.0..1.0`.
    fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// `middle`, give or take `part` of it.
    fn around(&mut self, middle: Duration, part: f64) -> Duration {
        middle.mul_f64(1.0 + part * (2.0 * self.fraction() - 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn now() -> Now {
        Now { wall: SystemTime::UNIX_EPOCH + 20_000 * DAY, steady: Instant::now() }
    }

    fn later(now: Now, by: Duration) -> Now {
        Now { wall: now.wall + by, steady: now.steady + by }
    }

    #[test]
    fn renews_at_half_of_the_life_give_or_take_a_tenth() {
        let now = now();
        let mut waits: Vec<_> = (0..1000)
            .map(|seed| {
                let mut schedule = Schedule::new(now, seed);
                assert_eq!(schedule.wait(now), None, "the first attempt is due at once");
                schedule.renewed(now, now.wall + DAY);
                schedule.next_attempt(now).duration_since(now.wall).unwrap()
            })
            .collect();
        waits.sort();
        let (least, most) = (waits[0], waits[999]);
        assert!(least >= DAY.mul_f64(0.45) && most <= DAY.mul_f64(0.55), "{least:?} {most:?}");
        assert!(least < DAY.mul_f64(0.46) && most > DAY.mul_f64(0.54), "spread out: {least:?} {most:?}");
    }

    #[test]
    fn sleeps_half_a_minute_at_most_and_is_due_at_its_time() {
        let start = now();
        let mut schedule = Schedule::new(start, 1);
        schedule.renewed(start, start.wall + DAY);
        let (mut at, mut looks) = (start, 0);
        while let Some(wait) = schedule.wait(at) {
            assert!(wait <= LOOK);
            at = later(at, wait);
            looks += 1;
        }
        assert_eq!(at.wall, schedule.next_attempt(start));
        assert!((1290..=1590).contains(&looks), "{looks}");
    }

    #[test]
    fn waits_after_failures_double_to_the_cap_and_vary() {
        let now = now();
        let waits = |seed| {
            let mut schedule = Schedule::new(now, seed);
            schedule.renewed(now, now.wall + DAY);
            let wait = |_| {
                schedule.failed(now);
                schedule.next_attempt(now).duration_since(now.wall).unwrap().as_secs_f64()
            };
            (0..200).map(wait).collect::<Vec<_>>()
        };
        let first = waits(1);
        for (index, wait) in first.iter().enumerate() {
            let doubled = 2_f64.powi(index.min(20) as i32).clamp(2.0, 60.0);
            assert!((doubled * 0.66).max(1.0) <= *wait + 0.34 && *wait <= doubled + 0.01, "{index}: {wait}");
        }
        assert_ne!(first, waits(2));
        assert_eq!(first, waits(1));
    }

    #[test]
    fn a_short_life_is_tried_for_often_and_success_begins_anew() {
        let now = now();
        let mut schedule = Schedule::new(now, 3);
        schedule.renewed(now, now.wall + Duration::from_secs(30));
        for _ in 0..10 {
            schedule.failed(now);
            assert!(schedule.wait(now).unwrap() <= Duration::from_secs(3));
        }
        schedule.renewed(now, now.wall + DAY);
        schedule.failed(now);
        assert!(schedule.wait(now).unwrap() <= 2 * LEAST);
    }

    #[test]
    fn those_that_fail_together_do_not_come_back_together() {
        let now = now();
        let mut waits: Vec<_> = (0..1000)
            .map(|seed| {
                let mut schedule = Schedule::new(now, seed);
                schedule.failed(now);
                schedule.wait(now).unwrap()
            })
            .collect();
        waits.sort();
        assert!(waits[0] >= LEAST && waits[999] <= 2 * LEAST, "{:?} {:?}", waits[0], waits[999]);
        assert!(waits[999] - waits[0] > LEAST.mul_f64(0.9), "{:?} {:?}", waits[0], waits[999]);
    }

    #[test]
    fn a_clock_wound_forward_or_back_never_makes_it_busy() {
        for (wound, forward) in [(400, true), (1, true), (1, false), (400, false)] {
            let start = now();
            let mut schedule = Schedule::new(start, 7);
            schedule.renewed(start, start.wall + DAY);
            let wind = |at: Now| Now {
                wall: if forward { at.wall + wound * DAY } else { at.wall - wound * DAY },
                steady: at.steady,
            };
            // A day under the wound clock, in which nothing that the authority gives can be used.
            let (mut at, mut attempts) = (start, 0);
            while at.steady < start.steady + DAY {
                match schedule.wait(wind(at)) {
                    Some(wait) => at = later(at, wait),
                    None => {
                        attempts += 1;
                        schedule.failed(wind(at));
                    }
                }
            }
            assert!((1..=86_400 / 40).contains(&attempts), "{wound} {forward}: {attempts}");
            // And back: the next attempt is no further away than the cap.
            assert!(schedule.wait(at).is_none_or(|wait| wait <= BACK_OFF_CAP));
        }
    }

    #[test]
    fn a_certificate_without_any_life_left_is_not_asked_for_without_pause() {
        let now = now();
        let mut schedule = Schedule::new(now, 5);
        schedule.renewed(now, now.wall - DAY);
        assert!(schedule.wait(now).unwrap() >= LEAST);
    }

    #[test]
    fn a_hurried_renewal_comes_soon_and_never_later_than_planned() {
        let now = now();
        let mut schedule = Schedule::new(now, 11);
        schedule.renewed(now, now.wall + DAY);
        schedule.hurry(now, Duration::from_secs(5));
        let hurried = schedule.next_attempt(now);
        assert!(hurried <= now.wall + Duration::from_secs(5));
        schedule.hurry(now, DAY);
        assert!(schedule.next_attempt(now) <= hurried);
    }

    #[test]
    fn a_slept_machine_is_noticed_by_the_wall_clock() {
        let start = now();
        let mut schedule = Schedule::new(start, 13);
        schedule.renewed(start, start.wall + DAY);
        let woken = Now { wall: start.wall + DAY, steady: start.steady + LEAST };
        assert_eq!(schedule.wait(woken), None);
    }
}
