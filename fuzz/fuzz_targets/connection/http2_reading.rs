//! The requests that a reader of its own, as strict as RFC 9113, finds in what a client sends over HTTP/2: frames by their definitions, HPACK by
//! another library than the proxy's.

use std::collections::BTreeMap;

use loona_hpack::Decoder;
use loona_hpack::decoder::DecoderError;

use super::origin::{Request, is_token};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The next one, where it is whole.
    fn next(bytes: &mut &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<9>()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (payload, rest) = rest.split_at_checked(length)?;
        *bytes = rest;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & !(1 << 31);
        Some(Self { kind: head[3], flags: head[4], stream, payload })
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// What it carries without padding and priority; none where it has less than it says.
    fn content(&self) -> Option<&'a [u8]> {
        let mut content = self.payload;
        if self.has(PADDED) {
            let (padding, rest) = content.split_first()?;
            content = &rest[..rest.len().checked_sub(usize::from(*padding))?];
        }
        if self.kind == HEADERS && self.has(PRIORITY) {
            content = content.get(5..)?;
        }
        Some(content)
    }
}

/// A request whose end has not come yet.
struct Open {
    method: String,
    host: String,
    target: String,
    fields: Fields,
    length: Option<usize>,
    body: Vec<u8>,
}

impl Open {
    /// Of a whole head that is well-formed (RFC 9113 sections 8.2, 8.3, RFC 8441).
    fn new(fields: &Fields) -> Option<Self> {
        let pseudo = fields.iter().take_while(|(name, _)| name.starts_with(b":")).count();
        let (pseudo, regular) = fields.split_at(pseudo);
        let names = [":method", ":scheme", ":authority", ":path", ":protocol"];
        let [method, scheme, authority, path, protocol] = names.map(|name| values(pseudo, name));
        let known = pseudo.iter().all(|(name, _)| names.iter().any(|known| known.as_bytes() == name));
        let once = [&method, &scheme, &authority, &path, &protocol].iter().all(|values| values.len() <= 1);
        if !known || !once || !regular.iter().all(is_field) {
            return None;
        }
        let text = |values: &[&[u8]]| values.first().map(|value| String::from_utf8_lossy(value).into_owned());
        let (hosts, lengths) = (values(regular, "host"), values(regular, "content-length"));
        let host = text(&authority).or_else(|| text(&hosts))?;
        let usual = if scheme == [b"https"] { 443 } else { 80 };
        let place = |host: &str| match host.to_ascii_lowercase().rsplit_once(':') {
            Some((name, "")) => (name.to_owned(), usual),
            Some((name, port)) if port.parse::<u16>().is_ok() => (name.to_owned(), port.parse().unwrap_or(usual)),
            _ => (host.to_ascii_lowercase(), usual),
        };
        // An empty one says nothing.
        let is_other = |other: &&[u8]| !other.is_empty() && place(&String::from_utf8_lossy(other)) != place(&host);
        if hosts.len() > 1 || hosts.iter().any(is_other) || lengths.len() > 1 {
            return None;
        }
        let length = match lengths.first() {
            Some(digits) if digits.iter().all(u8::is_ascii_digit) => Some(str::from_utf8(digits).ok()?.parse().ok()?),
            Some(_) => return None,
            None => None,
        };
        let (mut method, mut target) = (text(&method)?, text(&path).unwrap_or_default());
        let tunnel = method == "CONNECT";
        let wanted = if tunnel && protocol.is_empty() { 0 } else { 1 };
        if [&scheme, &path].iter().any(|values| values.len() != wanted) || (!tunnel && !protocol.is_empty()) {
            return None;
        }
        if tunnel && wanted == 1 {
            "GET".clone_into(&mut method);
        }
        // The h2 crate does, before the proxy sees it.
        target.truncate(target.find('#').unwrap_or(target.len()));
        let length = if tunnel { Some(0) } else { length };
        Some(Self { method, host, target, fields: regular.to_vec(), length, body: Vec::new() })
    }

    /// It is all there, with the end of its stream or before.
    fn is_whole(&self, ends: bool) -> bool {
        self.length.map_or(ends, |length| length == self.body.len())
    }

    fn request(&self) -> Request {
        let fields =
            self.fields.iter().map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.clone()));
        Request::new(&self.method, &self.host, &self.target, self.body.clone()).with(fields)
    }
}

