//! Who waits for something is counted for as long.

use std::cell::Cell;

/// One that waits.
pub(crate) struct Waits<'a>(&'a Cell<u32>);

impl<'a> Waits<'a> {
    /// Counts it until this is dropped.
    pub(crate) fn new(waiting: &'a Cell<u32>) -> Self {
        waiting.set(waiting.get() + 1);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
