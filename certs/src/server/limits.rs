//! How often somebody may ask: callers by their identity, and those who prove none by their address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};
use remora_model::SpiffeId;

use super::refusal::{Reason, Refused};

/// Refusals that one address may collect at once; a node's worth of pods may share it.
const REFUSALS_BURST: NonZeroU32 = NonZeroU32::new(100).expect("not zero");
/// Refusals a second that one address may go on with.
const REFUSALS_PER_SECOND: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
/// Addresses kept waiting at most; beyond that new ones go free, so that memory stays bounded.
const MAX_WAITING: usize = 65_536;

/// The limits of one server.
pub(crate) struct Limits {
    callers: DefaultKeyedRateLimiter<SpiffeId>,
    refusals: DefaultKeyedRateLimiter<IpAddr>,
    // Until when an address that ran out of refusals is not listened to.
    waiting: Mutex<HashMap<IpAddr, Instant>>,
    clock: DefaultClock,
}

impl Limits {
    /// Each caller may ask `per_minute` times a minute, and that often at once.
    pub(crate) fn new(per_minute: NonZeroU32) -> Self {
        Self {
            callers: DefaultKeyedRateLimiter::keyed(Quota::per_minute(per_minute)),
            refusals: DefaultKeyedRateLimiter::keyed(
                Quota::per_second(REFUSALS_PER_SECOND).allow_burst(REFUSALS_BURST),
            ),
            waiting: Mutex::default(),
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

    /// Whether a peer is listened to at all.
    pub(crate) fn peer(&self, address: IpAddr) -> Result<(), Refused> {
        let key = network(address);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.get(&key).map(|until| until.saturating_duration_since(Instant::now())) {
            None => Ok(()),
            Some(Duration::ZERO) => {
                waiting.remove(&key);
                Ok(())
            }
            Some(wait) => {
                let detail = format!("too many refusals for this address; again in {} s", seconds(wait));
                Err(Refused::new(Reason::PeerRate, detail))
            }
        }
    }

    /// Counts one refusal for a peer.
    pub(crate) fn refused(&self, address: IpAddr) {
        let key = network(address);
        let Err(until) = self.refusals.check_key(&key) else { return };
        let wait = until.wait_time_from(self.clock.now());
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < MAX_WAITING {
            waiting.insert(key, Instant::now() + wait);
        }
    }

    /// Forgets whoever is in good standing again; to be called now and then.
    pub(crate) fn forget(&self) {
        self.callers.retain_recent();
        self.refusals.retain_recent();
        let now = Instant::now();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, until| *until > now);
    }
}

/// One IPv4 address, or the /64 that one IPv6 host can fill by itself.
fn network(address: IpAddr) -> IpAddr {
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
        for _ in 0..100 {
            limits.peer(guesser).unwrap();
            limits.refused(guesser);
        }
        // However slow this ran, ten a second come back: go on until it is told to wait.
        let refused = (0..100_000).any(|_| {
            limits.refused(guesser);
            limits.peer(guesser).is_err()
        });
        assert!(refused);
        assert_eq!(limits.peer("2001:db8::ffff".parse().unwrap()).unwrap_err().reason, Reason::PeerRate);
        limits.peer(other).unwrap();
    }
}
