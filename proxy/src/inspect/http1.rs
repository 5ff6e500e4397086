//! Tells an HTTP/1 request from other bytes by its request line (RFC 9112 section 3).

use super::{LIMIT, Verdict};

/// Followed by a space and a slash these are a request at once, so that one which stops there meets the bounds of HTTP.
const METHODS: [&[u8]; 9] = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH"];
/// Before the number of one.
const VERSION: &[u8] = b"HTTP/";

/// Judges bytes that begin neither TLS nor HTTP/2. RTSP, SIP and the like, which differ in the version only, are TCP. What some
/// server takes for a request is one here, too, though it will be refused: as bytes it would pass unfiltered.
pub(super) fn classify(prefix: &[u8]) -> Verdict {
    let prefix = &prefix[..prefix.len().min(LIMIT)];
    // Two empty lines are to be ignored (RFC 9112 section 2.2); there are servers that ignore any number, half ones and blanks.
    let empty = prefix.iter().take_while(|&&byte| byte == b'\n' || is_blank(byte)).count();
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
    let method = line.iter().take_while(|&&byte| !is_blank(byte)).count();
    let target = skip_blanks(&line[method..]);
    target.starts_with(b"/") || is_absolute(target)
}

/// Whether it is an HTTP/1 request line; `None` while that is open.
fn request_line(line: &[u8]) -> Option<bool> {
    let method = line.iter().take_while(|&&byte| is_token(byte)).count();
    let (method, rest) = line.split_at(method);
    let blank = *rest.first()?;
    if method.is_empty() || !is_blank(blank) {
        return Some(false);
    }
    // One space stands here (RFC 9112 section 3), yet there are servers that take several.
    let target = skip_blanks(rest);
    if *target.first()? == b'/' && METHODS.contains(&method) {
        return Some(true);
    }
    let mut words = target;
    loop {
        let word = words.iter().take_while(|&&byte| byte != b'\n' && !is_blank(byte)).count();
        let version = skip_blanks(&words[word..]);
        if *version.first()? == b'\n' {
            // The form of HTTP/0.9.
            return Some(METHODS.contains(&method) && is_absolute(target));
        }
        let common = version.len().min(VERSION.len());
        if word > 0 && version[..common] == VERSION[..common] {
            // Those from 2 on are no line of text.
            return version.get(VERSION.len()).map(|digit| digit.is_ascii_digit() && !b"23".contains(digit));
        }
        // A space ends the target for every server, another blank for some.
        if words[word..words.len() - version.len()].contains(&b' ') {
            return Some(false);
        }
        words = version;
    }
}

fn is_absolute(target: &[u8]) -> bool {
    target.get(..4).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"http"))
}

/// What parts the words of a line for servers that take any white space of ISO 8859-1 for it, as Python's do; the end of the line aside.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b'\t' | 0x0b..=b'\r' | 0x1c..=b' ' | 0x85 | 0xa0)
}

fn skip_blanks(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.iter().take_while(|&&byte| is_blank(byte)).count()..]
}

/// `tchar` of RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
