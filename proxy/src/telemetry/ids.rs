//! Trace and span ids.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

/// A fast generator of ids for one worker (xoshiro256++ by Blackman and Vigna). Ids must differ, not be secret.
#[derive(Debug)]
pub(crate) struct IdGenerator(Cell<[u64; 4]>);

impl IdGenerator {
    /// Seeded by the TLS provider's generator, which also draws its slow first number here instead of in a request.
    pub(crate) fn seeded() -> Self {
        let mut seed = [0; 32];
        if rustls::crypto::aws_lc_rs::default_provider().secure_random.fill(&mut seed).is_err() {
            // Only ids depend on it: the clock and the process still tell most generators apart.
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
            seed[..16].copy_from_slice(&now.to_le_bytes());
            seed[16..20].copy_from_slice(&std::process::id().to_le_bytes());
        }
        Self::from_seed(seed)
    }

    pub(crate) fn from_seed(seed: [u8; 32]) -> Self {
        let (words, _) = seed.as_chunks();
        // A weak seed spreads over all bits (splitmix64), which also keeps away from the state of zeros that is never left.
        let mut mixed = 0_u64;
        Self(Cell::new(std::array::from_fn(|i| {
            mixed = mixed.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ u64::from_le_bytes(words[i]);
            let step = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let step = (step ^ step >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            step ^ step >> 31
        })))
    }

    fn next(&self) -> u64 {
        let [mut a, mut b, mut c, mut d] = self.0.get();
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let t = b << 17;
        c ^= a;
        d ^= b;
        b ^= c;
        a ^= d;
        c ^= t;
        d = d.rotate_left(45);
        self.0.set([a, b, c, d]);
        result
    }

    /// An id that is not zero.
    pub(crate) fn span_id(&self) -> u64 {
        loop {
            match self.next() {
                0 => {}
                id => return id,
            }
        }
    }

    /// An id whose two halves are not zero.
    pub(crate) fn trace_id(&self) -> u128 {
        u128::from(self.span_id()) << 64 | u128::from(self.span_id())
    }
}

/// Whether a trace without a parent's decision is sampled: by its id, so that everyone with this ratio decides alike
/// (OpenTelemetry's TraceIdRatioBased).
pub(crate) fn ratio_samples(trace_id: u128, ratio: f64) -> bool {
    let bound = (ratio.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64;
    (trace_id as u64) >> 1 < bound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_within_and_between_generators() {
        let (a, b) = (IdGenerator::seeded(), IdGenerator::seeded());
        let ids: std::collections::HashSet<u128> = (0..500).flat_map(|_| [a.trace_id(), b.trace_id()]).collect();
        assert_eq!(ids.len(), 1000);
    }

    #[test]
    fn a_zero_seed_still_gives_ids() {
        let ids = IdGenerator::from_seed([0; 32]);
        assert_ne!(ids.span_id(), ids.span_id());
    }

    #[test]
    fn the_ratio_is_kept() {
        let ids = IdGenerator::from_seed([7; 32]);
        let sampled = |ratio| (0..20_000).filter(|_| ratio_samples(ids.trace_id(), ratio)).count();
        assert_eq!((sampled(0.0), sampled(1.0)), (0, 20_000));
        let tenth = sampled(0.1);
        assert!((1_800..2_200).contains(&tenth), "{tenth} of 20,000 sampled at 0.1");
    }
}
