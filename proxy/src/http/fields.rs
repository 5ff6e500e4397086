//! Header fields that belong to a hop or to the proxy: what is removed, rewritten and added on the way through.

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, Version};

use super::body::Body;
use super::head::{RequestHead, ResponseHead};
use super::spelling::Spelling;
use crate::Error;

/// Tells the application who called, in Envoy's form; only ever written by us.
static FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// Between our own sidecars: the HTTP version that a message had before it shared an HTTP/2 connection, and how it was written; or, of
/// a response, [`UNDELIVERED`]. Of trailers the same, also within the proxy.
pub(super) static HOP: HeaderName = HeaderName::from_static("x-remora-hop");
/// The request reached no application, so it had no effect.
const UNDELIVERED: &str = "undelivered";
/// Before what a 426 says to upgrade to: HTTP/2 has no field for it.
const UPGRADE: &[u8] = b"upgrade ";
/// The response flag and the sentence of an error the proxy made.
static REASON: HeaderName = HeaderName::from_static("x-remora-reason");

/// Characters of an error's sentence at most.
const MAX_SENTENCE: usize = 500;

static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
static GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What the headers of a downstream connection may be believed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trust {
    /// Our own sidecar is the peer: the hop header is its word.
    pub(crate) hop: bool,
    /// The connection may name a caller to the application: replace (`Some`) or remove what is there.
    pub(crate) forwarded_client_cert: Option<HeaderValue>,
    /// The application itself is the peer: its headers are nobody's claim to an identity here.
    pub(crate) application: bool,
}

/// Takes a request in: what belongs to the previous hop goes, what only we may say is replaced. Tells what of it the client should not
/// have said, as metrics count it.
pub(crate) fn receive(head: &mut RequestHead, trust: &Trust, mut tell: impl FnMut(&'static str)) {
    if overrides_host(head) {
        tell("host_overridden");
    }
    let (mut hop, mut of_a_hop) = (false, false);
    // Most requests carry nothing of the kind, or the hop's field alone, which is seen by one look at each name.
    let mut claims = Vec::new();
    for name in head.headers.keys() {
        match Kind::of(name.as_str()) {
            Kind::Ordinary => {}
            Kind::Hop => hop = true,
            Kind::OfAHop => of_a_hop = true,
            Kind::Private if !trust.application => claims.push(name.clone()),
            Kind::Foreign if !trust.application && trust.forwarded_client_cert.is_none() => claims.push(name.clone()),
            Kind::Private | Kind::Foreign => {}
        }
    }
    let mut forged = !claims.is_empty();
    if hop && let Some(hop) = head.headers.remove(&HOP) {
        if trust.hop {
            let word = Spelling::of_request(&hop, &head.path);
            if word.is_none() {
                tell("hop_word");
            }
            (head.version, head.spelling) = word.unwrap_or((Version::HTTP_11, Spelling::default()));
        } else {
            forged = true;
        }
    }
    if of_a_hop && strip_connection(&mut head.headers) {
        tell("connection_option");
    }
    for name in claims {
        head.headers.remove(name);
    }
    // Last, so that `connection: x-forwarded-client-cert` cannot hide who calls.
    if let Some(value) = trust.forwarded_client_cert.as_ref().filter(|_| !trust.application) {
        head.headers.insert(&FORWARDED_CLIENT_CERT, value.clone());
    }
    if forged {
        tell("forged_headers");
    }
}

/// Whether an absolute-form target names another host than Host does, which must be the same (RFC 9112 section 3.2) and is not believed
/// (section 3.2.2). Of HTTP/2, where there is no Host beside `:authority`, that was judged before.
fn overrides_host(head: &RequestHead) -> bool {
    // Before anything is learned of a hop. HTTP/1 has a scheme only in an absolute form.
    if head.scheme.is_none() || head.version == Version::HTTP_2 {
        return false;
    }
    let (Some(authority), Some(host)) = (&head.authority, head.headers.get(header::HOST)) else { return false };
    let name = |text: &'_ [u8]| text.strip_suffix(b":80").unwrap_or(text).to_ascii_lowercase();
    name(authority.as_str().as_bytes()) != name(host.as_bytes())
}

/// What a field's name alone says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It goes on as it is.
    Ordinary,
    /// The word between our own sidecars.
    Hop,
    /// It belongs to one connection (RFC 9110 section 7.6.1).
    OfAHop,
    /// Only we may say it, or an application that reads `_` as `-`, as CGI does, takes it for such a name.
    Private,
    /// Only other proxies of a mesh may say it.
    Foreign,
}

