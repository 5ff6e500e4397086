//! What a connection carries, told from its first bytes, which stay to be read again.
//!
//! [`classify`] is the pure judgement; [`inspect()`] feeds it from a connection, a bounded number of bytes in a bounded time.
//! Invariants: no byte is eaten; how the bytes are cut into reads never changes the verdict.
//!
//! Bias: what some server could take for HTTP/1 is HTTP/1, since bytes pass unfiltered; what else is not certainly HTTP or TLS
//! is TCP. Only bytes that can be nothing else are TLS, but then they stay TLS even when the ClientHello is malformed or too long:
//! without names in it, so that strict mTLS terminates (and refuses) it, and nobody takes it for the mesh's.

mod client_hello;
mod http1;

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::ready;
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, timeout, timeout_at};

pub use self::client_hello::ClientHello;
use crate::io::Replay;

/// The bytes after which a verdict must be there.
pub const LIMIT: usize = 16 * 1024;
/// What one read takes at most.
const READ: usize = 4096;

/// As much of the HTTP/2 connection preface (RFC 9113 section 3.4) as no other protocol begins with. The HTTP/2
/// connection waits for the rest, not the detection.
const HTTP2: &[u8] = b"PRI * HTTP/";

/// What some first bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not enough to be told.
    NeedMore,
    /// A TLS handshake, and what its ClientHello says.
    Tls(ClientHello),
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Anything else.
    Tcp,
}

/// What a connection carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspected {
    /// A TLS handshake, and what its ClientHello says.
    Tls(ClientHello),
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Anything else, or not enough bytes before the client's end.
    Tcp,
    /// The client has sent nothing yet.
    Silent,
    /// Not enough bytes in time: they may begin anything.
    Undecided,
    /// The client closed before it sent anything.
    Eof,
}

/// How long an inspection waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For the first byte, before the answer is [`Inspected::Silent`]; `None`: without bound.
    pub first_byte: Option<Duration>,
    /// From the first byte (or from now, if there is one already) to a verdict, before the answer is [`Inspected::Undecided`].
    pub complete: Duration,
    /// The same where the first byte is none of a TLS handshake, whose half nobody could make sense of.
    pub unclear: Duration,
}

/// Whether `prefix` begins as a TLS handshake does.
pub(crate) fn begins_tls(prefix: &[u8]) -> bool {
    prefix.first() == Some(&client_hello::HANDSHAKE_RECORD)
}

/// Tells what `prefix`, the first bytes of a connection, begins. Once it is not [`Verdict::NeedMore`], more bytes never
/// change it; at [`LIMIT`] bytes it is there.
pub fn classify(prefix: &[u8]) -> Verdict {
    match prefix {
        [] => Verdict::NeedMore,
        [client_hello::HANDSHAKE_RECORD, ..] => client_hello::classify(prefix),
        _ if prefix.starts_with(HTTP2) => Verdict::Http2,
        _ if HTTP2.starts_with(prefix) => Verdict::NeedMore,
        _ => http1::classify(prefix),
    }
}

/// Reads from `io` until it is clear what it carries. What was read is in the prefix, where it may be from the start.
/// Cancelling loses nothing; asking again continues.
///
/// # Errors
/// The connection broke.
pub async fn inspect<S: AsyncRead + Unpin>(io: &mut Replay<S>, limits: Limits) -> io::Result<Inspected> {
    if io.prefix.is_empty() {
        let first = read_more(io);
        let read = match limits.first_byte {
            Some(bound) => match timeout(bound, first).await {
                Ok(read) => read?,
                Err(_) => return Ok(Inspected::Silent),
            },
            None => first.await?,
        };
        if read == 0 {
            return Ok(Inspected::Eof);
        }
    }
    judge(io, limits).await
}

/// As [`inspect()`], where the bytes so far told nothing: the next are waited for without bound, and what is bounded begins with them.
///
/// # Errors
/// The connection broke.
pub(crate) async fn inspect_more<S: AsyncRead + Unpin>(io: &mut Replay<S>, limits: Limits) -> io::Result<Inspected> {
    if read_more(io).await? == 0 {
        return Ok(if io.prefix.is_empty() { Inspected::Eof } else { Inspected::Tcp });
    }
    judge(io, limits).await
}

async fn judge<S: AsyncRead + Unpin>(io: &mut Replay<S>, limits: Limits) -> io::Result<Inspected> {
    let mut deadline = None;
    loop {
        match classify(&io.prefix) {
            Verdict::Tls(hello) => return Ok(Inspected::Tls(hello)),
            Verdict::Http1 => return Ok(Inspected::Http1),
            Verdict::Http2 => return Ok(Inspected::Http2),
            Verdict::Tcp => return Ok(Inspected::Tcp),
            Verdict::NeedMore => {}
        }
        // Whole in the first read, as a rule: then the clock is never asked.
        let bound = if begins_tls(&io.prefix) { limits.complete } else { limits.unclear };
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + bound);
        let Ok(read) = timeout_at(deadline, read_more(io)).await else { return Ok(Inspected::Undecided) };
        if read? == 0 {
            // A client that ends in the middle: its bytes still go where it wanted them.
            return Ok(Inspected::Tcp);
        }
    }
}

/// Appends what the stream has to the prefix. Waits without a buffer: there may be many silent connections.
async fn read_more<S: AsyncRead + Unpin>(io: &mut Replay<S>) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut space = [MaybeUninit::uninit(); READ];
        let mut read = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut io.stream).poll_read(cx, &mut read))?;
        io.prefix.extend_from_slice(read.filled());
        Ok(read.filled().len()).into()
    })
    .await
}

#[cfg(test)]
mod tests;
