//! Header fields that belong to a hop or to the proxy: what is removed, rewritten and added on the way through.

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, Version};

use super::body::Body;
use super::head::{RequestHead, ResponseHead};
use super::spelling::Spelling;
use crate::Error;

/// Tells the application who called, in Envoy's form; only ever written by us.
const FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// Between our own sidecars: the HTTP version that a message had before it shared an HTTP/2 connection, and how it was written; or, of
/// a response, [`UNDELIVERED`].
const HOP: HeaderName = HeaderName::from_static("x-remora-hop");
/// The request reached no application, so it had no effect.
const UNDELIVERED: &str = "undelivered";
/// The response flag and the sentence of an error the proxy made.
const REASON: HeaderName = HeaderName::from_static("x-remora-reason");

/// Characters of an error's sentence at most.
const MAX_SENTENCE: usize = 500;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

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

/// Takes a request in: what belongs to the previous hop goes, what only we may say is replaced.
pub(crate) fn receive(head: &mut RequestHead, trust: &Trust) {
    let foreign = !trust.application && trust.forwarded_client_cert.is_none();
    // Most requests carry nothing of the kind, which is seen by one look at each name.
    if head.headers.keys().any(|name| is_of_a_hop(name) || is_private(name) || (foreign && is_foreign(name))) {
        strip(head, trust, foreign);
    }
    if let Some(value) = trust.forwarded_client_cert.as_ref().filter(|_| !trust.application) {
        head.headers.insert(FORWARDED_CLIENT_CERT, value.clone());
    }
}

fn strip(head: &mut RequestHead, trust: &Trust, foreign: bool) {
    if let Some(hop) = head.headers.remove(HOP)
        && trust.hop
    {
        (head.version, head.spelling) = Spelling::from_hop(&hop).unwrap_or((Version::HTTP_11, Spelling::default()));
    }
    // First, so that `connection: x-forwarded-client-cert` cannot hide who calls.
    strip_hop_by_hop(&mut head.headers);
    if !trust.application {
        let claims = |name: &&HeaderName| is_private(name) || (foreign && is_foreign(name));
        while let Some(name) = head.headers.keys().find(claims).cloned() {
            head.headers.remove(name);
        }
    }
    head.headers.remove(HTTP2_SETTINGS);
}

/// Whether only other proxies of a mesh may say it.
fn is_foreign(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-envoy-") || name.as_str().starts_with("l5d-")
}

/// Whether only we may say it, or whether an application that reads `_` as `-`, as CGI does, takes it for such a name.
fn is_private(name: &HeaderName) -> bool {
    let is_like = |private: &HeaderName| {
        // Most differ by their length already.
        name.as_str().len() == private.as_str().len()
            && name.as_str().bytes().map(|byte| if byte == b'_' { b'-' } else { byte }).eq(private.as_str().bytes())
    };
    [FORWARDED_CLIENT_CERT, HOP, REASON].iter().any(is_like)
}

/// Whether it belongs to one connection (RFC 9110 section 7.6.1).
fn is_of_a_hop(name: &HeaderName) -> bool {
    matches!(*name, header::CONNECTION | header::TE | header::TRANSFER_ENCODING | header::UPGRADE)
        || [KEEP_ALIVE, PROXY_CONNECTION, HTTP2_SETTINGS].contains(name)
}

/// How long a gRPC call may take by its `grpc-timeout` (gRPC over HTTP/2, "Requests").
pub(crate) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
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

/// Removes what belongs to one connection (RFC 9110 section 7.6.1), keeping `te: trailers`, which gRPC needs.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if !headers.keys().any(is_of_a_hop) {
        return;
    }
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            // Framing is not the connection's to drop.
            .filter(|name| *name != header::CONTENT_LENGTH && *name != header::HOST)
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    for name in [&KEEP_ALIVE, &PROXY_CONNECTION, &header::TRANSFER_ENCODING, &header::UPGRADE] {
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
}

/// Tells our own sidecar at the other end which version an HTTP/1 request had, and how it was written.
pub(crate) fn mark_hop(head: &mut RequestHead) {
    head.headers.insert(HOP, head.spelling.to_hop(head.version));
}

