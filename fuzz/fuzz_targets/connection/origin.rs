//! An origin that reads as strictly as RFC 9112 allows, and takes the process down where it finds anything malformed.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::hyper_reading::plain;

/// What of a request's fields a gateway need not pass on as it is: framing, what belongs to a hop, and what only proxies may write.
const OWN: [&str; 16] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "cookie",
    "forwarded",
    "x-forwarded-",
    "x-envoy-",
    "x-remora-",
    "l5d-",
    "x-request-id",
    "traceparent",
];

/// A request as a reader finds it.
#[derive(Debug)]
pub(crate) struct Request {
    method: String,
    host: String,
    target: String,
    /// In one order, where they are compared.
    fields: Option<Vec<(String, Vec<u8>)>>,
    body: Vec<u8>,
}

impl Request {
    /// The target of a CONNECT, which has a form of its own, does not count.
    pub(crate) fn new(method: &str, host: &str, target: &str, body: Vec<u8>) -> Self {
        let target = if method == "CONNECT" { "" } else { target };
        let target = String::from_utf8_lossy(&plain(target.as_bytes())).into_owned();
        Self { method: method.to_owned(), host: host.to_ascii_lowercase(), target, fields: None, body: plain(&body) }
    }

    /// With the fields that arrive as they were sent.
    pub(crate) fn with(mut self, fields: impl Iterator<Item = (String, Vec<u8>)>) -> Self {
        let is_own = |name: &str| {
            let name = name.replace('_', "-");
            OWN.iter().any(|own| if own.ends_with('-') { name.starts_with(own) } else { name == *own })
        };
        let mut fields: Vec<_> = fields.map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
        fields.retain(|(name, _)| !is_own(name));
        fields.sort();
        self.fields = Some(fields);
        self
    }

    /// Whether this is what arrives when `sent` was sent.
    pub(crate) fn is(&self, sent: &Self) -> bool {
        (&self.method, &self.host, &self.target, &self.body) == (&sent.method, &sent.host, &sent.target, &sent.body)
            && (sent.fields.is_none() || self.fields == sent.fields)
    }
}

/// Serves in threads of its own; `arrived` hears of each whole request before it is answered.
pub(crate) fn start(arrived: fn(&Request)) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream, arrived));
        }
    });
    address
}

/// Until the connection ends, maybe in the middle of a request.
fn serve(stream: TcpStream, arrived: fn(&Request)) {
    let mut reader = Reader { stream, buf: Vec::new() };
    while let Ok(request) = reader.request() {
        arrived(&request);
        let answer: &[u8] = match request.method.as_str() {
            "HEAD" => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            _ => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        };
        if reader.stream.write_all(answer).is_err() || request.method == "CONNECT" {
            return;
        }
    }
}

struct Reader {
    stream: TcpStream,
    buf: Vec<u8>,
}

impl Reader {
    fn request(&mut self) -> io::Result<Request> {
        let line = self.line()?;
        if line == "PRI * HTTP/2.0" {
            // Of a gateway only gRPC, and not here.
            return Err(io::ErrorKind::Unsupported.into());
        }
        let parts: Vec<&str> = line.split(' ').collect();
        let [method, target, version] = parts[..] else { panic!("request line {line:?}") };
        assert!(is_token(method), "method in {line:?}");
        assert!(!target.is_empty() && target.bytes().all(|byte| byte.is_ascii_graphic()), "target in {line:?}");
        assert!(matches!(version, "HTTP/1.0" | "HTTP/1.1"), "version in {line:?}");
        let fields = self.fields()?;
        let values = |name: &str| -> Vec<&str> {
            fields
                .iter()
                .filter(|(field, _)| field.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.as_str())
                .collect()
        };
        let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
        assert!(values("host").len() == 1 || version == "HTTP/1.0", "Host: {fields:?}");
        let body = match (&lengths[..], &codings[..]) {
            ([], []) => Vec::new(),
            ([length], []) => self.take(number(length, 10))?,
            ([], ["chunked"]) => self.chunks()?,
            _ => panic!("framing: {fields:?}"),
        };
        let request = Request::new(method, values("host").first().unwrap_or(&""), target, body);
        // Characters stand for bytes of their number.
        let bytes = |value: &str| value.chars().map(|byte| byte as u8).collect();
        Ok(request.with(fields.iter().map(|(name, value)| (name.clone(), bytes(value)))))
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = number(&self.line()?, 16);
            if size == 0 {
                self.fields()?;
                return Ok(body);
            }
            body.extend(self.take(size)?);
            assert_eq!(self.line()?, "", "behind a chunk");
        }
    }

    /// Field lines and the empty one behind them.
    fn fields(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let Some((name, value)) = line.split_once(':') else { panic!("field line {line:?}") };
            assert!(is_token(name), "field line {line:?}");
            fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
        }
    }

    /// A line without its end. Bytes above ASCII stand as the characters of the same number.
    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buf.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buf.drain(..=end).collect();
                let Some(line) = line.strip_suffix(b"\r\n") else { panic!("bare LF: {}", line.escape_ascii()) };
                let allowed = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
                assert!(line.iter().all(allowed), "control characters: {}", line.escape_ascii());
                return Ok(line.iter().copied().map(char::from).collect());
            }
            self.more()?;
        }
    }

    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buf.len() < length {
            self.more()?;
        }
        Ok(self.buf.drain(..length).collect())
    }

    fn more(&mut self) -> io::Result<()> {
        let mut space = [0; 4096];
        match self.stream.read(&mut space)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.buf.extend_from_slice(&space[..read]);
                Ok(())
            }
        }
    }
}

pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Digits and nothing else.
fn number(text: &str, radix: u32) -> usize {
    assert!(!text.is_empty() && text.chars().all(|digit| digit.is_digit(radix)), "not a number: {text:?}");
    usize::from_str_radix(text, radix).unwrap_or(usize::MAX)
}
