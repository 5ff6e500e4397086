//! Writes messages (RFC 9112). The framing is told, never taken from the fields; names are written as they came.

use bytes::{BufMut, BytesMut};
use http::header::{self, HeaderMap, HeaderName};
use http::{Method, StatusCode, Version};

use super::framing::Framing;
use crate::http::spelling::Spelling;
use crate::http::{RequestHead, ResponseHead, trailers};

/// What stands behind a chunk's data.
pub const CHUNK_END: &[u8] = b"\r\n";

/// Bytes that most heads are shorter than.
const HEAD: usize = 1024;

/// Appends the head of a request: authority form for CONNECT, absolute form where the head has a scheme that HTTP/1 named, else origin
/// form. The authority is written into Host, and the upgrade that the head asks for into its fields. Whether it may log in the
/// connection, and not itself alone, so that others' requests must not follow on it.
///
/// # Panics
/// A request cannot last until its connection ends.
pub fn request(out: &mut BytesMut, head: &RequestHead, framing: Framing) -> bool {
    assert_ne!(framing, Framing::UntilClose, "a request ends before its connection");
    out.reserve(HEAD);
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.put_u8(b' ');
    let path = head.spelling.target().unwrap_or(head.path.as_str().as_bytes());
    match (&head.scheme, &head.authority) {
        (_, Some(authority)) if head.method == Method::CONNECT => out.extend_from_slice(authority.as_str().as_bytes()),
        // HTTP/2 names a scheme in every request.
        (Some(scheme), Some(authority)) if head.version != Version::HTTP_2 => {
            for part in [scheme.as_str(), "://", authority.as_str()] {
                out.extend_from_slice(part.as_bytes());
            }
            out.extend_from_slice(if head.path == "*" { b"" } else { path });
        }
        _ => target(out, path),
    }
    // Chunks are HTTP/1.1's.
    let old = head.version == Version::HTTP_10 && framing != Framing::Chunked;
    out.extend_from_slice(if old { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" });
    let mut writer = Writer { out, spelling: &head.spelling, length: request_length(head, framing) };
    let host = head.authority.as_ref().map(|authority| authority.as_str().as_bytes());
    if !head.headers.contains_key(header::HOST) {
        match host {
            Some(host) => writer.field(&header::HOST, host),
            // HTTP/2 may name nobody; HTTP/1.1 must say so (RFC 9112 section 3.2).
            None if !old => writer.field(&header::HOST, b""),
            None => {}
        }
    }
    let (mut host_written, mut logs_in, mut te) = (false, false, false);
    for (name, value) in &head.headers {
        match (name, host) {
            (&header::HOST, Some(host)) => {
                if !host_written {
                    writer.field(name, host);
                }
                host_written = true;
            }
            (&header::UPGRADE, _) => {}
            (&header::TE, _) => {
                te = true;
                writer.field(name, value.as_bytes());
            }
            (&header::AUTHORIZATION | &header::PROXY_AUTHORIZATION, _) => {
                logs_in |= logs_connection_in(value.as_bytes());
                writer.end_to_end(name, value.as_bytes());
            }
            _ => writer.end_to_end(name, value.as_bytes()),
        }
    }
    writer.length();
    // Whoever sends them names them there (RFC 9110 sections 7.8 and 10.1.4).
    let options: Option<&[u8]> = match (head.upgrade.is_some(), te) {
        (true, true) => Some(b"upgrade, te"),
        (true, false) => Some(b"upgrade"),
        (false, true) => Some(b"te"),
        (false, false) => None,
    };
    if let Some(options) = options {
        writer.field(&header::CONNECTION, options);
    }
    if let Some(protocol) = &head.upgrade {
        writer.field(&header::UPGRADE, protocol.as_bytes());
    }
    writer.end(framing);
    logs_in
}

/// Whether credentials are of a scheme by which servers know a connection's user from then on, against all that HTTP says (RFC 4559 section 6).
fn logs_connection_in(credentials: &[u8]) -> bool {
    let scheme = credentials.split(|byte| *byte == b' ').next().unwrap_or_default();
    [&b"Negotiate"[..], b"NTLM"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
}

fn target(out: &mut BytesMut, path: &[u8]) {
    if !path.starts_with(b"/") && path != b"*" {
        out.put_u8(b'/');
    }
    out.extend_from_slice(path);
}

fn request_length(head: &RequestHead, framing: Framing) -> Option<u64> {
    match framing {
        Framing::Length(length) => Some(length),
        // Said where it was said, and where a server expects a body (RFC 9110 section 8.6).
        Framing::Empty => {
            let expected = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
            (expected || head.headers.contains_key(header::CONTENT_LENGTH)).then_some(0)
        }
        Framing::Chunked | Framing::UntilClose => None,
    }
}

/// Appends the head of a response to a `downstream` that speaks 1.0 or 1.1. With `close` it says that the connection ends; so it does
/// whenever nothing else tells the end of the body: until close, or chunked towards HTTP/1.0, which knows no chunks.
pub fn response(
    out: &mut BytesMut,
    head: &ResponseHead,
    framing: Framing,
    close: bool,
    downstream: Version,
    head_asked: bool,
) {
    out.reserve(HEAD);
    let old = downstream == Version::HTTP_10;
    let framing = if old && framing == Framing::Chunked { Framing::UntilClose } else { framing };
    let close = close || framing == Framing::UntilClose;
    out.extend_from_slice(if old { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.put_u8(b' ');
    out.extend_from_slice(head.spelling.reason(head.status));
    out.extend_from_slice(b"\r\n");
    let interim = head.status.is_informational();
    let own_length = !interim && (head_asked || head.status == StatusCode::NOT_MODIFIED);
    let length = match framing {
        Framing::Length(length) => Some(length),
        Framing::Empty if !own_length && !interim && head.status != StatusCode::NO_CONTENT => Some(0),
        _ => None,
    };
    let mut writer = Writer { out, spelling: &head.spelling, length };
    // Whoever sends Upgrade names it in Connection (RFC 9110 section 7.8).
    let switching = head.status == StatusCode::SWITCHING_PROTOCOLS;
    let required = head.status == StatusCode::UPGRADE_REQUIRED && head.headers.contains_key(header::UPGRADE);
    for (name, value) in &head.headers {
        match *name {
            header::CONTENT_LENGTH if own_length && framing == Framing::Empty => writer.field(name, value.as_bytes()),
            header::UPGRADE if !switching && !required => {}
            _ => writer.end_to_end(name, value.as_bytes()),
        }
    }
    writer.length();
    if switching || required {
        writer.field(&header::CONNECTION, b"upgrade");
    }
    if close && !interim {
        writer.field(&header::CONNECTION, b"close");
    } else if old && !interim {
        writer.field(&header::CONNECTION, b"keep-alive");
    }
    writer.end(framing);
}

/// Appends the line before `len` bytes of data, behind which [`CHUNK_END`] stands. No data is no chunk: it would be the last.
pub fn chunk_head(out: &mut BytesMut, len: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    debug_assert!(len > 0, "an empty chunk ends the body");
    let significant = (usize::BITS - len.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..significant).rev() {
        out.put_u8(DIGITS[len >> (4 * digit) & 0xf]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends what ends a chunked body. The names of trailers are written as they came.
pub fn last_chunk(out: &mut BytesMut, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        let spelling = trailers::spelling(trailers);
        for (name, value) in trailers::fields(trailers) {
            write_field(out, &spelling, name, value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the fields of one head.
struct Writer<'a> {
    out: &'a mut BytesMut,
    spelling: &'a Spelling,
    /// Content-Length, until it is written.
    length: Option<u64>,
}

impl Writer<'_> {
    fn field(&mut self, name: &HeaderName, value: &[u8]) {
        write_field(self.out, self.spelling, name, value);
    }

    /// A field that came with the head, unless it belongs to the connection or says where the body ends.
    fn end_to_end(&mut self, name: &HeaderName, value: &[u8]) {
        match *name {
            header::CONTENT_LENGTH => self.length(),
            header::TRANSFER_ENCODING | header::CONNECTION => {}
            _ => self.field(name, value),
        }
    }

    fn length(&mut self) {
        if let Some(length) = self.length.take() {
            let mut digits = itoa::Buffer::new();
            self.field(&header::CONTENT_LENGTH, digits.format(length).as_bytes());
        }
    }

    fn end(mut self, framing: Framing) {
        self.length();
        if framing == Framing::Chunked {
            self.field(&header::TRANSFER_ENCODING, b"chunked");
        }
        self.out.extend_from_slice(b"\r\n");
    }
}

fn write_field(out: &mut BytesMut, spelling: &Spelling, name: &HeaderName, value: &[u8]) {
    spelling.write_name(out, name.as_str());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
