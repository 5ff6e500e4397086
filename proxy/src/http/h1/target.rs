//! Request targets (RFC 9112 section 3.2) and Host.

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Uri};

use super::parse::InvalidHead;
use crate::http::spelling::encode_target;

/// A target taken apart.
pub(super) struct Target {
    pub(super) scheme: Option<Scheme>,
    pub(super) authority: Option<Authority>,
    /// Percent-encoded where it was written with bytes that the parser refuses.
    pub(super) path: PathAndQuery,
    /// The path as it was written, where `path` is another.
    pub(super) written: Option<Bytes>,
}

/// Reads a target in the one form that is for its method.
pub(super) fn parse(method: &Method, target: Bytes) -> Result<Target, InvalidHead> {
    // A fragment is never sent, and not everyone cuts it off.
    if !target.is_ascii() || target.contains(&b'#') {
        return Err(InvalidHead::Target);
    }
    if *method == Method::CONNECT {
        let authority = authority(target).filter(|authority| authority.port().is_some()).ok_or(InvalidHead::Target)?;
        return Ok(Target {
            scheme: None,
            authority: Some(authority),
            path: PathAndQuery::from_static("/"),
            written: None,
        });
    }
    let origin = |(path, written)| Target { scheme: None, authority: None, path, written };
    match &target[..] {
        [b'/', ..] => path_and_query(target).map(origin),
        b"*" if *method == Method::OPTIONS => Ok(origin((PathAndQuery::from_static("*"), None))),
        _ => absolute(method, target),
    }
}

fn absolute(method: &Method, target: Bytes) -> Result<Target, InvalidHead> {
    let begin = memchr::memmem::find(&target, b"://").ok_or(InvalidHead::Target)? + "://".len();
    let end = memchr::memchr2(b'/', b'?', &target[begin..]).map_or(target.len(), |length| begin + length);
    let parts = Uri::from_maybe_shared(target.slice(..end)).map_err(|_| InvalidHead::Target)?.into_parts();
    let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else { return Err(InvalidHead::Target) };
    let authority = valid(authority).ok_or(InvalidHead::Target)?;
    let (path, written) = match &target[end..] {
        // Section 3.2.4: about the server as a whole.
        b"" if *method == Method::OPTIONS => (PathAndQuery::from_static("*"), None),
        b"" => (PathAndQuery::from_static("/"), None),
        [b'/', ..] => path_and_query(target.slice(end..))?,
        query => path_and_query([b"/", query].concat().into())?,
    };
    Ok(Target { scheme: Some(scheme), authority: Some(authority), path, written })
}

/// Reads a path, and a query. Some clients write bytes there that are no URI's (RFC 3986 section 2), and most servers take them:
/// then it is also handed back as it was written.
fn path_and_query(written: Bytes) -> Result<(PathAndQuery, Option<Bytes>), InvalidHead> {
    if let Ok(path) = PathAndQuery::from_maybe_shared(written.clone()) {
        return Ok((path, None));
    }
    let encoded = encode_target(&written).ok_or(InvalidHead::Target)?;
    let path = PathAndQuery::try_from(encoded).map_err(|_| InvalidHead::Target)?;
    Ok((path, Some(written)))
}

/// Reads a host and, perhaps, a port.
pub(super) fn authority(bytes: Bytes) -> Option<Authority> {
    valid(Authority::from_maybe_shared(bytes).ok()?)
}

/// Without user information, which has no place in requests (RFC 9110 section 4.2.4), and with a port that is one.
pub(in crate::http) fn valid(authority: Authority) -> Option<Authority> {
    let text = authority.as_str();
    // `Authority::host` is slow to look for user information in each.
    let end = match text.as_bytes() {
        [b'[', ..] => text.bytes().position(|byte| byte == b']')? + 1,
        bytes => bytes.iter().position(|&byte| byte == b':' || byte == b'@').unwrap_or(bytes.len()),
    };
    let (host, port) = text.split_at(end);
    let port = match port.as_bytes() {
        [] | [b':'] => true,
        [b':', ..] => is_port(&port[1..]),
        _ => false,
    };
    (port && !host.is_empty()).then_some(authority)
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
}
