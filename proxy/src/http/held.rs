//! Parts of a body that came while there was no room for them.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// A part below this takes more memory than its bytes: it is joined with those beside it. From here on the h2 crate counts frames
/// by their bytes alone.
pub(super) const SMALL: usize = 256;

/// Bytes to which small parts are joined at most.
pub(super) const JOINED: usize = 16 * 1024;

/// Parts in their order. Large ones stay what they are, small ones are joined: so a byte takes a byte, however it came.
#[derive(Debug, Default)]
pub(super) struct Held {
    parts: VecDeque<Bytes>,
    /// The small ones behind all of these.
    joined: BytesMut,
}

impl Held {
    /// Appends a part; whether it was joined with one before.
    pub(super) fn push(&mut self, part: Bytes) -> bool {
        let small = part.len() < SMALL;
        if !self.joined.is_empty() && (!small || self.joined.len() + part.len() > JOINED) {
            self.parts.push_back(std::mem::take(&mut self.joined).freeze());
        }
        let joined = small && !self.joined.is_empty();
        if small {
            self.joined.extend_from_slice(&part);
        } else {
            self.parts.push_back(part);
        }
        joined
    }

    /// Takes the first.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let joined = || (!self.joined.is_empty()).then(|| std::mem::take(&mut self.joined).freeze());
        self.parts.pop_front().or_else(joined)
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.joined.is_empty()
    }

    /// Bytes of all.
    pub(super) fn size(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum::<usize>() + self.joined.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_parts_are_joined_and_large_ones_are_not_copied() {
        let mut held = Held::default();
        let large = Bytes::from(vec![b'l'; SMALL]);
        let mut all = Vec::new();
        for part in [&b"a"[..], b"bc", &large, b"d", &large, &large] {
            all.extend_from_slice(part);
            let joined = held.push(if part.len() < SMALL { Bytes::copy_from_slice(part) } else { large.clone() });
            assert_eq!(joined, part == b"bc");
        }
        all.extend([b'e'; JOINED + 1]);
        // All but the first, and the first that finds no room with it.
        assert_eq!((0..=JOINED).filter(|_| held.push(Bytes::from_static(b"e"))).count(), JOINED - 1);
        assert_eq!(held.size(), all.len());
        let parts: Vec<Bytes> = std::iter::from_fn(|| held.pop()).collect();
        let sizes: Vec<usize> = parts.iter().map(Bytes::len).collect();
        assert_eq!(sizes, [3, SMALL, 1, SMALL, SMALL, JOINED, 1]);
        assert_eq!(parts.concat(), all);
        assert!([1, 3, 4].iter().all(|&at| parts[at].as_ptr() == large.as_ptr()));
        assert!(held.is_empty() && held.size() == 0);
    }
}
