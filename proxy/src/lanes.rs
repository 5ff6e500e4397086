//! Eight bytes at a time, in one word.

/// One in each byte.
pub(crate) const ONES: u64 = 0x0101_0101_0101_0101;
/// The highest bit of each.
pub(crate) const HIGH: u64 = 0x80 * ONES;

/// The highest bit of each byte that is at least `bound`, which is from 1 to 0x80; the others say nothing. Bytes are below 0x80: so the sum
/// in one does not reach the next.
pub(crate) fn at_least(word: u64, bound: u8) -> u64 {
    debug_assert!(word & HIGH == 0 && (1..=0x80).contains(&bound));
    word + u64::from(0x80 - bound) * ONES
}
