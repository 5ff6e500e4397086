//! Request targets (RFC 9112 section 3.2) and Host.

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Uri};

use super::parse::InvalidHead;

/// A target taken apart.
pub(super) struct Target {
    pub(super) scheme: Option<Scheme>,
    pub(super) authority: Option<Authority>,
    pub(super) path: PathAndQuery,
}

/// Reads a target in the one form that is for its method.
pub(super) fn parse(method: &Method, target: Bytes) -> Result<Target, InvalidHead> {
    // A fragment is never sent, and not everyone cuts it off.
    if !target.is_ascii() || target.contains(&b'#') {
        return Err(InvalidHead::Target);
    }
    if *method == Method::CONNECT {
        let authority = authority(target).filter(|authority| authority.port().is_some()).ok_or(InvalidHead::Target)?;
        return Ok(Target { scheme: None, authority: Some(authority), path: PathAndQuery::from_static("/") });
    }
    let origin = |path| Target { scheme: None, authority: None, path };
    match &target[..] {
        [b'/', ..] => PathAndQuery::from_maybe_shared(target).map(origin).map_err(|_| InvalidHead::Target),
        b"*" if *method == Method::OPTIONS => Ok(origin(PathAndQuery::from_static("*"))),
        _ => absolute(method, target),
    }
}

fn absolute(method: &Method, target: Bytes) -> Result<Target, InvalidHead> {
    let parts = Uri::from_maybe_shared(target.clone()).map_err(|_| InvalidHead::Target)?.into_parts();
    let (Some(scheme), Some(written)) = (parts.scheme, parts.authority) else { return Err(InvalidHead::Target) };
    let begin = scheme.as_str().len() + "://".len();
    let rest = target.slice(begin + written.as_str().len()..);
    let path = match &rest[..] {
        // Section 3.2.4: about the server as a whole.
        b"" if *method == Method::OPTIONS => PathAndQuery::from_static("*"),
        b"" => PathAndQuery::from_static("/"),
        [b'/', ..] => PathAndQuery::from_maybe_shared(rest).map_err(|_| InvalidHead::Target)?,
        query => PathAndQuery::try_from([b"/", query].concat()).map_err(|_| InvalidHead::Target)?,
    };
    let authority = valid(written).ok_or(InvalidHead::Target)?;
    Ok(Target { scheme: Some(scheme), authority: Some(authority), path })
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
