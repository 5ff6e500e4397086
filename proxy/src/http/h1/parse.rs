//! Reads heads (RFC 9112 sections 2 to 6), strictly: whatever another reader might take for something else is refused. Field
//! values are slices of the buffer that the head was read into.

use std::mem::MaybeUninit;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use httparse::Header;
use remora_model::HttpLimits;

use super::field_lines::Fields;
use super::framing::Framing;
pub use super::invalid::InvalidHead;
use super::{names, target};
use crate::http::spelling::{Form, Spelling};
use crate::http::{RequestHead, ResponseHead, trailers};

/// Empty lines that are ignored before a request (RFC 9112 section 2.2).
const MAX_EMPTY_LINES: usize = 2;
/// Fields whose places are found without allocation.
const INLINE_FIELDS: usize = 128;
/// The length of `HTTP/1.1 200`.
const STATUS_LINE: usize = 12;

/// What ends the lines of a head.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LineEnds {
    /// CRLF.
    Crlf,
    /// CRLF, or LF alone behind each of them (RFC 9112 section 2.2). Not some of both: a line feed that an application let into a
    /// field of a head with CRLF must not begin another field.
    CrlfOrLf,
}

/// How large a head, and trailers, may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the head with its line ends.
    pub head_bytes: usize,
    /// Field lines.
    pub headers: usize,
}

/// Envoy's: 60 KiB and 100 fields.
impl Default for Limits {
    fn default() -> Self {
        Self { head_bytes: 60 * 1024, headers: 100 }
    }
}

impl From<&HttpLimits> for Limits {
    fn from(limits: &HttpLimits) -> Self {
        Self { head_bytes: limits.header_bytes as usize, headers: limits.headers as usize }
    }
}

/// A request up to its body.
#[derive(Debug)]
pub struct ParsedRequest {
    /// The head, hop-by-hop fields included.
    pub head: Box<RequestHead>,
    /// Where its body ends.
    pub framing: Framing,
    /// Whether the client expects the connection to stay open.
    pub keep_alive: bool,
    /// Whether the client waits for 100 (Continue) before it sends the body.
    pub expect_continue: bool,
}

/// A response up to its body; also an informational one.
#[derive(Debug)]
pub struct ParsedResponse {
    /// The head, hop-by-hop fields included.
    pub head: ResponseHead,
    /// Where its body ends.
    pub framing: Framing,
    /// Whether another response may follow on the connection.
    pub keep_alive: bool,
    /// How long the server says to keep an idle connection open.
    pub idle_timeout: Option<Duration>,
}

/// What a response depends on in the request that it answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// HEAD: no body, whatever the fields say.
    pub head: bool,
    /// CONNECT: success makes the connection a tunnel.
    pub connect: bool,
    /// To upgrade: 101 is an answer.
    pub upgrade: bool,
}

impl Asked {
    /// What `head` asks.
    pub fn of(head: &RequestHead) -> Self {
        Self {
            head: head.method == Method::HEAD,
            connect: head.method == Method::CONNECT,
            upgrade: head.upgrade.is_some(),
        }
    }
}

/// Takes a request head off the front of `buf`; `None` until the whole of it has come. `scanned`, zero at first, is how much
/// was looked at already, so that a head which comes byte by byte costs no more.
///
/// # Errors
/// The head is refused. Where the next message begins is unknown then.
pub fn request(buf: &mut BytesMut, limits: &Limits, scanned: &mut usize) -> Result<Option<ParsedRequest>, InvalidHead> {
    let empty = empty_lines(buf);
    let Some(bytes) = split_head(buf, empty, LineEnds::Crlf, limits, scanned).map_err(|error| match error {
        InvalidHead::TooLarge(limit) if memchr::memchr(b'\n', &buf[empty..]).is_none_or(|line| line >= limit) => {
            InvalidHead::LineTooLong(limit)
        }
        error => error,
    })?
    else {
        return Ok(None);
    };
    with_fields(limits, |fields| request_head(&bytes, fields, limits)).map(Some)
}

