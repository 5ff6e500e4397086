//! Request and response heads, the same for every HTTP version.

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, StatusCode, Version};

/// The head of a request.
#[derive(Clone, Debug)]
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
}

impl RequestHead {
    /// Whether this is gRPC (its `content-type` begins with `application/grpc`), so that errors must be trailers.
    pub fn is_grpc(&self) -> bool {
        self.headers
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
    }
}