fn values<'a>(fields: &'a [(Vec<u8>, Vec<u8>)], name: &str) -> Vec<&'a [u8]> {
    fields.iter().filter(|(field, _)| field == name.as_bytes()).map(|(_, value)| value.as_slice()).collect()
}

/// Whether a message may have this one (RFC 9113 sections 8.2.1, 8.2.2).
fn is_field((name, value): &(Vec<u8>, Vec<u8>)) -> bool {
    let text = String::from_utf8_lossy(name);
    let hops = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    is_token(&text)
        && !text.bytes().any(|byte| byte.is_ascii_uppercase())
        && !hops.contains(&&*text)
        && (text != "te" || value == b"trailers")
        && !value.iter().any(|byte| matches!(byte, b'\0' | b'\r' | b'\n'))
        && !blank(value.first())
        && !blank(value.last())
}

/// Those that are whole, until bytes that no reader could go on behind.
pub(crate) fn requests(mut bytes: &[u8]) -> Vec<Request> {
    let mut reader = Reader { hpack: Decoder::new(), open: BTreeMap::new(), last: 0, whole: Vec::new() };
    while let Some(frame) = Frame::next(&mut bytes) {
        if reader.frame(&frame, &mut bytes).is_none() {
            break;
        }
    }
    reader.whole
}

struct Reader<'a> {
    hpack: Decoder<'a>,
    open: BTreeMap<u32, Open>,
    /// The last stream that began.
    last: u32,
    whole: Vec<Request>,
}

impl Reader<'_> {
    /// Nothing where the connection cannot go on.
    fn frame(&mut self, frame: &Frame<'_>, rest: &mut &[u8]) -> Option<()> {
        match frame.kind {
            DATA => self.data(frame),
            HEADERS => self.head(frame, rest),
            RST_STREAM => {
                self.open.remove(&frame.stream);
                Some(())
            }
            PUSH_PROMISE | CONTINUATION => None,
            _ => Some(()),
        }
    }

    fn data(&mut self, frame: &Frame<'_>) -> Option<()> {
        let content = frame.content()?;
        if frame.stream == 0 || frame.stream > self.last {
            return None;
        }
        let Some(open) = self.open.get_mut(&frame.stream) else { return Some(()) };
        open.body.extend_from_slice(content);
        if open.is_whole(frame.has(END_STREAM)) {
            self.whole.push(open.request());
        }
        if frame.has(END_STREAM) || open.length.is_some_and(|length| length < open.body.len()) {
            self.open.remove(&frame.stream);
        }
        Some(())
    }

    fn head(&mut self, frame: &Frame<'_>, rest: &mut &[u8]) -> Option<()> {
        let mut block = frame.content()?.to_vec();
        let mut ended = frame.has(END_HEADERS);
        while !ended {
            let more = Frame::next(rest)?;
            if more.kind != CONTINUATION || more.stream != frame.stream {
                return None;
            }
            block.extend_from_slice(more.payload);
            ended = more.has(END_HEADERS);
        }
        let mut fields = Fields::new();
        let decoded =
            self.hpack.decode_with_cb(&block, |name, value| fields.push((name.into_owned(), value.into_owned())));
        // Which libraries take, where a table's size alone is told.
        if !matches!(decoded, Ok(()) | Err(DecoderError::SizeUpdateAtEnd)) {
            return None;
        }
        if let Some(open) = self.open.remove(&frame.stream) {
            // The h2 crate drops pseudo-fields of trailers, before the proxy sees them. Blanks are taken off their values.
            let mut trailers = fields.into_iter().filter(|(name, _)| !name.starts_with(b":"));
            let is_trailer = |(name, value): (Vec<u8>, Vec<u8>)| is_field(&(name, value.trim_ascii().to_vec()));
            if frame.has(END_STREAM) && trailers.all(is_trailer) && open.is_whole(true) {
                self.whole.push(open.request());
            }
            return Some(());
        }
        if frame.stream % 2 == 0 {
            return None;
        }
        if frame.stream > self.last {
            self.last = frame.stream;
            if let Some(open) = Open::new(&fields) {
                if open.is_whole(frame.has(END_STREAM)) {
                    self.whole.push(open.request());
                }
                if !frame.has(END_STREAM) {
                    self.open.insert(frame.stream, open);
                }
            }
        }
        Some(())
    }
}
