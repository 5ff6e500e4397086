//! Which fields may be trailers. Some applications merge trailers into the head, so what a head is judged by must not come
//! after it (RFC 9110 section 6.5.1).

use http::{HeaderMap, HeaderName};

/// Of framing, routing, authentication, request modifiers and response control, of the connection, and our own.
const HARMFUL: [&str; 37] = [
    "age",
    "authorization",
    "cache-control",
    "connection",
    "cookie",
    "date",
    "expect",
    "expires",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "location",
    "max-forwards",
    "origin",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "referer",
    "retry-after",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "x-http-method-override",
    "x-original-url",
    "x-real-ip",
    "x-remora-hop",
    "x-remora-reason",
    "x-rewrite-url",
];
/// Families of the same: conditions, how to read the content, what proxies say of the client.
const HARMFUL_BEGINNINGS: [&str; 3] = ["content-", "if-", "x-forwarded-"];
/// Of these families, what is known only once the content was sent (RFC 9530 section 2).
const KNOWN_LATE: [&str; 2] = ["content-digest", "content-md5"];

/// Removes the fields that must not be trailers.
pub(crate) fn keep_harmless(trailers: &mut HeaderMap) {
    let harmful: Vec<HeaderName> = trailers.keys().filter(|name| is_harmful(name.as_str())).cloned().collect();
    for name in harmful {
        trailers.remove(name);
    }
}

/// Whether a field, its name in lower case, must not be a trailer.
pub fn is_harmful(name: &str) -> bool {
    HARMFUL.binary_search(&name).is_ok()
        || HARMFUL_BEGINNINGS.iter().any(|begin| name.starts_with(begin)) && !KNOWN_LATE.contains(&name)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_a_head_is_judged_by_is_no_trailer() {
        assert!(HARMFUL.is_sorted());
        let fields = [
            "grpc-status",
            "content-length",
            "content-digest",
            "content-disposition",
            "host",
            "if-match",
            "proxy-authenticate",
            "retry-after",
            "x-forwarded-client-cert",
            "x-forwarded-host",
            "etag",
            "te",
        ];
        let mut trailers: HeaderMap =
            fields.map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1"))).into_iter().collect();
        keep_harmless(&mut trailers);
        let mut left: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-digest", "etag", "grpc-status"]);
    }
}
