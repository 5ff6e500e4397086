//! Reads a TLS ClientHello (RFC 8446 section 4.1.2) out of the first records of a connection.

use std::borrow::Cow;
use std::sync::Arc;

use super::{LIMIT, Verdict};
use crate::tls;

/// A record that carries handshake messages (RFC 8446 section 5.1).
pub(super) const HANDSHAKE_RECORD: u8 = 22;
/// The first handshake message of a client.
const CLIENT_HELLO: u8 = 1;
/// The most a record may carry.
const MAX_RECORD: usize = 1 << 14;
const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// What a ClientHello says that matters here. Both empty where it is malformed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The host name asked for (RFC 6066 section 3): visible ASCII, 1 to 255 bytes, in lower case; `None` if absent or anything else.
    pub sni: Option<Arc<str>>,
    /// The protocols offered (RFC 7301), in the client's order.
    pub alpn: Vec<Vec<u8>>,
}

impl ClientHello {
    /// Whether it comes from a sidecar: one of the mesh's protocols is offered.
    pub fn is_mesh(&self) -> bool {
        self.alpn.iter().any(|protocol| tls::is_mesh_alpn(protocol))
    }
}

/// Judges bytes of which the first is [`HANDSHAKE_RECORD`].
pub(super) fn classify(prefix: &[u8]) -> Verdict {
    // What lies beyond the limit must not count, or the size of the last read would decide.
    let prefix = &prefix[..prefix.len().min(LIMIT)];
    if prefix.iter().zip(0..=RECORD_HEADER).any(|(&byte, at)| !may_begin_tls(byte, at)) {
        return Verdict::Tcp;
    }
    if prefix.len() <= RECORD_HEADER {
        return Verdict::NeedMore;
    }
    if record_length(prefix).is_none() {
        return Verdict::Tcp;
    }
    match message(prefix) {
        Message::Whole(body) => Verdict::Tls(parse(&body).unwrap_or_default()),
        Message::Malformed => Verdict::Tls(ClientHello::default()),
        Message::Incomplete if prefix.len() == LIMIT => Verdict::Tls(ClientHello::default()),
        Message::Incomplete => Verdict::NeedMore,
    }
}

/// Whether `byte` may stand at `at` where TLS begins: handshake record, version 3.0 to 3.4, a length, ClientHello.
fn may_begin_tls(byte: u8, at: usize) -> bool {
    match at {
        0 => byte == HANDSHAKE_RECORD,
        1 => byte == 3,
        2 => byte <= 4,
        5 => byte == CLIENT_HELLO,
        _ => true,
    }
}

/// The length of the handshake record whose header begins `bytes`; `None` if it is not one.
fn record_length(bytes: &[u8]) -> Option<usize> {
    let &[HANDSHAKE_RECORD, 3, _, high, low, ..] = bytes else { return None };
    let length = usize::from(u16::from_be_bytes([high, low]));
    (1..=MAX_RECORD).contains(&length).then_some(length)
}

enum Message<'a> {
    Whole(Cow<'a, [u8]>),
    Incomplete,
    Malformed,
}

/// The body of the first handshake message, which may be spread over several records.
fn message(mut bytes: &[u8]) -> Message<'_> {
    let mut joined = Cow::Borrowed(&[][..]);
    while bytes.len() >= RECORD_HEADER {
        let Some(length) = record_length(bytes) else { return Message::Malformed };
        let record = &bytes[RECORD_HEADER..];
        let (fragment, rest) = record.split_at(length.min(record.len()));
        if joined.is_empty() {
            joined = Cow::Borrowed(fragment);
        } else {
            joined.to_mut().extend_from_slice(fragment);
        }
        if let &[_, a, b, c, ..] = &*joined {
            let end = MESSAGE_HEADER + u32::from_be_bytes([0, a, b, c]) as usize;
            if end > LIMIT {
                return Message::Malformed;
            }
            if joined.len() >= end {
                return Message::Whole(match joined {
                    Cow::Borrowed(all) => Cow::Borrowed(&all[MESSAGE_HEADER..end]),
                    Cow::Owned(all) => Cow::Owned(all[MESSAGE_HEADER..end].to_vec()),
                });
            }
        }
        bytes = rest;
    }
    Message::Incomplete
}

/// `None` where it is malformed.
fn parse(body: &[u8]) -> Option<ClientHello> {
    let mut body = Cursor(body);
    body.take(2 + 32)?; // legacy_version, random
    body.vector8()?; // legacy_session_id
    body.vector16()?; // cipher_suites
    body.vector8()?; // legacy_compression_methods
    let mut hello = ClientHello::default();
    if body.0.is_empty() {
        // TLS 1.2 allows a ClientHello without extensions.
        return Some(hello);
    }
    let mut extensions = body.vector16()?;
    let (mut seen_name, mut seen_alpn) = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.number16()?;
        let content = extensions.vector16()?;
        match kind {
            SERVER_NAME if !std::mem::replace(&mut seen_name, true) => hello.sni = server_name(content)?,
            ALPN if !std::mem::replace(&mut seen_alpn, true) => hello.alpn = protocols(content)?,
            // Twice is forbidden (RFC 8446 section 4.2): which of the two counts would be anyone's guess.
            SERVER_NAME | ALPN => return None,
            _ => {}
        }
    }
    Some(hello)
}

fn server_name(mut content: Cursor<'_>) -> Option<Option<Arc<str>>> {
    let mut list = content.vector16()?;
    while !list.0.is_empty() {
        let kind = list.take(1)?;
        let name = list.vector16()?.0;
        if kind == [0] {
            let usable = (1..=255).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic);
            let name = std::str::from_utf8(name).ok().filter(|_| usable);
            return Some(name.map(|name| name.to_ascii_lowercase().into()));
        }
    }
    Some(None)
}

fn protocols(mut content: Cursor<'_>) -> Option<Vec<Vec<u8>>> {
    let mut list = content.vector16()?;
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        protocols.push(list.vector8()?.0.to_vec());
    }
    Some(protocols)
}

/// Takes fields off the front of a message; `None` where it is too short.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn number16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn vector8(&mut self) -> Option<Self> {
        let length = self.take(1)?[0];
        self.take(length.into()).map(Self)
    }

    fn vector16(&mut self) -> Option<Self> {
        let length = self.number16()?;
        self.take(length.into()).map(Self)
    }
}
