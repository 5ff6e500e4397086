//! How long a message's body is (RFC 9112 section 6), judged from its fields.

use http::Version;
use http::header::{CONTENT_LENGTH, HeaderMap, TRAILER};

use super::parse::InvalidHead;

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// After this many bytes; never none.
    Length(u64),
    /// After its last chunk.
    Chunked,
    /// With the connection; responses only.
    UntilClose,
}

/// The one Content-Length of a message: digits alone, and no leading zero, which some would read as octal. What some keep in 63
/// bits is negative to them beyond that, and the h2 crate reads no more than 19 digits.
pub(crate) fn content_length(value: &[u8]) -> Result<u64, InvalidHead> {
    let valid = match value {
        [b'0'] => true,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    let digits = str::from_utf8(value).ok().filter(|_| valid);
    let length = digits.and_then(|digits| digits.parse().ok());
    length.filter(|&length| i64::try_from(length).is_ok()).ok_or(InvalidHead::ContentLength)
}

/// The length that a head announces, which was judged when it was read, to who speaks `version`: none where it announces trailers,
/// too, and there are chunks to have a place behind.
pub(super) fn announced(headers: &HeaderMap, version: Version) -> Option<u64> {
    let length = headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
    length.filter(|_| version != Version::HTTP_11 || !headers.contains_key(TRAILER))
}

/// Requires that Transfer-Encoding is `chunked` and nothing else, since no other coding can be undone here or passed on.
pub(super) fn only_chunked(value: &[u8]) -> Result<(), InvalidHead> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let codings: Vec<&[u8]> = members(value).collect();
    let chunked = codings.iter().filter(|coding| coding.eq_ignore_ascii_case(b"chunked")).count();
    let last = codings.last().is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked"));
    if chunked == 1 && last && codings.iter().all(|coding| is_token(coding)) {
        return Err(InvalidHead::UnknownCoding);
    }
    Err(InvalidHead::TransferEncoding)
}

/// The members of a comma-separated list (RFC 9110 section 5.6.1).
pub(super) fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim)
}

fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// `token` of RFC 9110 section 5.6.2.
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