/// Tells our own sidecar at the other end how an HTTP/1 response was written, where that is not as HTTP/2 writes it.
pub(crate) fn mark_spelling(head: &mut ResponseHead) {
    if head.spelling != Spelling::default() {
        head.headers.insert(HOP, head.spelling.to_hop(head.version));
    }
}

/// Learns from our own sidecar how an HTTP/1 response was written.
pub(crate) fn learn_spelling(head: &mut ResponseHead) {
    if let Some((_, spelling)) = head.headers.get(HOP).and_then(Spelling::from_hop) {
        head.spelling = spelling;
    }
}

/// Tells our own sidecar at the other end that its request had no effect.
pub(crate) fn mark_undelivered(headers: &mut HeaderMap) {
    headers.insert(HOP, HeaderValue::from_static(UNDELIVERED));
}

/// Why our own sidecar delivered nothing, if that is what its response says.
pub(crate) fn undelivered(headers: &HeaderMap) -> Option<String> {
    headers.get(HOP).filter(|value| *value == UNDELIVERED)?;
    let reason = headers.get(REASON).and_then(|reason| reason.to_str().ok()).unwrap_or_default();
    // Without its flag: it says what it meant there.
    Some(reason.split_once(' ').map_or(reason, |(_, sentence)| sentence).to_owned())
}

/// Removes what a response may only say between our own sidecars.
pub(crate) fn strip_hop(headers: &mut HeaderMap) {
    headers.remove(HOP);
}

/// The answer to an error the proxy made: HTTP status and sentence, or for gRPC a trailers-only response.
pub(crate) fn error_response(error: &Error, grpc: bool) -> (ResponseHead, Body) {
    let response = error.response();
    let sentence = sentence(error);
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(REASON, visible(&sentence));
    let (status, body) = if grpc {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(response.grpc_status)));
        headers.insert(GRPC_MESSAGE, percent_encode(&sentence));
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
    trailers.insert(GRPC_STATUS, HeaderValue::from(u16::from(error.response().grpc_status)));
    trailers.insert(GRPC_MESSAGE, percent_encode(&sentence(error)));
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
mod tests {
    use http::uri::PathAndQuery;

    use super::*;

    fn head(fields: &[(&'static str, &'static str)]) -> RequestHead {
        let headers =
            fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        RequestHead {
            method: http::Method::GET,
            scheme: None,
            authority: None,
            path: PathAndQuery::from_static("/"),
            version: Version::HTTP_2,
            headers: headers.collect(),
            upgrade: None,
            protocol: None,
            spelling: Spelling::default(),
        }
    }

