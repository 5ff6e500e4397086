//! Request and response heads, the same for every HTTP version.

use h2::ext::Protocol;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};

use super::spelling::Spelling;

/// The head of a request.
#[derive(Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The scheme of HTTP/2's `:scheme` or of an absolute-form target.
    pub scheme: Option<Scheme>,
    /// HTTP/2's `:authority`, else the authority of an absolute-form target, else the Host header.
    pub authority: Option<Authority>,
    /// The path and query; `*` for `OPTIONS *`, empty for CONNECT.
    pub path: PathAndQuery,
    /// What the downstream speaks.
    pub version: Version,
    /// The header fields, without pseudo-headers.
    pub headers: HeaderMap,
    /// The protocol an HTTP/1.1 request asks to change to (RFC 9110 section 7.8).
    pub upgrade: Option<HeaderValue>,
    /// The protocol an HTTP/2 CONNECT asks for on its stream (RFC 8441).
    pub protocol: Option<Protocol>,
    /// How HTTP/1 wrote it.
    pub spelling: Spelling,
    /// Whether its route has it sent again where doing it twice changes nothing.
    pub repeats: bool,
}

/// The head of a response.
#[derive(Debug)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// What the upstream speaks.
    pub version: Version,
    /// The header fields.
    pub headers: HeaderMap,
    /// How HTTP/1 wrote it.
    pub spelling: Spelling,
}

impl RequestHead {
    /// Stands for one that could not be read.
    pub(crate) fn unread() -> Self {
        Self {
            method: Method::from_bytes(b"-").expect("a token"),
            scheme: None,
            authority: None,
            path: PathAndQuery::from_static("/"),
            version: Version::HTTP_11,
            headers: HeaderMap::new(),
            upgrade: None,
            protocol: None,
            spelling: Spelling::default(),
            repeats: false,
        }
    }

    /// Whether this is gRPC, so that errors must be trailers: its `content-type` is `application/grpc`, perhaps with a
    /// suffix such as `+proto`. gRPC-Web, which is HTTP/1, is another type.
    pub fn is_grpc(&self) -> bool {
        let kind = self.headers.get(http::header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    }
}
