//! HTTP/1 connections: any bytes are messages or a refusal, never a panic, and the same however they are split. What is accepted
//! hyper reads the same way, and what is written of it reads as just that message again.
#![no_main]

#[path = "http1/hyper_reading.rs"]
mod hyper_reading;

use bytes::BytesMut;
use http::{HeaderMap, Method, Version, header};
use hyper_reading::{Content, fields, path, sorted, version};
use libfuzzer_sys::fuzz_target;
use remora_proxy::http::h1::chunked::{Chunk, Decoder};
use remora_proxy::http::h1::encode;
use remora_proxy::http::h1::framing::Framing;
use remora_proxy::http::h1::parse::{self, Asked, Limits, ParsedRequest, ParsedResponse};

/// Longer input says nothing more, and names in odd cases are kept up to a bound.
const MAX_INPUT: usize = 2000;

// The first byte says what the rest is, and how it is split.
fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    let bytes = &bytes[..bytes.len().min(MAX_INPUT)];
    let step = usize::from(kind / 4) + 1;
    match kind % 4 {
        0 | 1 => requests(bytes, step),
        2 => responses(bytes, step, Asked::default()),
        _ => responses(bytes, step, Asked { head: true, ..Asked::default() }),
    }
});

/// Bytes that come in pieces.
struct Wire<'a> {
    buf: BytesMut,
    rest: &'a [u8],
    step: usize,
}

impl<'a> Wire<'a> {
    fn new(bytes: &'a [u8], step: usize) -> Self {
        Self { buf: BytesMut::new(), rest: bytes, step }
    }

    /// Whether anything more came.
    fn more(&mut self) -> bool {
        let (now, rest) = self.rest.split_at(self.step.min(self.rest.len()));
        self.buf.extend_from_slice(now);
        self.rest = rest;
        !now.is_empty()
    }

    /// The body, its trailers and whether it is whole; `None` where it is refused.
    fn body(&mut self, framing: Framing) -> Option<(Vec<u8>, HeaderMap, bool)> {
        let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
        match framing {
            Framing::Empty => {}
            Framing::Length(length) => {
                while (self.buf.len() as u64) < length {
                    if !self.more() {
                        return Some((body, trailers, false));
                    }
                }
                body.extend_from_slice(&self.buf.split_to(length as usize));
            }
            Framing::UntilClose => {
                while self.more() {}
                body.extend_from_slice(&self.buf.split());
            }
            Framing::Chunked => {
                let mut decoder = Decoder::new(Limits::default());
                loop {
                    match decoder.decode(&mut self.buf).ok()? {
                        Some(Chunk::Data(data)) => body.extend_from_slice(&data),
                        Some(Chunk::Trailers(fields)) => trailers = fields,
                        Some(Chunk::End) => break,
                        None if self.more() => {}
                        None => return Some((body, trailers, false)),
                    }
                }
            }
        }
        Some((body, trailers, true))
    }

    fn request(&mut self) -> Option<ParsedRequest> {
        let mut scanned = 0;
        loop {
            match parse::request(&mut self.buf, &Limits::default(), &mut scanned) {
                Ok(None) if self.more() => {}
                read => return read.ok()?,
            }
        }
    }

    fn response(&mut self, asked: Asked) -> Option<ParsedResponse> {
        let mut scanned = 0;
        loop {
            match parse::response(&mut self.buf, asked, &Limits::default(), &mut scanned) {
                Ok(None) if self.more() => {}
                read => return read.ok()?,
            }
        }
    }
}

