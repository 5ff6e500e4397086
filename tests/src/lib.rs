//! The end-to-end harness: pods as network namespaces, with the real binaries in them.
//!
//! * [`netns`] makes and removes the namespaces and the bridge that joins them.
//!
//! Everything needs root. Each guard undoes what it made when it is dropped, also while a test panics; what a killed run left
//! behind is swept by the next one.

pub mod netns;