    fn names(head: &RequestHead) -> Vec<&str> {
        head.headers.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn the_hop_header_is_believed_from_our_own_sidecar_only() {
        let mut theirs = head(&[("x-remora-hop", "1.1")]);
        receive(&mut theirs, &Trust::default());
        assert_eq!((theirs.version, names(&theirs)), (Version::HTTP_2, vec![]));
        let mut ours = head(&[("x-remora-hop", "1.0")]);
        receive(&mut ours, &Trust { hop: true, ..Trust::default() });
        assert_eq!((ours.version, names(&ours)), (Version::HTTP_10, vec![]));
    }

    #[test]
    fn a_response_says_why_nothing_was_delivered() {
        let mut headers = HeaderMap::new();
        assert_eq!(undelivered(&headers), None);
        headers.insert(REASON, HeaderValue::from_static("UF cannot connect"));
        assert_eq!(undelivered(&headers), None);
        mark_undelivered(&mut headers);
        assert_eq!(undelivered(&headers).as_deref(), Some("cannot connect"));
        strip_hop(&mut headers);
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn a_claimed_caller_is_replaced_or_removed() {
        let mut plaintext = head(&[("x-forwarded-client-cert", "URI=spiffe://evil/x")]);
        receive(&mut plaintext, &Trust::default());
        assert_eq!(names(&plaintext), Vec::<&str>::new());
        let mut verified = head(&[("x-forwarded-client-cert", "URI=spiffe://evil/x")]);
        let caller = HeaderValue::from_static("URI=spiffe://good/x");
        receive(&mut verified, &Trust { forwarded_client_cert: Some(caller.clone()), ..Trust::default() });
        assert_eq!(verified.headers.get_all(FORWARDED_CLIENT_CERT).iter().collect::<Vec<_>>(), [&caller]);
    }

    #[test]
    fn a_grpc_timeout_is_read_in_its_unit() {
        let timeout = |value: &'static str| {
            grpc_timeout(&HeaderMap::from_iter([(GRPC_TIMEOUT, HeaderValue::from_static(value))]))
        };
        assert_eq!(timeout("1m"), Some(Duration::from_millis(1)));
        assert_eq!(timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for invalid in ["", "m", "1", "1x", "-1m", "+1m", "123456789n", "1 m"] {
            assert_eq!(timeout(invalid), None, "{invalid:?}");
        }
    }

    #[test]
    fn strangers_do_not_speak_for_other_proxies() {
        let fields = [("x-envoy-original-path", "/a"), ("l5d-dst-override", "b"), ("x-envoyage", "1")];
        let (mut stranger, mut peer) = (head(&fields), head(&fields));
        receive(&mut stranger, &Trust::default());
        assert_eq!(names(&stranger), ["x-envoyage"]);
        let caller = HeaderValue::from_static("URI=spiffe://good/x");
        receive(&mut peer, &Trust { forwarded_client_cert: Some(caller), ..Trust::default() });
        assert!(peer.headers.contains_key("l5d-dst-override"));
    }

    #[test]
    fn what_reads_like_a_private_name_goes_too() {
        let mut theirs = head(&[
            ("x_forwarded_client_cert", "URI=spiffe://evil/x"),
            ("x-forwarded_client-cert", "URI=spiffe://evil/x"),
            ("x_remora_hop", "1.1"),
            ("x_forwarded_client_certs", "1"),
            ("x_request_id", "1"),
        ]);
        let mut application = theirs.clone();
        receive(&mut theirs, &Trust::default());
        let mut left = names(&theirs);
        left.sort_unstable();
        assert_eq!(left, ["x_forwarded_client_certs", "x_request_id"]);
        receive(&mut application, &Trust { application: true, ..Trust::default() });
        assert_eq!(application.headers.len(), 5, "its own words are nobody's claim");
    }

    #[test]
    fn hop_by_hop_fields_go_and_framing_stays() {
        let mut head = head(&[
            ("connection", "close, x-secret, content-length, host"),
            ("x-secret", "1"),
            ("content-length", "3"),
            ("host", "a"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip, trailers"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAA"),
        ]);
        receive(&mut head, &Trust::default());
        let mut left = names(&head);
        left.sort_unstable();
        assert_eq!(left, ["content-length", "host", "te"]);
        assert_eq!(head.headers[header::TE], "trailers");
    }

    #[test]
    fn of_several_te_fields_trailers_stays_once() {
        for [first, second] in [["trailers", "gzip"], ["gzip", "Trailers"], ["trailers", "trailers"]] {
            let mut head = head(&[("te", first), ("te", second)]);
            receive(&mut head, &Trust::default());
            assert!(head.headers.get_all(header::TE).iter().eq(["trailers"]), "{first} and {second}");
        }
    }

    #[test]
    fn what_stands_beside_a_name_in_connection_hides_it_not() {
        let mut head = head(&[("x-secret", "1")]);
        head.headers.insert(header::CONNECTION, HeaderValue::from_bytes(b"x-secret, \xff").unwrap());
        receive(&mut head, &Trust::default());
        assert!(names(&head).is_empty());
    }

    #[test]
    fn an_error_is_a_status_and_a_sentence_or_grpc() {
        let error = Error::NoEndpoint { cluster: "a\u{e9}".into() };
        let (http, body) = error_response(&error, false);
        assert_eq!(http.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(http.headers[&REASON], "UH no healthy endpoint in cluster \"a?\"");
        assert!(matches!(body, Body::Full(_)));
        let (grpc, body) = error_response(&error, true);
        assert_eq!((grpc.status, &grpc.headers[&GRPC_STATUS]), (StatusCode::OK, &HeaderValue::from_static("14")));
        assert_eq!(grpc.headers[&GRPC_MESSAGE], "UH no healthy endpoint in cluster \"a%C3%A9\"");
        assert!(matches!(body, Body::Empty));
    }
}
