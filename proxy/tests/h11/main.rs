//! What the codec reads and writes again is, to Python's h11, exactly one request with the same head and body.
#![allow(clippy::unwrap_used)]

mod corpus;

use std::io::Write;
use std::process::{Command, Stdio};

use bytes::BytesMut;
use remora_proxy::http::h1::chunked::{Chunk, Decoder};
use remora_proxy::http::h1::encode;
use remora_proxy::http::h1::framing::Framing;
use remora_proxy::http::h1::parse::{self, Limits};
use serde_json::{Value, json};

const MESSAGES: u64 = 2000;
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/python");

/// A request on the wire, and what it says.
struct Sent {
    wire: Vec<u8>,
    said: Value,
}

/// Numbers from a seed (SplitMix64), so that a failure comes again.
struct Choices(u64);

impl Choices {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

/// A request that is right, in one of the ways there are to write it.
fn generate(seed: u64) -> Sent {
    let choices = &mut Choices(seed);
    let method = choices.of(&["GET", "POST", "PUT", "DELETE", "OPTIONS", "x-own!", "CONNECT"]);
    let host = choices.of(&["a", "a.b:8080", "[::1]:80", "0.0.0.0=5000", "x_y"]);
    let path = choices.of(&["/", "/a/../b?c=%2f&d", "//x|y", "/a{\"b\"}?c=d'", "/~"]);
    let version = choices.of(&["1.1", "1.1", "1.0"]);
    let (target, authority) = match choices.below(3) {
        _ if method == "CONNECT" => ("other:443".to_owned(), "other:443"),
        0 if method == "OPTIONS" => ("*".to_owned(), host),
        1 => (format!("http://other:1{path}"), "other:1"),
        _ => (path.to_owned(), host),
    };
    let mut lines = format!("{method} {target} HTTP/{version}\r\nHost: {host}\r\n");
    let mut headers = vec![json!(["Host", authority])];
    for index in 0..choices.below(8) {
        let name = format!("{}{index}", choices.of(&["X-Id", "x-lower", "eTAG", "A_b.c~", "Accept"]));
        let value = choices.of(&["", "v", "two  words", "\u{fc}, \"quoted; text\"", "a:b\t c"]);
        let padding = choices.of(&["", " ", " \t "]);
        lines += &format!("{name}:{padding}{value}{padding}\r\n");
        let latin: String = value.bytes().map(char::from).collect();
        headers.push(json!([name, latin]));
    }
    let mut wire = lines.into_bytes();
    let body: String = (0..choices.below(40)).map(|_| choices.of(&["x", "\r\n", "0", " "])).collect();
    let mut trailers = Vec::new();
    let body = match choices.below(3) {
        0 => String::new(),
        1 if version == "1.1" => {
            trailers = chunked(&mut wire, &body, choices);
            body
        }
        _ => {
            wire.extend_from_slice(format!("content-LENGTH: {}\r\n\r\n{body}", body.len()).as_bytes());
            body
        }
    };
    if !wire.windows(4).any(|end| end == b"\r\n\r\n") {
        wire.extend_from_slice(b"\r\n");
    }
    let said = json!({
        "method": method, "target": target, "version": version, "headers": headers, "body": body, "trailers": trailers,
    });
    Sent { wire, said }
}

fn chunked(wire: &mut Vec<u8>, body: &str, choices: &mut Choices) -> Vec<Value> {
    wire.extend_from_slice(b"Transfer-encoding: CHUNKED\r\n\r\n");
    let mut rest = body;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(1 + choices.below(rest.len()));
        let (zeros, extension) = (choices.of(&["", "00"]), choices.of(&["", ";a", " ; a=\"b;c\""]));
        wire.extend_from_slice(format!("{zeros}{:X}{extension}\r\n{now}\r\n", now.len()).as_bytes());
        rest = later;
    }
    wire.extend_from_slice(b"0\r\n");
    let trailers = choices.below(3);
    for index in 0..trailers {
        wire.extend_from_slice(format!("X-Trailer{index}: {index}\r\n").as_bytes());
    }
    wire.extend_from_slice(b"\r\n");
    (0..trailers).map(|index| json!([format!("x-trailer{index}"), index.to_string()])).collect()
}

/// Through the codec, as a proxy would.
fn pass(wire: &[u8]) -> BytesMut {
    let (mut buf, mut out) = (BytesMut::from(wire), BytesMut::new());
    let parsed = parse::request(&mut buf, &Limits::default(), &mut 0);
    let parsed = parsed.unwrap_or_else(|error| panic!("{error}: {}", wire.escape_ascii())).unwrap();
    encode::request(&mut out, &parsed.head, parsed.framing);
    let mut decoder = Decoder::new(Limits::default());
    match parsed.framing {
        Framing::Chunked => loop {
            match decoder.decode(&mut buf).unwrap().unwrap() {
                Chunk::Data(data) => {
                    encode::chunk_head(&mut out, data.len());
                    out.extend_from_slice(&data);
                    out.extend_from_slice(encode::CHUNK_END);
                }
                Chunk::Trailers(trailers) => {
                    encode::last_chunk(&mut out, Some(&trailers));
                    break;
                }
                Chunk::End => {
                    encode::last_chunk(&mut out, None);
                    break;
                }
            }
        },
        Framing::Length(length) => out.extend_from_slice(&buf.split_to(usize::try_from(length).unwrap())),
        Framing::Empty | Framing::UntilClose => {}
    }
    assert!(buf.is_empty(), "{} is left of {}", buf.escape_ascii(), wire.escape_ascii());
    out
}

/// The interpreter that has h11.
fn python() -> String {
    let made = Command::new(format!("{PYTHON}/venv.sh")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

/// What h11 makes of the whole input of each connection: its requests, and behind them what is wrong with the first that is none.
fn readings(inputs: &[impl AsRef<[u8]>]) -> Vec<Vec<Value>> {
    let mut reader = Command::new(python())
        .arg(format!("{PYTHON}/h11_reader.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = reader.stdin.take().unwrap();
    let framed = |input: &[u8]| [&(input.len() as u32).to_be_bytes()[..], input].concat();
    let input: Vec<u8> = inputs.iter().flat_map(|input| framed(input.as_ref())).collect();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = reader.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn h11_reads_what_was_written_as_the_same_request() {
    let sent: Vec<Sent> = (0..MESSAGES).map(generate).collect();
    let passed: Vec<BytesMut> = sent.iter().map(|sent| pass(&sent.wire)).collect();
    let told = readings(&passed);
    assert_eq!(told.len(), sent.len());
    for ((sent, passed), mut told) in sent.iter().zip(&passed).zip(told) {
        // Which of them says where the body ends is the writer's choice.
        if let Some(headers) = told[0]["headers"].as_array_mut() {
            headers.retain(|field| {
                let name = field[0].as_str().unwrap().to_ascii_lowercase();
                name != "content-length" && name != "transfer-encoding"
            });
        }
        assert_eq!(
            told,
            std::slice::from_ref(&sent.said),
            "sent {}\npassed {}",
            sent.wire.escape_ascii(),
            passed.escape_ascii()
        );
    }
}
