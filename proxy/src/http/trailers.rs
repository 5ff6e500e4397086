//! Which fields may be trailers. Some applications merge trailers into the head, so what a head is judged by must not come
//! after it (RFC 9110 section 6.5.1).

use http::{HeaderMap, HeaderName};

/// Of framing, routing, authentication, request modifiers and content processing, of the connection, and our own.
pub const HARMFUL: [&str; 31] = [
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "max-forwards",
    "origin",
    "pragma",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "referer",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "www-authenticate",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-remora-hop",
];

/// Removes the fields that must not be trailers.
pub(crate) fn keep_harmless(trailers: &mut HeaderMap) {
    let harmful: Vec<HeaderName> = trailers.keys().filter(|name| is_harmful(name)).cloned().collect();
    for name in harmful {
        trailers.remove(name);
    }
}

fn is_harmful(name: &HeaderName) -> bool {
    HARMFUL.binary_search(&name.as_str()).is_ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_a_head_is_judged_by_is_no_trailer() {
        assert!(HARMFUL.is_sorted());
        let fields = ["grpc-status", "content-length", "host", "x-forwarded-client-cert", "etag", "te"];
        let mut trailers: HeaderMap =
            fields.map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1"))).into_iter().collect();
        keep_harmless(&mut trailers);
        let mut left: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["etag", "grpc-status"]);
    }
}
