//! Who speaks first, where the client is silent or says half a word.

use std::io;
use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::relay::Dialled;
use super::{Accepted, Carried, HALF_A_WORD, broken, is_quiet};
use crate::http::fields::Trust;
use crate::inspect::{self, Inspected, LIMIT, Limits};
use crate::io::{Downstream, Replay};
use crate::telemetry::DownstreamProtocol;
use crate::{Error, socket};

/// How long a silent client whose upstream cannot be reached may still turn out to speak HTTP.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Bytes of a frame before its payload.
const FRAME_HEAD: usize = 9;
/// What follows the length in the head of SETTINGS: the type, no flag, stream 0.
const SETTINGS: [u8; 6] = [4, 0, 0, 0, 0, 0];
/// Beyond any connection's life.
const EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What was heard of a client until its upstream was reached.
enum Heard {
    /// It spoke; and the dial, where that is needed for it.
    Client(Inspected, Option<Dialled>),
    /// Nothing that tells.
    Nothing(Dialled),
}

impl Accepted {
    /// The client is silent, or has said half a word: dial, and let whoever speaks next decide.
    pub(super) async fn first_speaker(mut self, mut io: Replay<Downstream>, trust: Trust) -> Option<Carried> {
        let mut dialled = None;
        // Bytes of the prefix that the upstream has seen.
        let mut shown = 0;
        let who_speaks = async |io: &mut _| self.who_speaks(io, &mut dialled, &mut shown).await;
        let inspected = self.wanted(&mut io, Duration::ZERO, who_speaks).await;
        // On suspicion it was nobody's connection yet: of clients that are silent before they speak HTTP none holds a place.
        let inspected = inspected.and_then(|inspected| match &mut dialled {
            Some((.., counted)) if self.is_bytes(&inspected) => counted.enter(self.tcp_cluster()?).map(|()| inspected),
            _ => Ok(inspected),
        });
        let inspected = match inspected {
            Ok(inspected) => inspected,
            Err(error) => {
                if let Some((upstream, picked, _)) = dialled.filter(|_| !is_quiet(&io.prefix, &error)) {
                    // The server takes it for no proper end either.
                    let _ = socket::abort_on_drop(upstream.stream.tcp());
                    self.reaches(picked.address(), shown);
                }
                return self.fail(&io.prefix, io.stream.tcp(), &error);
            }
        };
        match (inspected, io.stream) {
            // A sidecar whose hello was late.
            (Inspected::Tls(hello), Downstream::Plain(stream)) if hello.is_mesh() && self.terminates() => {
                drop(dialled);
                Box::pin(self.accept_mesh(Replay { prefix: io.prefix, stream })).await
            }
            (inspected, stream) => {
                let io = Replay { prefix: io.prefix, stream };
                // A client that speaks HTTP takes its own way, and the dial is dropped: what it has seen is no request yet.
                let http = matches!(inspected, Inspected::Http1 | Inspected::Http2);
                match dialled.filter(|_| !http) {
                    Some(dialled) => self.relay(io, dialled, shown),
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
        shown: &mut usize,
    ) -> Result<Inspected, Error> {
        let (upstream, ..) = match dialled {
            Some(dialled) => dialled,
            None => match self.dial_listening(io).await? {
                Heard::Client(inspected, upstream) => {
                    *dialled = upstream;
                    return Ok(inspected);
                }
                Heard::Nothing(upstream) => dialled.insert(upstream),
            },
        };
        let bounds = (self.chain.chain().detect_timeout, self.idle());
        speaks_first(io, upstream, shown, bounds).await.map(|inspected| self.as_declared(inspected))
    }

    /// Dials, and hears what the client says meanwhile.
    async fn dial_listening(&self, io: &mut Replay<Downstream>) -> Result<Heard, Error> {
        let mut inspected = pin!(self.inspect(io, Limits { first_byte: None, complete: EVER, unclear: EVER }));
        let mut dial = pin!(self.dial_tcp(None));
        let upstream = tokio::select! {
            biased;
            inspected = &mut inspected => {
                let inspected = inspected?;
                if !self.is_bytes(&inspected) {
                    return Ok(Heard::Client(inspected, None));
                }
                self.telemetry.protocol(DownstreamProtocol::Tcp);
                // The dial under way is the one it needs.
                return Ok(Heard::Client(inspected, Some(dial.await?)));
            }
            upstream = &mut dial => upstream,
        };
        match upstream {
            Ok(upstream) => Ok(Heard::Nothing(upstream)),
            // Who speaks HTTP after all is told why; for all others the connection ends.
            Err(error) => match tokio::time::timeout(LAST_WORD, inspected).await {
                Ok(Ok(http @ (Inspected::Http1 | Inspected::Http2))) => Ok(Heard::Client(http, None)),
                _ => Err(error),
            },
        }
    }
}

/// Waits for either side. What the client has said is half a word at most: the server gets to see it, since it may know
/// what that is; if it waits for more, so do we, and the client may still turn out to speak HTTP. Bounded are half a ClientHello,
/// and the time in which neither says anything (zero: no bound). Cut short, it may be asked again.
async fn speaks_first<C, S>(
    client: &mut Replay<C>,
    server: &mut Replay<S>,
    shown: &mut usize,
    (complete, idle): (Duration, Duration),
) -> Result<Inspected, Error>
where
    C: AsyncRead + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = Limits { first_byte: None, complete, unclear: HALF_A_WORD };
    loop {
        if show(&client.prefix, &mut server.stream, shown).await.is_err() {
            // The relay finds out the same, and tells.
            return Ok(Inspected::Tcp);
        }
        tokio::select! {
            biased;
            inspected = inspect::inspect_more(client, limits) => match inspected {
                Ok(Inspected::Undecided) => {}
                inspected => return inspected.map_err(|error| broken(&error)),
            },
            // What it says stays in the prefix for the relay.
            read = read_more(server), if server.prefix.len() < LIMIT => match read {
                Ok(1..) if begins_settings(&server.prefix) => {}
                Ok(_) => return Ok(Inspected::Tcp),
                // A broken connection says so once.
                Err(error) => return Err(Error::ResponseTruncated(error.to_string())),
            },
            () = tokio::time::sleep(idle), if !idle.is_zero() => return Err(Error::IdleTimeout(idle)),
        }
    }
}

/// Writes what the server has not seen yet.
async fn show(said: &[u8], server: &mut (impl AsyncWrite + Unpin), shown: &mut usize) -> io::Result<()> {
    while *shown < said.len() {
        match server.write(&said[*shown..]).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => *shown += n,
        }
    }
    server.flush().await
}

/// Reads what the server says; nothing more within a while of what may become SETTINGS is zero bytes.
async fn read_more<S: AsyncRead + Unpin>(Replay { prefix, stream }: &mut Replay<S>) -> io::Result<usize> {
    if !(1..FRAME_HEAD).contains(&prefix.len()) {
        return stream.read_buf(prefix).await;
    }
    tokio::time::timeout(HALF_A_WORD, stream.read_buf(prefix)).await.unwrap_or(Ok(0))
}

/// Whether it is, or may become, the SETTINGS that many HTTP/2 servers send before they have heard their client (RFC 9113, sections
/// 3.4 and 6.5). That makes the client none that may pass unread: its requests would carry whatever header it likes.
fn begins_settings(bytes: &[u8]) -> bool {
    let (length, rest) = bytes.split_at(bytes.len().min(FRAME_HEAD - SETTINGS.len()));
    // Of whole settings, and below 64 KiB.
    let whole = rest.is_empty() || u16::from_be_bytes([length[1], length[2]]).is_multiple_of(6);
    whole && length.first().is_none_or(|high| *high == 0) && rest.iter().zip(&SETTINGS).all(|(byte, head)| byte == head)
}

#[cfg(test)]
mod tests;
