//! HTTP/2 (RFC 9113) on the h2 crate, driven directly: both ends of a connection, and the pumping of bodies.
//!
//! Windows are budgets: a connection to an endpoint carries at most [`MAX_STREAMS`] streams, and its connection window holds
//! every one of their stream windows. So streams that nobody reads can fill their own windows only, never the connection's, and a
//! stream beside them is never held up by flow control.

use http::HeaderMap;
use remora_model::HttpLimits;

use super::h1::parse::{InvalidHead, Limits};
use super::spelling::MAX_TARGET;

mod blocks;
mod client;
mod floods;
mod frames;
pub(crate) mod keep_alive;
mod pump;
mod received;
mod server;
mod streams;
mod takes;
mod uploads;
mod watched;

pub(crate) use client::{Connection, Named, Sender, connect, informational, request, response_parts};
pub(crate) use pump::pump;
pub(crate) use received::strip;
pub(crate) use server::serve;
pub(crate) use takes::Takes;
pub(crate) use uploads::Upload;

/// Streams one connection to an endpoint carries at a time. A connection's window has room for so many streams' windows.
pub(crate) const MAX_STREAMS: u32 = 100;

/// What the h2 crate lets small frames cost, for a connection that carries many clients' streams: no end of it. It reckons those that
/// nobody has taken, which are taken as they come ([`H2Body`](crate::http::body::H2Body)), but also those of streams that were
/// reset, and these for good: a connection that lives for days would end by them.
const SHARED_FRAMES: usize = usize::MAX;

/// Bytes of a stream that the h2 crate holds until its peer takes them: the peer's window may be large, and it need not read.
const SEND_BUFFER: usize = 32 * 1024;

/// Fields that a hop may add.
const HOP_FIELDS: u32 = 16;

/// As many times as much as a list of fields may take is read. Of trailers the h2 crate leaves out what is beyond that, without a word; so
/// they are asked how large they are, and such a list was, with what is left of it, larger than it may be. But for one field that is
/// larger than all that may be: see [`block_bytes`].
const READ: u32 = 4;
/// The same between our own sidecars, whose connection carries the requests of many clients. HPACK may take 28 bits for a byte of a field
/// (RFC 7541 appendix B): a list that may be is to have no block beyond [`block_bytes`], whatever its bytes.
const READ_OF_HOP: u32 = 7;

/// How large a list of fields may be, in bytes as RFC 9113 section 6.5.2 counts them.
///
/// Between our own sidecars, whatever HTTP/1 head one of them takes must reach the other: a field counts 32 bytes more in a
/// list, and the hop adds the version, the spelling and the trace, and to a target that no URI has what its other form takes.
pub(crate) fn field_limits(limits: &HttpLimits, hop: bool) -> Limits {
    let HttpLimits { header_bytes, headers, .. } = *limits;
    let (bytes, fields) = match hop {
        true => (header_bytes + headers * 32 + 4 * 1024 + 3 * MAX_TARGET as u32, headers + HOP_FIELDS),
        false => (header_bytes, headers),
    };
    Limits { head_bytes: bytes as usize, headers: fields as usize }
}

/// What of a list of fields is read, by the same count, on a `hop` where our own sidecar is the peer.
fn read_bytes(limits: &Limits, hop: bool) -> u32 {
    limits.head_bytes as u32 * if hop { READ_OF_HOP } else { READ }
}

/// The bound of the block of trailers as it comes, in frames. A field that alone takes what is read beyond what may be has no shorter code:
/// but for its name, which HPACK's table may hold, with all of its 4,096 bytes, it is in the block, a byte by at least 5 bits (RFC 7541
/// appendix B). Pseudo-header fields, which the h2 crate counts and drops, are small, and each comes once.
fn block_bytes(limits: &Limits, hop: bool) -> usize {
    (read_bytes(limits, hop) as usize - limits.head_bytes - 4_096 - 256) / 8 * 5
}

/// What a list of fields takes (RFC 9113 section 6.5.2).
pub(crate) fn list_bytes(fields: &HeaderMap) -> usize {
    fields.iter().map(|(name, value)| field_bytes(name.as_str(), value.len())).sum()
}

fn field_bytes(name: &str, value: usize) -> usize {
    name.len() + value + 32
}

/// Asks of trailers what is asked of HTTP/1's.
///
/// # Errors
/// They are larger or more than `limits` has.
pub(crate) fn check_trailers(trailers: &HeaderMap, limits: &Limits) -> Result<(), InvalidHead> {
    if list_bytes(trailers) > limits.head_bytes {
        return Err(InvalidHead::TooLarge(limits.head_bytes));
    }
    if trailers.len() > limits.headers {
        return Err(InvalidHead::TooManyFields(limits.headers));
    }
    Ok(())
}
