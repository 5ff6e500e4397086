//! HTTP/1.0 and HTTP/1.1 (RFC 9112). The codec is pure: [`parse`], [`chunked`] and [`encode`] know bytes only. The connections are
//! [`server`] and [`client`]; bodies are read straight from them by whoever wants them next.

pub mod chunked;
pub(crate) mod client;
pub(crate) mod downstream;
pub mod encode;
mod field_lines;
pub mod framing;
mod invalid;
mod names;
mod output;
pub mod parse;
pub(crate) mod server;
pub(super) mod target;
mod wire;
mod writer;

use http::header::{self, HeaderMap};
use http::uri::Authority;

/// The Host header: exactly one, and a valid authority, in HTTP/1.1 (RFC 9112 section 3.2).
pub(crate) fn host(headers: &HeaderMap, version: http::Version) -> Result<Option<Authority>, &'static str> {
    let mut values = headers.get_all(header::HOST).iter();
    match (values.next(), values.next()) {
        (Some(_), Some(_)) => Err("more than one Host header"),
        (Some(value), None) if value.is_empty() => Ok(None),
        (Some(value), None) => {
            let authority = Authority::try_from(value.as_bytes()).ok().and_then(target::valid);
            authority.map(Some).ok_or("invalid Host header")
        }
        (None, _) if version == http::Version::HTTP_11 => Err("no Host header"),
        (None, _) => Ok(None),
    }
}
