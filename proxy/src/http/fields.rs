//! Header fields that belong to a hop or to the proxy: what is removed, rewritten and added on the way through.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, Version};

use super::body::Body;
use super::head::{RequestHead, ResponseHead};
use crate::Error;

/// Tells the application who called, in Envoy's form; only ever written by us.
const FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// Between our own sidecars: the HTTP version the request had before it shared an HTTP/2 connection.
const HOP: HeaderName = HeaderName::from_static("x-remora-hop");
/// The response flag and the sentence of an error the proxy made.
const REASON: HeaderName = HeaderName::from_static("x-remora-reason");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
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
    if let Some(version) = head.headers.remove(HOP)
        && trust.hop
    {
        head.version = if version == "1.0" { Version::HTTP_10 } else { Version::HTTP_11 };
    }
    if !trust.application {
        match &trust.forwarded_client_cert {
            Some(value) => drop(head.headers.insert(FORWARDED_CLIENT_CERT, value.clone())),
            None => drop(head.headers.remove(FORWARDED_CLIENT_CERT)),
        }
    }
    strip_hop_by_hop(&mut head.headers);
    head.headers.remove(HTTP2_SETTINGS);
}

/// Removes what belongs to one connection (RFC 9110 section 7.6.1), keeping `te: trailers`, which gRPC needs.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
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
    if let Some(te) = headers.get(header::TE)
        && te != "trailers"
    {
        let trailers = te.to_str().is_ok_and(|te| te.split(',').any(|coding| coding.trim() == "trailers"));
        if trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(header::TE);
        }
    }
}

/// Tells our own sidecar at the other end which version an HTTP/1 request had.
pub(crate) fn mark_hop(headers: &mut HeaderMap, version: Version) {
    let value = if version == Version::HTTP_10 { "1.0" } else { "1.1" };
    headers.insert(HOP, HeaderValue::from_static(value));
}

/// The answer to an error the proxy made: HTTP status and sentence, or for gRPC a trailers-only response.
pub(crate) fn error_response(error: &Error, grpc: bool) -> (ResponseHead, Body) {
    let response = error.response();
    let sentence = format!("{} {error}", error.response_flag().as_str());
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(REASON, visible(&sentence));
    let (status, body) = if grpc {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(response.grpc_status)));
        headers.insert(GRPC_MESSAGE, percent_encode(&sentence));
        (StatusCode::OK, Body::Empty)
    } else {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        (response.status, Body::Full(format!("{sentence}\n").into()))
    };
    (ResponseHead { status, version: Version::HTTP_11, headers }, body)
}

/// The trailers that end a gRPC response which broke off.
pub(crate) fn grpc_trailers(error: &Error) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(GRPC_STATUS, HeaderValue::from(u16::from(error.response().grpc_status)));
    trailers.insert(GRPC_MESSAGE, percent_encode(&format!("{} {error}", error.response_flag().as_str())));
    trailers
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
