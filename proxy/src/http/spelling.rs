//! What HTTP/1 writes and a [`HeaderMap`](http::HeaderMap) does not hold: the case of field names, and an unusual reason phrase.
//! Neither means anything (RFC 9110 section 5.1), yet there are applications that look for `Content-Length` only. And a target
//! with bytes that no URI has, which a [`PathAndQuery`] refuses and most servers take.

use bytes::{Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{HeaderValue, StatusCode, Version};

use crate::lanes::{HIGH, at_least};

/// Bytes of names that are neither of the common forms, at most; what is beyond is written in the form of the first name.
const MAX_NAMES: usize = 2048;
/// Bytes of a reason phrase that is kept.
const MAX_REASON: usize = 512;
/// Bytes of a target with bytes that no URI has: a hop carries it twice, once with three bytes for one.
pub(super) const MAX_TARGET: usize = 8 * 1024;

/// How a head was written. The common forms, all names lower case or all `Title-Case`, take no memory of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spelling {
    title: bool,
    irregular: Option<Box<Irregular>>,
}

/// Which of the common forms a name has: both, where it has no letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    lower: bool,
    title: bool,
}

impl Form {
    pub(super) fn of(written: &[u8]) -> Self {
        let mut start = true;
        let mut form = Self { lower: true, title: true };
        for byte in written {
            form.lower &= !byte.is_ascii_uppercase();
            form.title &= if start { !byte.is_ascii_lowercase() } else { !byte.is_ascii_uppercase() };
            start = *byte == b'-';
        }
        form
    }
}

