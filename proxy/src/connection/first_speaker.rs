//! Who speaks first, where the client is silent or says half a word.

use std::io;
use std::ops::RangeInclusive;
use std::pin::pin;
use std::time::Duration;

use bytes::Buf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Accepted, Carried, Dialled, HALF_A_WORD};
use crate::Error;
use crate::http::fields::Trust;
use crate::inspect::{self, Inspected, Limits};
use crate::io::{Downstream, Replay, Upstream};

/// How long a silent client whose upstream cannot be reached may still turn out to speak HTTP.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Bytes of a frame before its payload.
const SETTINGS_HEAD: usize = 9;
/// Beyond any connection's life.
const EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What was heard of a client until its upstream was reached.
enum Heard {
    /// It spoke; and the dial, where that is needed for it.
    Client(io::Result<Inspected>, Option<Dialled>),
    /// Nothing that tells.
    Nothing(Dialled),
}

impl Accepted {
    /// The client is silent, or has said half a word: dial, and let whoever speaks next decide.
    pub(super) async fn first_speaker(mut self, mut io: Replay<Downstream>, trust: Trust) -> Option<Carried> {
        let mut dialled = None;
        // Bytes of the prefix that the upstream has seen.
        let mut sent = 0;
        let spoken = tokio::select! {
            spoken = self.who_speaks(&mut io, &mut dialled, &mut sent) => spoken,
            () = self.unwanted() => return None,
        };
        let inspected = match spoken {
            Ok(Ok(inspected)) => inspected,
            Ok(Err(error)) => return self.broken(&error),
            Err(error) => return self.fail(&error),
        };
        match (inspected, io.stream) {
            // A sidecar whose hello was late.
            (Inspected::Tls(hello), Downstream::Plain(stream)) if hello.is_mesh() && self.terminates() => {
                drop(dialled);
                Box::pin(self.accept_mesh(Replay { prefix: io.prefix, stream })).await
            }
            (inspected, stream) => {
                let mut io = Replay { prefix: io.prefix, stream };
                // A client that speaks HTTP takes its own way, and the dial is dropped: what it has seen is no request yet.
                let http = matches!(inspected, Inspected::Http1 | Inspected::Http2);
                match dialled.filter(|_| !http) {
                    Some(dialled) => {
                        io.prefix.advance(sent);
                        self.relay(io, dialled)
                    }
                    None => Box::pin(self.inspected(io, inspected, trust)).await,
                }
            }
        }
    }

    /// Dials, and says what the client speaks; a server that speaks before that is known makes it TCP.
    async fn who_speaks(
        &self,
        io: &mut Replay<Downstream>,
        dialled: &mut Option<Dialled>,
        sent: &mut usize,
    ) -> Result<io::Result<Inspected>, Error> {
        match self.dial_listening(io).await? {
            Heard::Client(inspected, upstream) => {
                *dialled = upstream;
                Ok(inspected)
            }
            Heard::Nothing(upstream) => {
                let (upstream, ..) = dialled.insert(upstream);
                Ok(self.speaks_first(io, upstream, sent).await)
            }
        }
    }

    /// Dials, and hears what the client says meanwhile.
    async fn dial_listening(&self, io: &mut Replay<Downstream>) -> Result<Heard, Error> {
        let mut inspected = pin!(inspect::inspect(io, Limits { first_byte: None, complete: EVER, unclear: EVER }));
        let mut dial = pin!(self.dial_tcp());
        let upstream = tokio::select! {
            biased;
            inspected = &mut inspected => {
                let inspected = inspected.map(|inspected| self.as_declared(inspected));
                let bytes = match &inspected {
                    Ok(Inspected::Tcp | Inspected::Eof) => true,
                    Ok(Inspected::Tls(hello)) => !(hello.is_mesh() && self.terminates()),
                    _ => false,
                };
                // The dial under way is the one it needs.
                let upstream = if bytes { Some(dial.await?) } else { None };
                return Ok(Heard::Client(inspected, upstream));
            }
            upstream = &mut dial => upstream,
        };
        match upstream {
            Ok(upstream) => Ok(Heard::Nothing(upstream)),
            // Who speaks HTTP after all is told why; for all others the connection ends.
            Err(error) => {
                let last = tokio::time::timeout(LAST_WORD, inspected).await;
                match last.map(|inspected| inspected.map(|inspected| self.as_declared(inspected))) {
                    Ok(Ok(http @ (Inspected::Http1 | Inspected::Http2))) => Ok(Heard::Client(Ok(http), None)),
                    _ => Err(error),
                }
            }
        }
    }