fn request_head<'a>(
    bytes: &'a Bytes,
    fields: &mut [MaybeUninit<Header<'a>>],
    limits: &Limits,
) -> Result<ParsedRequest, InvalidHead> {
    let mut parsed = httparse::Request::new(&mut []);
    let status = parsed.parse_with_uninit_headers(bytes, fields);
    let status = status.map_err(|error| InvalidHead::from_parser(error, request_line_error(error, bytes), limits))?;
    let (httparse::Status::Complete(_), Some(method), Some(path), Some(version)) =
        (status, parsed.method, parsed.path, parsed.version)
    else {
        return Err(InvalidHead::RequestLine);
    };
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| InvalidHead::RequestLine)?;
    let target = target::parse(&method, bytes.slice_ref(path.as_bytes()))?;
    let version = if version == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut fields = Fields::read(bytes, parsed.headers)?;
    if let Some(written) = target.written {
        fields.spelling.learn_target(written);
    }
    let host = fields.host(version)?;
    let framing = fields.framing(version)?.unwrap_or(Framing::Empty);
    let head = Box::new(RequestHead {
        method,
        scheme: target.scheme,
        // An absolute-form target wins over Host (RFC 9112 section 3.2.2).
        authority: target.authority.or(host),
        path: target.path,
        version,
        upgrade: fields.upgrade(version),
        protocol: None,
        headers: fields.headers,
        spelling: fields.spelling,
        repeats: false,
    });
    let expect_continue = fields.expect_continue && version == Version::HTTP_11;
    Ok(ParsedRequest { head, framing, keep_alive: fields.connection.keep_alive(version), expect_continue })
}