impl Kind {
    fn of(name: &str) -> Self {
        match name {
            "connection" | "te" | "transfer-encoding" | "upgrade" | "keep-alive" | "proxy-connection"
            | "http2-settings" => Self::OfAHop,
            "x-remora-hop" => Self::Hop,
            // No other begins like what is ours or a mesh's.
            _ if !name.starts_with(['x', 'l']) => Self::Ordinary,
            _ if name.starts_with("x-envoy-") || name.starts_with("l5d-") => Self::Foreign,
            _ if [&FORWARDED_CLIENT_CERT, &HOP, &REASON].iter().any(|own| is_like(name, own.as_str())) => Self::Private,
            _ => Self::Ordinary,
        }
    }
}

/// Whether a name reads as one of ours, as what hands fields on as variables reads it: all but letters and digits are the same there.
fn is_like(name: &str, own: &str) -> bool {
    // Most differ by their length already.
    name.len() == own.len()
        && name.bytes().map(|byte| if byte.is_ascii_alphanumeric() { byte } else { b'-' }).eq(own.bytes())
}

/// How long a gRPC call may take by its `grpc-timeout` (gRPC over HTTP/2, "Requests").
pub(crate) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(&GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    // A number's own parser takes a sign.
    let plain = digits.len() <= 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let amount: u64 = digits.parse().ok().filter(|_| plain)?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// Removes what belongs to one connection (RFC 9110 section 7.6.1), keeping `te: trailers`, which gRPC needs, and what a message may
/// only say between our own sidecars.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let (mut hop, mut of_a_hop) = (false, false);
    for name in headers.keys() {
        let kind = Kind::of(name.as_str());
        hop |= kind == Kind::Hop;
        of_a_hop |= kind == Kind::OfAHop;
    }
    if hop {
        strip_hop(headers);
    }
    if of_a_hop {
        strip_connection(headers);
    }
}

/// What a response goes on to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Towards {
    /// A client that speaks HTTP/1.
    Http1,
    /// One that speaks HTTP/2.
    Http2,
    /// Our own sidecar, which learns how the response was written.
    Hop,
}

/// Removes the same of a response. What a 426 says that its client must upgrade to (RFC 9110 section 15.5.22) is told to clients of HTTP/1
/// alone: HTTP/2 has no field for it (RFC 9113 section 8.2.2).
pub(crate) fn pass_response(head: &mut ResponseHead, to: Towards) {
    let protocols = take_upgrade(head);
    strip_hop_by_hop(&mut head.headers);
    match to {
        Towards::Http1 => put_upgrade(head, protocols),
        Towards::Http2 => {}
        Towards::Hop => {
            mark_spelling(head);
            for protocol in protocols {
                let value = HeaderValue::from_bytes(&[UPGRADE, protocol.as_bytes()].concat());
                head.headers.append(&HOP, value.expect("a field's value behind a word is a field's value"));
            }
        }
    }
}

fn take_upgrade(head: &mut ResponseHead) -> Vec<HeaderValue> {
    if head.status != StatusCode::UPGRADE_REQUIRED {
        return Vec::new();
    }
    let protocols = head.headers.get_all(header::UPGRADE).iter().cloned().collect();
    head.headers.remove(header::UPGRADE);
    protocols
}

fn put_upgrade(head: &mut ResponseHead, protocols: Vec<HeaderValue>) {
    for protocol in protocols {
        head.headers.append(header::UPGRADE, protocol);
    }
}

/// Removes it; whether it named what belongs to the whole message.
fn strip_connection(headers: &mut HeaderMap) -> bool {
    let mut framing = false;
    let mut names: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        // Framing is not the connection's to drop; who sends TE must name it here, and it is judged below (RFC 9110 section 10.1.4).
        .filter(|name| {
            let whole = [header::CONTENT_LENGTH, header::HOST].contains(name);
            framing |= whole;
            !whole && *name != header::TE
        })
        .collect();
    let of_a_hop = |name: &&HeaderName| Kind::of(name.as_str()) == Kind::OfAHop && **name != header::TE;
    names.extend(headers.keys().filter(of_a_hop).cloned());
    for name in names {
        headers.remove(name);
    }
    if headers.contains_key(header::TE) {
        // Of several fields as of several codings; HTTP/2 has no other (RFC 9113 section 8.2.2).
        let mut codings = headers.get_all(header::TE).iter().flat_map(|te| te.as_bytes().split(|&byte| byte == b','));
        if codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers")) {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(header::TE);
        }
    }
    framing
}