    /// Waits for either side. What the client has said is half a word at most: the server gets to see it, since it may know
    /// what that is; if it waits for more, so do we, and the client may still turn out to speak HTTP.
    async fn speaks_first(
        &self,
        io: &mut Replay<Downstream>,
        upstream: &mut Replay<Upstream>,
        sent: &mut usize,
    ) -> io::Result<Inspected> {
        let complete = self.chain.chain().detect_timeout;
        let mut patience = HALF_A_WORD;
        loop {
            if *sent < io.prefix.len() {
                let unsent = &io.prefix[*sent..];
                if upstream.stream.write_all(unsent).await.is_err() || upstream.stream.flush().await.is_err() {
                    // The relay finds out the same, and tells.
                    return Ok(Inspected::Tcp);
                }
                *sent = io.prefix.len();
            }
            tokio::select! {
                biased;
                inspected = inspect::inspect(io, Limits { first_byte: None, complete, unclear: patience }) => match inspected {
                    Ok(Inspected::Undecided) => patience = (patience * 2).min(complete),
                    inspected => return inspected.map(|inspected| self.as_declared(inspected)),
                },
                // Its first bytes stay in the prefix for the relay.
                read = read_more(upstream), if !is_settings(&upstream.prefix) => {
                    if !matches!(read, Ok(1..)) || !begins_settings(&upstream.prefix) {
                        return Ok(Inspected::Tcp);
                    }
                }
            }
        }
    }
}

/// Reads what the upstream says; nothing more within a while of its first byte is zero bytes.
async fn read_more(Replay { prefix, stream }: &mut Replay<Upstream>) -> io::Result<usize> {
    if prefix.is_empty() {
        return stream.read_buf(prefix).await;
    }
    tokio::time::timeout(HALF_A_WORD, stream.read_buf(prefix)).await.unwrap_or(Ok(0))
}

/// Whether it is, or may become, the SETTINGS that many HTTP/2 servers send before they have heard their client (RFC 9113, sections
/// 3.4 and 6.5). That makes the client none that may pass unread: its requests would carry whatever header it likes.
fn begins_settings(bytes: &[u8]) -> bool {
    // The length, below 64 KiB; the type; no flag; stream 0.
    let head: [RangeInclusive<u8>; SETTINGS_HEAD] = [0..=0, 0..=255, 0..=255, 4..=4, 0..=0, 0..=0, 0..=0, 0..=0, 0..=0];
    let whole = bytes.len() < SETTINGS_HEAD || u16::from_be_bytes([bytes[1], bytes[2]]).is_multiple_of(6);
    whole && bytes.iter().zip(&head).all(|(byte, allowed)| allowed.contains(byte))
}

fn is_settings(bytes: &[u8]) -> bool {
    bytes.len() >= SETTINGS_HEAD && begins_settings(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_told_from_greetings() {
        let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";
        for end in 0..=settings.len() {
            assert!(begins_settings(&settings[..end]), "{end}");
            assert_eq!(is_settings(&settings[..end]), end >= SETTINGS_HEAD, "{end}");
        }
        let mysql = b"\x4a\0\0\0\x0a8.0.36";
        let others = [&mysql[..], b"220 mail ESMTP\r\n", b"\0\0\x07\x04\0\0\0\0\0", b"\0\0\x06\x04\x01\0\0\0\0"];
        assert!(others.iter().all(|greeting| !begins_settings(greeting)));
    }
}
