//! HTTP/2 (RFC 9113) on the h2 crate, driven directly: both ends of a connection, and the pumping of bodies.
//!
//! Windows are budgets: a connection to an endpoint carries at most [`MAX_STREAMS`] streams, and its connection window holds
//! every one of their stream windows. So streams that nobody reads can fill their own windows only, never the connection's, and a
//! stream beside them is never held up by flow control.

use remora_model::HttpLimits;

use super::spelling::MAX_TARGET;

mod client;
pub(crate) mod keep_alive;
mod pump;
mod received;
mod server;
mod streams;
mod written;

pub(crate) use client::{Named, Sender, connect, informational, request, response_parts};
pub(crate) use pump::pump;
pub(crate) use server::serve;

/// Streams one connection to an endpoint carries at a time. A connection's window has room for so many streams' windows.
pub(crate) const MAX_STREAMS: u32 = 100;

/// What the h2 crate lets small frames cost, for a connection that carries many clients' streams: no end of it. It reckons those that
/// nobody has taken, which are taken as they come ([`H2Body`](crate::http::body::H2Body)), but also those of streams that were
/// reset, and these for good: a connection that lives for days would end by them.
const SHARED_FRAMES: usize = usize::MAX;

/// Bytes of a stream that the h2 crate holds until its peer takes them: the peer's window may be large, and it need not read.
const SEND_BUFFER: usize = 32 * 1024;

/// Between our own sidecars, whatever HTTP/1 head one of them takes must reach the other: a field counts 32 bytes more in a
/// list, and the hop adds the version, the spelling and the trace, and to a target that no URI has what its other form takes.
fn max_header_list(limits: &HttpLimits, hop: bool) -> u32 {
    limits.header_bytes + if hop { limits.headers * 32 + 4 * 1024 + 3 * MAX_TARGET as u32 } else { 0 }
}
