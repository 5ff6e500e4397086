//! Tells an HTTP/1 request from other bytes by its request line (RFC 9112 section 3).

use super::{LIMIT, Verdict};

/// Methods that no protocol but HTTP says together with a URI.
const METHODS: [&[u8]; 8] = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"TRACE", b"PATCH"];
/// What stands before the number of a version that some server of HTTP takes.
const VERSIONS: [&[u8]; 3] = [b"HTTP/", b"RTSP/", b"ICE/"];

/// Judges bytes that begin neither TLS nor HTTP/2. What some server takes for a request is one here, too, though it will be
/// refused: as bytes it would pass unfiltered. Blanks aside, a line is one that begins with
///
/// * a method in upper case and a path;
/// * one of [`METHODS`] and a URI, or any method in upper case and a URI or asterisk that ends the line;
/// * anything, a target, and a version of HTTP or ICE, or of RTSP where the target is not RTSP's own;
/// * so many bytes ([`LIMIT`]) that it is none of these yet, but for a first word without end, or a second that is no path and no URI.
///
/// A first byte that begins no method, and a control byte in the first word or before the second, are TCP at once: they tell
/// much that is binary, JSON or XML, which must not wait.
pub(super) fn classify(prefix: &[u8]) -> Verdict {
    let prefix = &prefix[..prefix.len().min(LIMIT)];
    // Two empty lines are to be ignored (RFC 9112 section 2.2); there are servers that ignore any number, half ones and blanks.
    let empty = prefix.iter().take_while(|&&byte| byte == b'\n' || is_blank(byte)).count();
    let line = &prefix[empty..];
    match request_line(line) {
        None if prefix.len() < LIMIT => Verdict::NeedMore,
        Some(true) => Verdict::Http1,
        None if may_be_long(line) => Verdict::Http1,
        _ => Verdict::Tcp,
    }
}

/// Whether an unfinished line of any length may be a request's.
fn may_be_long(line: &[u8]) -> bool {
    let (_, rest) = line.split_at(first_word(line));
    let target = skip_blanks(rest);
    match target {
        [] => line.is_empty() || !rest.is_empty(),
        [b'/', ..] => true,
        _ => is_uri(target) == Some(true) || target.contains(&b' '),
    }
}

/// Whether it is an HTTP/1 request line; `None` while that is open.
fn request_line(line: &[u8]) -> Option<bool> {
    let (method, rest) = line.split_at(first_word(line));
    if !is_token(*line.first()?) || !is_blank(*rest.first()?) {
        return Some(false);
    }
    // One space stands here (RFC 9112 section 3), yet there are servers that take several.
    let target = skip_blanks(rest);
    let first = *target.first()?;
    if first.is_ascii_control() {
        return Some(false);
    }
    let upper = method.iter().all(|byte| matches!(byte, b'A'..=b'Z' | b'-' | b'_'));
    if upper && first == b'/' || METHODS.contains(&method) && is_uri(target)? {
        return Some(true);
    }
    let mut words = target;
    loop {
        let word = words.iter().take_while(|&&byte| byte != b'\n' && !is_blank(byte)).count();
        let version = skip_blanks(&words[word..]);
        if *version.first()? == b'\n' {
            // The form of HTTP/0.9. One of Redis' commands is often typed by hand.
            return Some(upper && method != b"KEYS" && (first == b'*' || is_uri(target)?));
        }
        if let Some(name) = VERSIONS.iter().find(|name| begin_alike(version, name)) {
            let own = *name == b"RTSP/" && begin_alike(target, b"rtsp");
            if matches!(*version.get(name.len())?, b'.' | b'0'..=b'9') && !own {
                return Some(true);
            }
        }
        // A space ends the target for every server, another blank for some.
        if words[word..words.len() - version.len()].contains(&b' ') {
            return Some(false);
        }
        words = version;
    }
}

/// The length of what stands before the first blank or control byte.
fn first_word(line: &[u8]) -> usize {
    line.iter().take_while(|&&byte| !byte.is_ascii_control() && !is_blank(byte)).count()
}

/// Whether `target` begins with a scheme and an authority; `None` while that is open.
fn is_uri(target: &[u8]) -> Option<bool> {
    let scheme = target.iter().take_while(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte)).count();
    let behind = target[scheme..].iter().zip(b"://").take_while(|(byte, mark)| byte == mark).count();
    match target.get(scheme + behind) {
        _ if behind == 3 => Some(scheme > 0),
        next => next.map(|_| false),
    }
}

/// Whether all that both have is the same, but for the case of letters.
fn begin_alike(bytes: &[u8], name: &[u8]) -> bool {
    bytes.iter().zip(name).all(|(byte, letter)| byte.eq_ignore_ascii_case(letter))
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
