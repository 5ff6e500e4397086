//! Which fields may be trailers. Some applications merge trailers into the head, so what a head is judged by must not come
//! after it (RFC 9110 section 6.5.1). And how HTTP/1 wrote their names: trailers are a [`HeaderMap`] and nothing beside it, so that is
//! carried in the field that tells our own sidecars of heads, as far as whoever writes them or hands them to anybody else.

use http::{HeaderMap, HeaderName, HeaderValue, Version};

use super::fields::HOP;
use super::spelling::Spelling;

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
/// Families of the same: conditions, how to read the content, what proxies say of the client, other meshes' words.
const HARMFUL_BEGINNINGS: [&str; 5] = ["content-", "if-", "l5d-", "x-envoy-", "x-forwarded-"];
/// Of these families, what is known only once the content was sent (RFC 9530 section 2).
const KNOWN_LATE: [&str; 2] = ["content-digest", "content-md5"];

/// Removes the fields that must not be trailers; of a `hop`, where our own sidecar is the peer, not its word on how they were written.
pub(crate) fn keep_harmless(trailers: &mut HeaderMap, hop: bool) {
    let harmful = |name: &&HeaderName| is_harmful(name.as_str()) && !(hop && *name == HOP);
    let harmful: Vec<HeaderName> = trailers.keys().filter(harmful).cloned().collect();
    for name in harmful {
        trailers.remove(name);
    }
}

/// Notes how trailers without harmful fields were written, where that is not as HTTP/2 writes them.
pub(super) fn mark_spelling(trailers: &mut HeaderMap, spelling: &Spelling) {
    if *spelling != Spelling::default() {
        trailers.insert(&HOP, spelling.to_hop(Version::HTTP_11));
    }
}

/// How trailers were written, as they carry it.
pub(super) fn spelling(trailers: &HeaderMap) -> Spelling {
    trailers.get(&HOP).and_then(Spelling::of_trailers).unwrap_or_default()
}

/// The fields of trailers, without what they carry for us.
pub(super) fn fields(trailers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    trailers.iter().filter(|(name, _)| **name != HOP)
}

/// Whether a field, its name in lower case, must not be a trailer.
pub fn is_harmful(name: &str) -> bool {
    if name.contains('_') {
        // Applications that are handed fields as variables (RFC 3875 section 4.1.18) take one for the other.
        return is_harmful(&name.replace('_', "-"));
    }
    HARMFUL.binary_search(&name).is_ok()
        || HARMFUL_BEGINNINGS.iter().any(|begin| name.starts_with(begin)) && !KNOWN_LATE.contains(&name)
}

#[cfg(test)]
mod tests {
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
            "x_forwarded_client_cert",
            "content_length",
            "x-envoy-internal",
            "l5d-dst-override",
            "x_check_sum",
            "etag",
            "te",
        ];
        let mut trailers: HeaderMap =
            fields.map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1"))).into_iter().collect();
        keep_harmless(&mut trailers, false);
        let mut left: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-digest", "etag", "grpc-status", "x_check_sum"]);
    }
}
