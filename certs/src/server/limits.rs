//! How often somebody may ask: callers by their identity, and those who prove none by their address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};
use remora_model::SpiffeId;

use super::refusal::{Reason, Refused};

/// Refusals that one address may collect at once, requests under way included; a node's worth of pods may share it.
const BURST: f64 = 100.0;
/// Refusals a second that one address may go on with.
const PER_SECOND: f64 = 10.0;
/// Addresses counted at most; beyond that new ones go free, so that memory stays bounded.
const MAX_ADDRESSES: usize = 65_536;
/// How often it is said of an address that it is not listened to.
const SAID: Duration = Duration::from_secs(60);

/// The limits of one server.
pub(crate) struct Limits {
    callers: DefaultKeyedRateLimiter<SpiffeId>,
    addresses: Mutex<HashMap<IpAddr, Allowance>>,
    clock: DefaultClock,
}

/// How many refusals an address has left.
struct Allowance {
    left: f64,
    at: Instant,
    said: Option<Instant>,
}

impl Allowance {
    fn refill(&mut self, now: Instant) {
        self.left = BURST.min(self.left + PER_SECOND * now.saturating_duration_since(self.at).as_secs_f64());
        self.at = now;
    }
}

/// A request that counts as a refusal while it is under way: so many at once are no more guesses than one by one.
pub(crate) struct Guess<'l> {
    limits: &'l Limits,
    network: IpAddr,
    counts: bool,
}

impl Guess<'_> {
    /// It was one.
    pub(crate) fn counts(mut self) {
        self.counts = true;
    }
}

impl Drop for Guess<'_> {
    fn drop(&mut self) {
        if !self.counts
            && let Some(allowance) = self.limits.addresses().get_mut(&self.network)
        {
            allowance.left = BURST.min(allowance.left + 1.0);
        }
    }
}

impl Limits {
    /// Each caller may ask `per_minute` times a minute, and that often at once.
    pub(crate) fn new(per_minute: NonZeroU32) -> Self {
        Self {
            callers: DefaultKeyedRateLimiter::keyed(Quota::per_minute(per_minute)),
            addresses: Mutex::default(),
            clock: DefaultClock::default(),
        }
    }

    /// Counts one request of a caller.
    pub(crate) fn caller(&self, id: &SpiffeId) -> Result<(), Refused> {
        self.callers.check_key(id).map_err(|until| {
            let wait = until.wait_time_from(self.clock.now());
            Refused::new(Reason::CallerRate, format!("{id} asks too often; again in {} s", seconds(wait)))
        })
    }

    /// Whether a peer is listened to at all. What this returns lives as long as its request.
    pub(crate) fn peer(&self, address: IpAddr) -> Result<Guess<'_>, Refused> {
        let (network, now) = (network(address), Instant::now());
        let mut addresses = self.addresses();
        if addresses.len() < MAX_ADDRESSES || addresses.contains_key(&network) {
            let fresh = || Allowance { left: BURST, at: now, said: None };
            let allowance = addresses.entry(network).or_insert_with(fresh);
            allowance.refill(now);
            if allowance.left < 1.0 {
                let wait = Duration::from_secs_f64((1.0 - allowance.left) / PER_SECOND);
                let detail = format!("too many refusals for this address; again in {} s", seconds(wait));
                return Err(Refused::new(Reason::PeerRate, detail));
            }
            allowance.left -= 1.0;
        }
        Ok(Guess { limits: self, network, counts: false })
    }

    /// Whether it was long not said of this address that it is not listened to; it is now.
    pub(crate) fn is_news(&self, address: IpAddr) -> bool {
        let now = Instant::now();
        let mut addresses = self.addresses();
        let Some(allowance) = addresses.get_mut(&network(address)) else { return true };
        let news = allowance.said.is_none_or(|said| now.saturating_duration_since(said) >= SAID);
        if news {
            allowance.said = Some(now);
        }
        news
    }

    /// Forgets whoever is in good standing again; to be called now and then.
    pub(crate) fn forget(&self) {
        self.callers.retain_recent();
        let now = Instant::now();
        self.addresses().retain(|_, allowance| {
            allowance.refill(now);
            allowance.left < BURST || allowance.said.is_some_and(|said| now.saturating_duration_since(said) < SAID)
        });
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, Allowance>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One IPv4 address, or the /64 that one IPv6 host can fill by itself.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        address => address,
    }
}

/// Whole seconds, rounded up.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SpiffeId {
        text.parse().unwrap()
    }

    #[test]
    fn each_caller_has_its_own_measure() {
        let limits = Limits::new(NonZeroU32::new(3).unwrap());
        let (a, b) = (id("spiffe://example.org/a"), id("spiffe://example.org/b"));
        for _ in 0..3 {
            limits.caller(&a).unwrap();
        }
        assert_eq!(limits.caller(&a).unwrap_err().reason, Reason::CallerRate);
        limits.caller(&b).unwrap();
    }

    #[test]
    fn an_address_that_keeps_guessing_is_not_listened_to() {
        let limits = Limits::new(NonZeroU32::MIN);
        let (guesser, other) = ("2001:db8::1".parse().unwrap(), "2001:db8:0:1::1".parse().unwrap());
        for _ in 0..1000 {
            drop(limits.peer(guesser).unwrap());
        }
        // However slow this ran, ten a second come back: go on until it is told to wait.
        let guess = |_| match limits.peer(guesser) {
            Ok(guess) => {
                guess.counts();
                false
            }
            Err(refused) => refused.reason == Reason::PeerRate,
        };
        assert!((0..100).all(|n| !guess(n)), "a hundred are free");
        assert!((0..100_000).any(guess));
        assert!(limits.peer("2001:db8::ffff".parse().unwrap()).is_err(), "the same network");
        assert!(limits.peer(other).is_ok());
        assert!(limits.is_news(guesser) && !limits.is_news(guesser) && limits.is_news(other));
        limits.forget();
        assert!(!limits.is_news(guesser));
    }

    #[test]
    fn guesses_at_once_are_no_more_than_one_by_one() {
        let limits = Limits::new(NonZeroU32::MIN);
        let guesser = "192.0.2.1".parse().unwrap();
        let began = Instant::now();
        let under_way: Vec<_> = (0..1000).map_while(|_| limits.peer(guesser).ok()).collect();
        let most = BURST + PER_SECOND * (began.elapsed().as_secs_f64() + 1.0);
        assert!(under_way.len() >= 100 && (under_way.len() as f64) <= most, "{}", under_way.len());
        // None of them was a guess.
        drop(under_way);
        assert!(limits.peer(guesser).is_ok());
    }
}
