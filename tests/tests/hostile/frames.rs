//! HTTP/2 by hand: frames that no library would send, and what comes back.

use remora_test::PATIENCE;

use crate::peer::Stream;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Error codes (RFC 9113 section 7).
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// One frame as it stands on the wire.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// An integer in a prefix of seven bits (RFC 7541 section 5.1).
fn integer(mut value: usize, into: &mut Vec<u8>) {
    if value < 127 {
        return into.push(value as u8);
    }
    into.push(127);
    value -= 127;
    while value >= 128 {
        into.push((value % 128) as u8 | 128);
        value /= 128;
    }
    into.push(value as u8);
}

/// A literal field without indexing, nothing of it checked.
pub(crate) fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    literal(0, name, value)
}

/// A literal field that enters the dynamic table, where it has index 62.
pub(crate) fn indexed_field(name: &[u8], value: &[u8]) -> Vec<u8> {
    literal(0x40, name, value)
}

fn literal(kind: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut block = vec![kind];
    for text in [name, value] {
        integer(text.len(), &mut block);
        block.extend(text);
    }
    block
}

/// The pseudo-headers of a GET.
pub(crate) fn get(path: &str) -> Vec<u8> {
    request("GET", path)
}

/// The pseudo-headers of a request.
pub(crate) fn request(method: &str, path: &str) -> Vec<u8> {
    fields(&[(":method", method), (":scheme", "http"), (":authority", "server:8080"), (":path", path)])
}

/// Literal fields, one after another.
pub(crate) fn fields(list: &[(&str, &str)]) -> Vec<u8> {
    list.iter().flat_map(|(name, value)| field(name.as_bytes(), value.as_bytes())).collect()
}

/// What became of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A response with this status.
    Answer(u16),
    /// A reset with this code.
    Reset(u32),
    /// The connection ended, after a GOAWAY with this code if there was one.
    Closed(Option<u32>),
}

/// A received frame.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM and GOAWAY.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// A client's connection.
pub(crate) struct H2 {
    stream: Box<dyn Stream>,
    next: u32,
    /// What a stream may send before it is read, as the proxy said last.
    pub(crate) window: usize,
}

impl H2 {
    /// Sends preface and settings.
    pub(crate) fn begin(stream: Box<dyn Stream>, settings: &[(u16, u32)]) -> Self {
        let mut h2 = Self { stream, next: 1, window: 65_535 };
        let payload: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        assert!(h2.send(&[PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat()));
        h2
    }

    /// The number of the next stream.
    pub(crate) fn stream_id(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    /// Writes all of it; `false` when the connection is at its end, or takes nothing more.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Opens a stream with this header block and nothing behind it.
    pub(crate) fn ask(&mut self, block: &[u8]) -> u32 {
        let id = self.stream_id();
        self.send(&frame(HEADERS, END_STREAM | END_HEADERS, id, block));
        id
    }

    /// The next frame; `None` at the end.
    pub(crate) fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.read(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        let mut payload = vec![0; length];
        self.read(&mut payload)?;
        if head[3] == SETTINGS
            && let Some(window) = payload.chunks(6).find(|setting| setting[..2] == [0, 4])
        {
            self.window = u32::from_be_bytes(window[2..].try_into().unwrap()) as usize;
        }
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Option<()> {
        match self.stream.read_exact(buffer) {
            Ok(()) => Some(()),
            Err(error) => {
                let waited = matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
                assert!(!waited, "neither a frame nor an end in {PATIENCE:?}");
                None
            }
        }
    }

    /// What becomes of a stream.
    pub(crate) fn outcome(&mut self, id: u32) -> Outcome {
        let mut goaway = None;
        while let Some(frame) = self.frame() {
            match frame.kind {
                GOAWAY => goaway = Some(frame.code()),
                RST_STREAM if frame.stream == id => return Outcome::Reset(frame.code()),
                HEADERS if frame.stream == id => return Outcome::Answer(status(&frame.payload)),
                _ => {}
            }
        }
        Outcome::Closed(goaway)
    }

    /// Reads to the connection's end: the codes of resets, and of the last GOAWAY.
    pub(crate) fn end(&mut self) -> (Vec<u32>, Option<u32>) {
        let (mut resets, mut goaway) = (Vec::new(), None);
        while let Some(frame) = self.frame() {
            match frame.kind {
                GOAWAY => goaway = Some(frame.code()),
                RST_STREAM => resets.push(frame.code()),
                _ => {}
            }
        }
        (resets, goaway)
    }

    /// Waits until everything sent so far was read, by a ping.
    pub(crate) fn settled(&mut self) -> bool {
        if !self.send(&frame(PING, 0, 0, b"settled?")) {
            return false;
        }
        while let Some(frame) = self.frame() {
            if frame.kind == PING && frame.payload == b"settled?" {
                return true;
            }
        }
        false
    }
}

/// The status that a header block begins with; 0 where only its dynamic table would tell.
fn status(block: &[u8]) -> u16 {
    const STATIC: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    match block {
        [index @ 0x88..=0x8e, ..] => STATIC[usize::from(index - 0x88)],
        // A literal with the name of index 8.
        [0x48 | 0x08, length, text @ ..] => {
            let text = &text[..usize::from(length & 0x7f)];
            if length & 0x80 == 0 { std::str::from_utf8(text).unwrap().parse().unwrap() } else { digits(text) }
        }
        _ => 0,
    }
}

/// Three digits in Huffman's code (RFC 7541 appendix B): five bits for 0 to 2, six for the others.
fn digits(text: &[u8]) -> u16 {
    let bits: Vec<u16> = text.iter().flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1))).collect();
    let mut at = 0;
    let mut number = 0;
    for _ in 0..3 {
        let take = |count: usize| bits[at..at + count].iter().fold(0, |code, bit| code * 2 + bit);
        let (digit, length) = if take(5) < 3 { (take(5), 5) } else { (take(6) - 0x19 + 3, 6) };
        number = number * 10 + digit;
        at += length;
    }
    number
}