/// Tells our own sidecar at the other end which version an HTTP/1 request had, and how it was written.
pub(crate) fn mark_hop(head: &RequestHead, headers: &mut HeaderMap) {
    headers.insert(&HOP, head.spelling.to_hop(head.version));
}

/// Tells our own sidecar at the other end how an HTTP/1 response was written, where that is not as HTTP/2 writes it.
pub(crate) fn mark_spelling(head: &mut ResponseHead) {
    if head.spelling != Spelling::default() {
        head.headers.insert(&HOP, head.spelling.to_hop(head.version));
    }
}

/// Learns that from our own sidecar.
pub(crate) fn learn_spelling(head: &mut ResponseHead) {
    if let Some((_, spelling)) = head.headers.get(&HOP).and_then(Spelling::of_response) {
        head.spelling = spelling;
    }
    if head.status == StatusCode::UPGRADE_REQUIRED {
        let told = head.headers.get_all(&HOP).iter().filter_map(|value| value.as_bytes().strip_prefix(UPGRADE));
        let protocols = told.filter_map(|protocol| HeaderValue::from_bytes(protocol).ok()).collect();
        put_upgrade(head, protocols);
    }
}

/// Tells our own sidecar at the other end that its request had no effect.
pub(crate) fn mark_undelivered(headers: &mut HeaderMap) {
    headers.insert(&HOP, HeaderValue::from_static(UNDELIVERED));
}

/// Why our own sidecar delivered nothing, if that is what its response says.
pub(crate) fn undelivered(headers: &HeaderMap) -> Option<String> {
    headers.get(&HOP).filter(|value| *value == UNDELIVERED)?;
    let reason = headers.get(&REASON).and_then(|reason| reason.to_str().ok()).unwrap_or_default();
    // Without its flag: it says what it meant there.
    Some(reason.split_once(' ').map_or(reason, |(_, sentence)| sentence).to_owned())
}

/// Removes what a response, or trailers, may only say between our own sidecars.
pub(crate) fn strip_hop(headers: &mut HeaderMap) {
    headers.remove(&HOP);
}

/// The answer to an error the proxy made: HTTP status and sentence, or for gRPC a trailers-only response.
pub(crate) fn error_response(error: &Error, grpc: bool) -> (ResponseHead, Body) {
    let response = error.response();
    let sentence = sentence(error);
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(&REASON, visible(&sentence));
    let (status, body) = if grpc {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(&GRPC_STATUS, HeaderValue::from(u16::from(response.grpc_status)));
        headers.insert(&GRPC_MESSAGE, percent_encode(&sentence));
        (StatusCode::OK, Body::Empty)
    } else {
        let text = format!("{sentence}\n");
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
        (response.status, Body::Full(text.into()))
    };
    (ResponseHead { status, version: Version::HTTP_11, headers, spelling: Spelling::default() }, body)
}

/// The trailers that end a gRPC response which broke off.
pub(crate) fn grpc_trailers(error: &Error) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(&GRPC_STATUS, HeaderValue::from(u16::from(error.response().grpc_status)));
    trailers.insert(&GRPC_MESSAGE, percent_encode(&sentence(error)));
    trailers
}

/// The flag and what went wrong, no longer than a header should be: it may quote a long path.
fn sentence(error: &Error) -> String {
    let mut sentence = format!("{} {error}", error.response_flag().as_str());
    if let Some((end, _)) = sentence.char_indices().nth(MAX_SENTENCE) {
        sentence.truncate(end);
    }
    sentence
}

/// The sentence as a header value; it may quote what a client or server sent.
fn visible(sentence: &str) -> HeaderValue {
    let clean: String = sentence.chars().map(|c| if (' '..='~').contains(&c) { c } else { '?' }).collect();
    HeaderValue::from_str(&clean).expect("only visible ASCII is left")
}

/// `grpc-message` encoding (gRPC over HTTP/2, "Responses"): everything but visible ASCII, and `%`, is escaped.
fn percent_encode(text: &str) -> HeaderValue {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            encoded.push(byte as char);
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    HeaderValue::from_str(&encoded).expect("only visible ASCII is left")
}

#[cfg(test)]
mod tests;
