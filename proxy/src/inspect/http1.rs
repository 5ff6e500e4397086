//! Tells an HTTP/1 request from other bytes by its request line (RFC 9112 section 3).

use super::{LIMIT, Verdict};

/// No method is longer.
const MAX_METHOD: usize = 32;
/// Followed by a space and a slash these are a request at once, so that one which stops there meets the bounds of HTTP.
const METHODS: [&[u8]; 9] = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH"];
const VERSION: &[u8] = b"HTTP/1.";

/// Judges bytes that begin neither TLS nor HTTP/2. RTSP, SIP and the like, which differ in the version only, are TCP. What some
/// server takes for a request is one here, too, though it will be refused: as bytes it would pass unfiltered.
pub(super) fn classify(prefix: &[u8]) -> Verdict {
    let prefix = &prefix[..prefix.len().min(LIMIT)];
    // Two empty lines are to be ignored (RFC 9112 section 2.2); there are servers that ignore any number, and half ones.
    let empty = prefix.iter().take_while(|byte| b"\r\n".contains(byte)).count();
    let line = &prefix[empty..];
    match request_line(line) {
        Some(true) => Verdict::Http1,
        Some(false) => Verdict::Tcp,
        None if prefix.len() == LIMIT && has_long_target(line) => Verdict::Http1,
        None if prefix.len() == LIMIT => Verdict::Tcp,
        None => Verdict::NeedMore,
    }
}

/// Whether what follows the method of an unfinished line looks like a target.
fn has_long_target(line: &[u8]) -> bool {
    let target = line.iter().position(|&byte| byte == b' ').map_or(&[][..], |space| line[space..].trim_ascii_start());
    target.starts_with(b"/") || target.get(..4).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"http"))
}

/// Whether it is an HTTP/1 request line; `None` while that is open.
fn request_line(line: &[u8]) -> Option<bool> {
    let method = line.iter().take(MAX_METHOD + 1).take_while(|&&byte| is_token(byte)).count();
    if method > MAX_METHOD {
        return Some(false);
    }
    let (method, rest) = line.split_at(method);
    let (&space, target) = rest.split_first()?;
    if method.is_empty() || space != b' ' {
        return Some(false);
    }
    // One space stands here (RFC 9112 section 3), yet there are servers that take several.
    let target = &target[target.iter().take_while(|&&byte| byte == b' ').count()..];
    if *target.first()? == b'/' && METHODS.contains(&method) {
        return Some(true);
    }
    let length = target.iter().take_while(|&&byte| byte > b' ' && byte != 0x7f).count();
    let (target, rest) = target.split_at(length);
    let (&space, version) = rest.split_first()?;
    if target.is_empty() || space != b' ' {
        return Some(false);
    }
    let common = version.len().min(VERSION.len());
    if version[..common] != VERSION[..common] {
        return Some(false);
    }
    version.get(VERSION.len()).map(u8::is_ascii_digit)
}

/// `tchar` of RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