/// The whole messages at the front of `bytes`, and each of them written anew.
fn read_requests(bytes: &[u8], step: usize) -> Vec<(Content, Vec<u8>)> {
    let mut wire = Wire::new(bytes, step);
    let mut messages = Vec::new();
    while let Some(parsed) = wire.request() {
        let Some((body, trailers, true)) = wire.body(parsed.framing) else { break };
        let mut out = BytesMut::new();
        encode::request(&mut out, &parsed.head, parsed.framing);
        written(&mut out, parsed.framing, &body, &trailers);
        let head = &parsed.head;
        let authority = head.authority.as_ref().map_or("", |authority| authority.as_str());
        let written = head.spelling.target().map(|target| str::from_utf8(target).expect("ASCII"));
        let target = written.unwrap_or(head.path.as_str());
        let line =
            vec![head.method.to_string(), authority.to_owned(), path(&head.method, target), version(head.version)];
        let (body, trailers) = (hyper_reading::plain(&body), sorted(&trailers));
        let content = Content { line, headers: fields(&head.headers), body, trailers };
        messages.push((content, out.to_vec()));
        if !parsed.keep_alive || head.method == Method::CONNECT || head.upgrade.is_some() {
            break;
        }
    }
    messages
}

fn written(out: &mut BytesMut, framing: Framing, body: &[u8], trailers: &HeaderMap) {
    if framing != Framing::Chunked {
        return out.extend_from_slice(body);
    }
    for piece in body.chunks(7) {
        encode::chunk_head(out, piece.len());
        out.extend_from_slice(piece);
        out.extend_from_slice(encode::CHUNK_END);
    }
    encode::last_chunk(out, Some(trailers));
}

fn requests(bytes: &[u8], step: usize) {
    let messages = read_requests(bytes, usize::MAX);
    assert_eq!(messages, read_requests(bytes, step), "in pieces of {step}");
    let theirs = hyper_reading::requests(bytes);
    for (index, (ours, out)) in messages.iter().enumerate() {
        assert_eq!(Some(ours), theirs.get(index), "hyper reads something else");
        let again = read_requests(out, usize::MAX);
        let [(content, same)] = &again[..] else { panic!("{} messages: {}", again.len(), out.escape_ascii()) };
        assert_eq!(same, out, "{}", out.escape_ascii());
        assert_eq!(end_to_end(content), end_to_end(ours), "{}", out.escape_ascii());
        assert_eq!(hyper_reading::requests(out).len(), 1, "{}", out.escape_ascii());
    }
}

/// A message but for the fields that are written for the connection.
fn end_to_end(content: &Content) -> (&[String], Vec<&(String, Vec<u8>)>, &[u8], &[(String, Vec<u8>)]) {
    let ours = [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION, header::UPGRADE];
    let passed = content.headers.iter().filter(|(name, _)| ours.iter().all(|ours| ours.as_str() != name)).collect();
    (&content.line, passed, &content.body, &content.trailers)
}

/// The first response that is final, the same written anew, and how many bytes it took.
fn read_response(bytes: &[u8], step: usize, asked: Asked) -> Option<(Content, Vec<u8>, usize)> {
    let mut wire = Wire::new(bytes, step);
    loop {
        let parsed = wire.response(asked)?;
        if parsed.head.status.is_informational() {
            continue;
        }
        let (body, trailers, true) = wire.body(parsed.framing)? else { return None };
        let head = &parsed.head;
        let mut out = BytesMut::new();
        encode::response(&mut out, head, parsed.framing, !parsed.keep_alive, Version::HTTP_11, asked.head);
        written(&mut out, parsed.framing, &body, &trailers);
        let line = vec![head.status.as_str().to_owned()];
        let content = Content { line, headers: fields(&head.headers), body, trailers: sorted(&trailers) };
        return Some((content, out.to_vec(), bytes.len() - wire.buf.len() - wire.rest.len()));
    }
}

fn responses(bytes: &[u8], step: usize, asked: Asked) {
    let read = read_response(bytes, usize::MAX, asked);
    let taken_apart = read_response(bytes, step, asked);
    assert_eq!(read, taken_apart, "in pieces of {step}");
    let Some((ours, out, taken)) = read else { return };
    // What is behind a response, hyper takes for an error.
    assert_eq!(
        Some(&ours),
        hyper_reading::response(&bytes[..taken], asked.head).as_ref(),
        "hyper reads something else"
    );
    let (content, same, _) = read_response(&out, usize::MAX, asked).expect("what is written is read");
    assert_eq!(same, out, "{}", out.escape_ascii());
    assert_eq!(end_to_end(&content), end_to_end(&ours), "{}", out.escape_ascii());
}
