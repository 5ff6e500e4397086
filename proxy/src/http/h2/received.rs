//! What is asked of a request before it is handled, beyond what the h2 crate asks.

use bytes::BytesMut;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Method, header};

use crate::Error;
use crate::http::body::Body;
use crate::http::h1;
use crate::http::h1::parse::{InvalidHead, Limits};
use crate::http::head::RequestHead;
use crate::http::spelling::Spelling;

/// Takes a request apart, of a `hop` where our own sidecar is the peer; how large its head is, and its body, unless it cannot be handled.
pub(super) fn request_parts(
    request: http::Request<h2::RecvStream>,
    limits: &Limits,
    hop: bool,
) -> (Box<RequestHead>, usize, Result<Body, Error>) {
    let (mut parts, stream) = request.into_parts();
    let uri = parts.uri.into_parts();
    let pathless = uri.path_and_query.is_none();
    let mut head = Box::new(RequestHead {
        method: parts.method,
        scheme: uri.scheme,
        authority: uri.authority,
        path: uri.path_and_query.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/")),
        version: http::Version::HTTP_2,
        headers: parts.headers,
        upgrade: None,
        protocol: parts.extensions.remove(),
        spelling: Spelling::default(),
        repeats: false,
    });
    let checked = fields(&mut head, limits);
    let aimed = || target(&head, pathless).and_then(|()| authority(&head, hop));
    let aim = || aimed().map_err(|fault| Error::DownstreamProtocol(fault.into()));
    let (size, body) = match checked.and_then(|size| Ok((size, aim()?))) {
        Ok((size, authority)) => {
            head.authority = authority;
            head.headers.remove(header::HOST);
            join_cookies(&mut head.headers);
            (size + head.path.as_str().len(), Ok(Body::from_h2(stream, hop, *limits)))
        }
        Err(error) => (0, Err(error)),
    };
    (head, size, body)
}

/// What the h2 crate leaves unchecked of a request's fields, in one walk: the limits of an HTTP/1 head first, where the crumbs of a
/// cookie are one field, as large as all of them. Returns the bytes of all (RFC 9113 section 6.5.2).
fn fields(head: &mut RequestHead, limits: &Limits) -> Result<usize, Error> {
    let space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let (mut bytes, mut fields, mut crumbs, mut lengths) = (0, 0, 0, 0);
    let (mut fault, mut padded) = (None, false);
    for (name, value) in &head.headers {
        bytes += name.as_str().len() + value.len() + 32;
        fields += 1;
        let value = value.as_bytes();
        padded |= space(value.first()) || space(value.last());
        if name == header::COOKIE {
            crumbs += 1;
        } else if name == header::CONTENT_LENGTH {
            lengths += 1;
            // As over HTTP/1: several that are equal are refused, too (RFC 9110 section 8.6).
            if lengths > 1 || h1::framing::content_length(value).is_err() {
                fault = Some("invalid content-length");
            }
        }
    }
    if bytes > limits.head_bytes {
        return Err(Error::InvalidHead(InvalidHead::TooLarge(limits.head_bytes)));
    }
    if fields - crumbs + crumbs.min(1) > limits.headers {
        return Err(Error::InvalidHead(InvalidHead::TooManyFields(limits.headers)));
    }
    if padded && head.is_grpc() {
        strip(&mut head.headers);
    } else if padded {
        // RFC 9113 section 8.2.1; HTTP/1 has no way to say it.
        fault = Some("a field value begins or ends with whitespace");
    }
    fault.map_or(Ok(bytes), |fault| Err(Error::DownstreamProtocol(fault.into())))
}

/// Takes whitespace off both ends of values: gRPC sends what its applications give it, and lets it be stripped ("gRPC over HTTP2", ASCII-Value).
pub(crate) fn strip(headers: &mut HeaderMap) {
    for value in headers.values_mut() {
        let stripped = value.as_bytes().trim_ascii();
        if stripped.len() < value.len() {
            *value = HeaderValue::from_bytes(stripped).expect("a part of a value is one");
        }
    }
}

/// What the h2 crate leaves unchecked of a request's target, which is `pathless` where there was no `:path`.
fn target(head: &RequestHead, pathless: bool) -> Result<(), &'static str> {
    // RFC 9113 section 8.3.1. One that is not ASCII is read in more ways than one.
    let path = head.path.as_str();
    let origin_form = path.starts_with('/') && path.is_ascii();
    let tunnel = head.method == Method::CONNECT && head.protocol.is_none();
    let server = path == "*" && head.method == Method::OPTIONS;
    if !tunnel && (pathless || !origin_form && !server) {
        return Err(":path is none");
    }
    // RFC 9113 section 8.5.
    if head.method == Method::CONNECT && head.authority.is_none() {
        return Err("CONNECT without :authority");
    }
    Ok(())
}

/// Whom a request is for. Without `:authority`, Host says it; beside it, Host must say the same (RFC 9113 section 8.3.1).
fn authority(head: &RequestHead, hop: bool) -> Result<Option<Authority>, &'static str> {
    let host = h1::host(&head.headers, head.version)?;
    let valid = |authority: &Authority| h1::target::valid(authority.clone()).is_some();
    if head.authority.as_ref().is_some_and(|authority| !valid(authority)) {
        return Err("invalid :authority");
    }
    let port = |authority: &Authority| {
        let default = if head.scheme == Some(Scheme::HTTPS) { 443 } else { 80 };
        authority.port_u16().unwrap_or(default)
    };
    match (&head.authority, host) {
        (Some(authority), Some(host))
            if !host.host().eq_ignore_ascii_case(authority.host()) || port(&host) != port(authority) =>
        {
            Err("Host and :authority differ")
        }
        (Some(authority), _) => Ok(Some(authority.clone())),
        // As HTTP/1.1 has it (RFC 9112 section 3.2). Over the hop comes what HTTP/1.0 may leave out.
        (None, None) if !hop => Err("neither :authority nor Host"),
        (None, host) => Ok(host),
    }
}

/// Puts the crumbs of a cookie together: HTTP/1 has one field for them (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    let Some(first) = crumbs.next().filter(|_| crumbs.next().is_some()) else { return };
    let mut whole = BytesMut::from(first.as_bytes());
    for crumb in headers.get_all(header::COOKIE).iter().skip(1) {
        whole.extend_from_slice(b"; ");
        whole.extend_from_slice(crumb.as_bytes());
    }
    let whole = HeaderValue::from_maybe_shared(whole.freeze()).expect("valid values and what joins them");
    headers.insert(header::COOKIE, whole);
}

#[cfg(test)]
mod tests;
