//! Memory that is free, and that the allocator keeps. It looks at what a thread has freed when that thread asks for more: a worker
//! whose burst is over asks for nothing, and would keep all that the burst took.
#![allow(unsafe_code)] // The allocator's one function for it is C's.

/// Gives the kernel what this thread has freed: what was not wanted again for a second or, `at_once`, all of it.
pub(crate) fn give_back(at_once: bool) {
    // SAFETY: takes no pointer and moves nothing that is in use. It is made for the thread that calls; one that has allocated
    // nothing by this allocator (a test's, with another) has no heap, for which it does nothing.
    unsafe { libmimalloc_sys::mi_collect(at_once) }
}