/// Puts a name in lower case into `Title-Case`.
fn make_title(name: &mut [u8]) {
    let mut start = HIGH & 0xff;
    let (words, rest) = name.as_chunks_mut();
    for bytes in words {
        let word = u64::from_le_bytes(*bytes);
        // Names are ASCII.
        let low = word & !HIGH;
        let dashes = at_least(low, b'-') & !at_least(low, b'-' + 1) & HIGH;
        let letters = at_least(low, b'a') & !at_least(low, b'z' + 1);
        let starts = dashes << 8 | start;
        start = dashes >> 56;
        *bytes = (word ^ (starts & letters) >> 2).to_le_bytes();
    }
    let mut start = start != 0;
    for byte in rest {
        if start {
            byte.make_ascii_uppercase();
        }
        start = *byte == b'-';
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Irregular {
    /// Names that differ from the form of the others, separated by commas.
    names: String,
    /// Of a response.
    reason: Option<Bytes>,
    /// Of a request: its path and query as they were written, where the head has them percent-encoded.
    target: Option<Bytes>,
}

/// A target in which those bytes are percent-encoded that a [`PathAndQuery`] refuses; `None` where it is longer than is kept. No others
/// are: a rule about `/a"b` must not lose sight of it when `?<` comes behind.
pub(super) fn encode_target(written: &[u8]) -> Option<Vec<u8>> {
    if written.len() > MAX_TARGET {
        return None;
    }
    let mut encoded = Vec::with_capacity(3 * written.len());
    let mut query = false;
    for &byte in written {
        query |= byte == b'?';
        let code: &[u8] = match byte {
            b'<' => b"%3C",
            b'>' => b"%3E",
            b'`' if !query => b"%60",
            b'"' if query => b"%22",
            _ => &[byte],
        };
        encoded.extend_from_slice(code);
    }
    Some(encoded)
}

impl Spelling {
    /// Learns from a name as it was written, in this form; the `first` one says the form that the others are expected to have.
    pub(super) fn learn(&mut self, written: &str, form: Form, first: bool) {
        if first {
            self.title = !form.lower;
        }
        if !(if self.title { form.title } else { form.lower }) {
            self.except(written);
        }
    }

    fn except(&mut self, written: &str) {
        let names = &mut self.irregular.get_or_insert_default().names;
        if names.len() + written.len() < MAX_NAMES {
            if !names.is_empty() {
                names.push(',');
            }
            names.push_str(written);
        }
    }

    /// Learns the reason phrase that came with a status.
    pub(super) fn learn_reason(&mut self, status: StatusCode, reason: Bytes) {
        let usual = status.canonical_reason().unwrap_or_default();
        if reason != usual && reason.len() <= MAX_REASON {
            self.irregular.get_or_insert_default().reason = Some(reason);
        }
    }

    /// Learns a target as it was written, of which the head's path is the [`encode_target`].
    pub(super) fn learn_target(&mut self, written: Bytes) {
        self.irregular.get_or_insert_default().target = Some(written);
    }

    /// The path of a request as it was written, if the head has another form of it.
    pub fn target(&self) -> Option<&[u8]> {
        self.irregular.as_ref()?.target.as_deref()
    }

    /// Forgets it: the request has got another path.
    pub(crate) fn forget_target(&mut self) {
        if let Some(irregular) = &mut self.irregular {
            irregular.target = None;
        }
    }

    /// Appends a name, given in lower case, as it was written.
    pub(super) fn write_name(&self, out: &mut BytesMut, name: &str) {
        let names = self.irregular.as_ref().map_or("", |irregular| &irregular.names);
        if !names.is_empty()
            && let Some(written) = names.split(',').find(|written| written.eq_ignore_ascii_case(name))
        {
            out.extend_from_slice(written.as_bytes());
            return;
        }
        let begin = out.len();
        out.extend_from_slice(name.as_bytes());
        if self.title {
            make_title(&mut out[begin..]);
        }
    }

    /// The reason phrase of a response.
    pub(super) fn reason(&self, status: StatusCode) -> &[u8] {
        let kept = self.irregular.as_ref().and_then(|irregular| irregular.reason.as_deref());
        kept.unwrap_or_else(|| status.canonical_reason().unwrap_or_default().as_bytes())
    }

    /// The value of the private hop header that tells our own sidecar of it: the version, then where there is something to tell
    /// `;t` (title case) or `;l`, exceptional names each after a comma, and after another semicolon the reason phrase of a response
    /// or the target of a request.
    pub fn to_hop(&self, version: Version) -> HeaderValue {
        let old = version == Version::HTTP_10;
        let Some(irregular) = &self.irregular else {
            return HeaderValue::from_static(match (old, self.title) {
                (true, true) => "1.0;t",
                (true, false) => "1.0",
                (false, true) => "1.1;t",
                (false, false) => "1.1",
            });
        };
        let mut text = BytesMut::from(if old { "1.0;" } else { "1.1;" });
        text.extend_from_slice(if self.title { b"t" } else { b"l" });
        if !irregular.names.is_empty() {
            text.extend_from_slice(b",");
            text.extend_from_slice(irregular.names.as_bytes());
        }
        if let Some(last) = irregular.reason.as_ref().or(irregular.target.as_ref()) {
            text.extend_from_slice(b";");
            text.extend_from_slice(last);
        }
        let value = HeaderValue::from_maybe_shared(text.freeze());
        let mut value = value.expect("names, reason phrases and targets are valid in a field value");
        // It is another in each request, and would only take the place of others in HPACK's table.
        value.set_sensitive(irregular.target.is_some());
        value
    }

    /// Reads [`to_hop`](Self::to_hop) of a response; `None` where the value says something else.
    pub fn of_response(value: &HeaderValue) -> Option<(Version, Self)> {
        let (version, mut spelling, reason) = Self::from_hop(value)?;
        if let Some(reason) = reason.filter(|reason| reason.len() <= MAX_REASON) {
            spelling.irregular.get_or_insert_default().reason = Some(Bytes::copy_from_slice(reason));
        }
        Some((version, spelling))
    }

    /// Reads [`to_hop`](Self::to_hop) of a request; `None` where the value says something else, a target among it that is not `path` in
    /// other words: by that one the request is routed and judged.
    pub fn of_request(value: &HeaderValue, path: &PathAndQuery) -> Option<(Version, Self)> {
        let (version, mut spelling, target) = Self::from_hop(value)?;
        let same = |target: &&[u8]| encode_target(target).is_some_and(|encoded| encoded == path.as_str().as_bytes());
        if let Some(target) = target {
            spelling.learn_target(Some(target).filter(same).map(Bytes::copy_from_slice)?);
        }
        Some((version, spelling))
    }

    /// Reads [`to_hop`](Self::to_hop) of trailers; `None` where the value says something else.
    pub(super) fn of_trailers(value: &HeaderValue) -> Option<Self> {
        Self::from_hop(value).map(|(_, spelling, _)| spelling)
    }

    /// The version, the names, and what is behind the second semicolon.
    fn from_hop(value: &HeaderValue) -> Option<(Version, Self, Option<&[u8]>)> {
        let mut parts = value.as_bytes().splitn(3, |&byte| byte == b';');
        let version = match parts.next()? {
            b"1.0" => Version::HTTP_10,
            b"1.1" => Version::HTTP_11,
            _ => return None,
        };
        let mut spelling = Self::default();
        let mut names = parts.next().and_then(|names| str::from_utf8(names).ok()).unwrap_or_default().split(',');
        spelling.title = names.next() == Some("t");
        names.filter(|name| super::h1::framing::is_token(name.as_bytes())).for_each(|name| spelling.except(name));
        Some((version, spelling, parts.next()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learn(names: &[&str]) -> Spelling {
        let mut spelling = Spelling::default();
        names.iter().enumerate().for_each(|(index, name)| spelling.learn(name, Form::of(name.as_bytes()), index == 0));
        spelling
    }

    fn write(spelling: &Spelling, name: &str) -> String {
        let mut out = BytesMut::new();
        spelling.write_name(&mut out, &name.to_lowercase());
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn common_forms_take_no_memory_and_every_form_comes_back() {
        for (names, regular) in [
            (&["host", "x-a"][..], true),
            (&["Host", "User-Agent", "X-B3-Traceid", "1-A_b"], true),
            (&["Host", "ETag", "x-lower", "TE"], false),
            (&["host", "Accept"], false),
            (&["HOST", "USER-AGENT"], false),
            (&["x-A", "aB-cD"], false),
        ] {
            let spelling = learn(names);
            assert_eq!(spelling.irregular.is_none(), regular, "{names:?}");
            for name in names {
                assert_eq!(write(&spelling, name), *name, "{names:?}");
            }
            let hop = spelling.to_hop(Version::HTTP_10);
            assert_eq!(Spelling::of_response(&hop), Some((Version::HTTP_10, spelling)), "{hop:?}");
        }
        for (name, title) in [
            ("traceparent", "Traceparent"),
            ("content-length", "Content-Length"),
            ("accept-encoding", "Accept-Encoding"),
            ("x-forw-a-b-c-long-_z{1-", "X-Forw-A-B-C-Long-_z{1-"),
        ] {
            assert_eq!(write(&learn(&["Host"]), name), title);
        }
    }

    #[test]
    fn an_unusual_reason_is_kept() {
        for (reason, kept) in [("OK", false), ("", true), ("Fine; really, \u{e9}", true)] {
            let mut spelling = Spelling::default();
            spelling.learn_reason(StatusCode::OK, Bytes::copy_from_slice(reason.as_bytes()));
            assert_eq!((spelling.irregular.is_some(), spelling.reason(StatusCode::OK)), (kept, reason.as_bytes()));
            let hop = spelling.to_hop(Version::HTTP_11);
            assert_eq!(Spelling::of_response(&hop), Some((Version::HTTP_11, spelling)), "{hop:?}");
        }
        assert_eq!(Spelling::default().reason(StatusCode::from_u16(299).unwrap()), b"");
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_the_hop_says_is_checked() {
        let long = vec!["aB-cD-eF-gH-iJ-kL-mN-oP"; 1000];
        assert!(learn(&long).irregular.unwrap().names.len() < MAX_NAMES);
        assert_eq!(Spelling::of_response(&HeaderValue::from_static("undelivered")), None);
        let hostile = HeaderValue::from_static("1.1;t,X Y,A:B,,ETag");
        assert_eq!(Spelling::of_response(&hostile).unwrap().1.irregular.unwrap().names, "ETag");
    }

    #[test]
    fn a_target_crosses_the_hop_where_it_says_what_the_path_says() {
        let written = "/a;b\"<>`{}|^\\?c=`;%22\"";
        let path = PathAndQuery::try_from(encode_target(written.as_bytes()).unwrap()).unwrap();
        assert_eq!(path, "/a;b\"%3C%3E%60{}|^\\?c=`;%22%22");
        let mut spelling = learn(&["Host", "ETag"]);
        spelling.learn_target(Bytes::from(written));
        let hop = spelling.to_hop(Version::HTTP_11);
        assert!(hop.is_sensitive());
        assert_eq!(Spelling::of_request(&hop, &path), Some((Version::HTTP_11, spelling.clone())));
        for forged in ["/", "/a", "/a;b\"%3C%3E%60{}|^\\?c=`;%22%2", "/a;b\"%3c%3E%60{}|^\\?c=`;%22%22"] {
            assert_eq!(Spelling::of_request(&hop, &PathAndQuery::try_from(forged).unwrap()), None, "{forged}");
        }
        spelling.forget_target();
        assert_eq!(spelling, learn(&["Host", "ETag"]));
        assert_eq!(encode_target(&[b'<'; MAX_TARGET + 1]), None);
    }
}