/// Whether the line would be one, but for its version.
fn request_line_error(error: httparse::Error, bytes: &[u8]) -> InvalidHead {
    let line = bytes.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let spaces = line.iter().filter(|&&byte| byte == b' ').count();
    match (error, line) {
        (httparse::Error::Version, [.., b' ', b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'])
            if spaces == 2 =>
        {
            InvalidHead::Version
        }
        _ => InvalidHead::RequestLine,
    }
}

/// Takes the head of the next response to a request that `asked` off the front of `buf`; otherwise as [`request`]. All of its
/// lines may end with LF alone, as some servers write them and other proxies read them.
///
/// # Errors
/// The head is refused, and with it all that may follow on the connection.
pub fn response(
    buf: &mut BytesMut,
    asked: Asked,
    limits: &Limits,
    scanned: &mut usize,
) -> Result<Option<ParsedResponse>, InvalidHead> {
    let Some(bytes) = split_head(buf, 0, LineEnds::CrlfOrLf, limits, scanned)? else { return Ok(None) };
    with_fields(limits, |fields| response_head(&bytes, asked, fields, limits)).map(Some)
}

fn response_head<'a>(
    bytes: &'a Bytes,
    asked: Asked,
    fields: &mut [MaybeUninit<Header<'a>>],
    limits: &Limits,
) -> Result<ParsedResponse, InvalidHead> {
    // The parser would pass over it.
    if bytes.starts_with(b"\r\n") || bytes.starts_with(b"\n") {
        return Err(InvalidHead::StatusLine);
    }
    let mut parsed = httparse::Response::new(&mut []);
    let mut config = httparse::ParserConfig::default();
    // RFC 9112 section 5.1: of a response it is removed, not refused.
    config.allow_spaces_after_header_name_in_responses(true);
    let status = config.parse_response_with_uninit_headers(&mut parsed, bytes, fields);
    let status = status.map_err(|error| InvalidHead::from_parser(error, InvalidHead::StatusLine, limits))?;
    let (httparse::Status::Complete(_), Some(version), Some(code)) = (status, parsed.version, parsed.code) else {
        return Err(InvalidHead::StatusLine);
    };
    let status = StatusCode::from_u16(code).map_err(|_| InvalidHead::StatusLine)?;
    let version = if version == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut fields = Fields::read(bytes, parsed.headers)?;
    fields.spelling.learn_reason(status, reason(bytes));
    let tunnel = status == StatusCode::SWITCHING_PROTOCOLS || (asked.connect && status.is_success());
    if status == StatusCode::SWITCHING_PROTOCOLS && !asked.upgrade {
        return Err(InvalidHead::Unasked);
    }
    let framing = response_framing(&mut fields, status, version, asked)?;
    // Some servers send what they announce, to HEAD and with 304, too: it must not be taken for the next answer.
    let ends = framing != Framing::UntilClose && (framing != Framing::Empty || !fields.announce_body());
    Ok(ParsedResponse {
        framing,
        keep_alive: fields.connection.keep_alive(version) && ends && !tunnel,
        idle_timeout: fields.idle_timeout,
        head: ResponseHead { status, version, headers: fields.headers, spelling: fields.spelling },
    })
}

/// RFC 9112 section 6.3.
fn response_framing(
    fields: &mut Fields,
    status: StatusCode,
    version: Version,
    asked: Asked,
) -> Result<Framing, InvalidHead> {
    if asked.connect && status.is_success() {
        return Ok(Framing::Empty);
    }
    let framing = fields.framing(version)?;
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        // Must not be sent, though some say that nothing is zero bytes long.
        fields.headers.remove(header::CONTENT_LENGTH);
        return match framing {
            None | Some(Framing::Empty) => Ok(Framing::Empty),
            Some(_) => Err(InvalidHead::Bodiless),
        };
    }
    if asked.head || status == StatusCode::NOT_MODIFIED {
        return Ok(Framing::Empty);
    }
    Ok(framing.unwrap_or(Framing::UntilClose))
}

fn reason(bytes: &Bytes) -> Bytes {
    let end = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
    bytes.slice_ref(bytes[STATUS_LINE.min(end)..end].trim_ascii())
}

/// Takes trailers and the empty line behind them off the front of `buf`. Those that must not be are left out; how the others were
/// written is noted among them.
pub(super) fn trailers(
    buf: &mut BytesMut,
    limits: &Limits,
    scanned: &mut usize,
) -> Result<Option<HeaderMap>, InvalidHead> {
    let Some(bytes) = split_head(buf, 0, LineEnds::Crlf, limits, scanned)? else { return Ok(None) };
    let mut trailers = HeaderMap::new();
    if bytes.len() > 2 {
        let mut fields = vec![httparse::EMPTY_HEADER; limits.headers];
        let parsed = httparse::parse_headers(&bytes, &mut fields);
        let parsed = parsed.map_err(|error| InvalidHead::from_parser(error, InvalidHead::LineEnd, limits))?;
        let httparse::Status::Complete((_, fields)) = parsed else { return Err(InvalidHead::LineEnd) };
        let mut spelling = Spelling::default();
        for field in fields {
            let (name, value, form) = entry(&bytes, field)?;
            if !trailers::is_harmful(name.as_str()) {
                spelling.learn(field.name, form, trailers.is_empty());
                trailers.append(name, value);
            }
        }
        trailers::mark_spelling(&mut trailers, &spelling);
    }
    Ok(Some(trailers))
}

/// A field, its value sharing the head's memory, and how its name is written.
pub(super) fn entry(bytes: &Bytes, field: &Header<'_>) -> Result<(HeaderName, HeaderValue, Form), InvalidHead> {
    let (name, form) = names::name(field.name.as_bytes())?;
    let value = bytes.slice_ref(field.value);
    Ok((name, HeaderValue::from_maybe_shared(value).map_err(|_| InvalidHead::FieldValue)?, form))
}

fn empty_lines(buf: &[u8]) -> usize {
    let mut end = 0;
    while end < 2 * MAX_EMPTY_LINES && buf[end..].starts_with(b"\r\n") {
        end += 2;
    }
    end
}

/// Splits off all up to the first empty line after `begin`, which must come within the limit; drops what is before `begin`.
fn split_head(
    buf: &mut BytesMut,
    begin: usize,
    ends: LineEnds,
    limits: &Limits,
    scanned: &mut usize,
) -> Result<Option<Bytes>, InvalidHead> {
    let mut at = begin.max(*scanned);
    // Whether the line before ended with LF alone; nothing where there is none.
    let mut bare = match ends {
        LineEnds::Crlf => Some(false),
        LineEnds::CrlfOrLf => memchr::memrchr(b'\n', &buf[begin..at]).map(|line| is_bare(buf, begin, begin + line)),
    };
    while let Some(line) = memchr::memchr(b'\n', &buf[at..]) {
        let end = at + line;
        let now = is_bare(buf, begin, end);
        if bare.is_some_and(|before| before != now) {
            return Err(InvalidHead::LineEnd);
        }
        bare = Some(now);
        at = end + 1;
        let text = if now { end } else { end - 1 };
        if text == begin || buf[text - 1] == b'\n' {
            if at - begin > limits.head_bytes {
                break;
            }
            buf.advance(begin);
            *scanned = 0;
            return Ok(Some(buf.split_to(at - begin).freeze()));
        }
    }
    if buf.len() - begin > limits.head_bytes {
        return Err(InvalidHead::TooLarge(limits.head_bytes));
    }
    *scanned = buf.len();
    Ok(None)
}

/// Whether there is no CR before the LF at `end`, in the head that starts at `begin`.
fn is_bare(buf: &[u8], begin: usize, end: usize) -> bool {
    end == begin || buf[end - 1] != b'\r'
}

/// Calls `read` with room for as many fields as a head may have.
fn with_fields<'a, T>(limits: &Limits, read: impl FnOnce(&mut [MaybeUninit<Header<'a>>]) -> T) -> T {
    if limits.headers <= INLINE_FIELDS {
        read(&mut [const { MaybeUninit::uninit() }; INLINE_FIELDS][..limits.headers])
    } else {
        read(&mut vec![const { MaybeUninit::uninit() }; limits.headers])
    }
}

#[cfg(test)]
mod tests;
