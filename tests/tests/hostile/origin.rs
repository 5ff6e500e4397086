//! The server behind the proxy: reads HTTP/1.1 by the letter, and HTTP/2, keeps what it was sent, and misbehaves when told to. What is
//! sent to `/unread` over HTTP/2 it does not read.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use remora_test::pod::Pod;

mod http2;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// The lines of its trailers.
    pub(crate) trailers: String,
}

impl Seen {
    pub(crate) fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// The values of a field.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }
}

/// What happened so far.
#[derive(Debug, Default)]
struct Log {
    whole: Vec<Seen>,
    /// The paths of requests, whole or not.
    begun: Vec<String>,
    /// What no strict reader takes for a request.
    malformed: Vec<String>,
}

/// A body and the lines of its trailers.
type Body = (Vec<u8>, Vec<u8>);

/// One connection of the origin.
pub(crate) struct Served {
    pub(crate) stream: TcpStream,
    left: Vec<u8>,
}

/// What a test has the origin do with a request that begins like this; `false` ends the connection.
pub(crate) type Script = fn(&Seen, &mut Served) -> bool;

/// The running origin. Its threads end with the test's process.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    log: Arc<Mutex<Log>>,
    script: Arc<Mutex<Option<Script>>>,
}

impl Origin {
    pub(crate) fn start(pod: &Pod, at: SocketAddr) -> Self {
        let listener = pod.enter(|| TcpListener::bind(at)).unwrap();
        let origin = Self { log: Arc::default(), script: Arc::default() };
        let shared = origin.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                let _ = stream.set_nodelay(true);
                let origin = shared.clone();
                std::thread::spawn(move || match http2::begins(&stream) {
                    true => http2::serve(&origin, stream),
                    false => origin.serve(Served { stream, left: Vec::new() }),
                });
            }
        });
        origin
    }

    /// Has requests whose paths are not those of the good client answered by `script`.
    pub(crate) fn script(&self, script: Script) {
        *self.script.lock().unwrap() = Some(script);
    }

    /// Whole requests with a path that begins like this.
    pub(crate) fn seen(&self, path: &str) -> Vec<Seen> {
        self.log.lock().unwrap().whole.iter().filter(|seen| seen.path().starts_with(path)).cloned().collect()
    }

    /// How many requests for this path have come, whole or not.
    pub(crate) fn begun(&self, path: &str) -> usize {
        self.log.lock().unwrap().begun.iter().filter(|begun| *begun == path).count()
    }

    /// Forgets requests.
    pub(crate) fn forget(&self) {
        let mut log = self.log.lock().unwrap();
        log.whole.clear();
        log.begun.clear();
    }

    /// Asserts that all that ever came was well-formed.
    pub(crate) fn assert_strict(&self, row: &str) {
        let malformed = &self.log.lock().unwrap().malformed;
        assert!(malformed.is_empty(), "{row}: reached the origin: {malformed:?}");
    }

    /// Notes what no strict reader takes.
    fn refuses(&self, what: String) {
        self.log.lock().unwrap().malformed.push(what);
    }

    /// Notes the head of a request.
    fn has_begun(&self, path: &str) {
        if path == "/good" {
            return;
        }
        self.log.lock().unwrap().begun.push(path.to_owned());
    }

    /// Notes a whole request; whether it is the good client's.
    fn has_seen(&self, seen: Seen) -> bool {
        let good = seen.path() == "/good";
        if !good {
            self.log.lock().unwrap().whole.push(seen);
        }
        good
    }

    fn serve(&self, mut served: Served) {
        while let Some(head) = served.until(b"\r\n\r\n") {
            self.has_begun(str::from_utf8(&head).ok().and_then(|head| head.split(' ').nth(1)).unwrap_or_default());
            let body = framing(&head).and_then(|length| match length {
                Some(length) => Ok(served.bytes(length).map(|body| (body, Vec::new()))),
                None => served.chunked(),
            });
            let body = match body {
                Ok(body) => body,
                Err(what) => return self.refuses(format!("{what}: {}", head.escape_ascii())),
            };
            // A body that breaks off is no whole request: a strict server drops it.
            let Some((body, trailers)) = body else { return };
            let [head, trailers] = [head, trailers].map(|text| String::from_utf8(text).unwrap());
            let seen = Seen { head, body, trailers };
            let good = self.has_seen(seen.clone());
            let script = self.script.lock().unwrap().filter(|_| !good);
            let goes_on = match script {
                Some(script) => script(&seen, &mut served),
                None => usual(&seen, &mut served),
            };
            if !goes_on {
                return;
            }
        }
    }
}

/// What the origin answers without a script.
pub(crate) fn usual(seen: &Seen, served: &mut Served) -> bool {
    match seen.path() {
        // Answers never; ends with the proxy's connection.
        "/silent" => served.until(b"never").is_some(),
        path => {
            let body = content(path);
            served.say(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes())
                && served.say(&body)
        }
    }
}

/// What an answer holds.
fn content(path: &str) -> Vec<u8> {
    let size = path.strip_prefix("/big/").and_then(|size| size.parse().ok());
    size.map_or(b"ok".to_vec(), |size| vec![b'o'; size])
}

impl Served {
    pub(crate) fn say(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Reads up to and with `end`; `None` when the connection ends first.
    pub(crate) fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        let mut from = 0;
        loop {
            if let Some(at) = self.left[from..].windows(end.len()).position(|bytes| bytes == end) {
                return Some(self.left.drain(..from + at + end.len()).collect());
            }
            from = self.left.len().saturating_sub(end.len());
            self.more()?;
        }
    }

    fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.left.len() < count {
            self.more()?;
        }
        Some(self.left.drain(..count).collect())
    }

    /// A body and its trailers; `None` when the connection ends within.
    fn chunked(&mut self) -> Result<Option<Body>, &'static str> {
        let mut body = Vec::new();
        loop {
            let Some(line) = self.until(b"\r\n") else { return Ok(None) };
            let digits = line.strip_suffix(b"\r\n").filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
            let size = digits.and_then(|digits| usize::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
            let size = size.ok_or("chunk size")?;
            if size == 0 {
                break;
            }
            let (Some(data), Some(end)) = (self.bytes(size), self.bytes(2)) else { return Ok(None) };
            if end != b"\r\n" {
                return Err("chunk end");
            }
            body.extend(data);
        }
        let mut trailers = Vec::new();
        loop {
            match self.until(b"\r\n") {
                None => return Ok(None),
                Some(line) if line == b"\r\n" => return Ok(Some((body, trailers))),
                Some(line) => trailers.extend(line),
            }
        }
    }

    fn more(&mut self) -> Option<()> {
        let mut buffer = [0; 16_384];
        match self.stream.read(&mut buffer) {
            Ok(0) | Err(_) => None,
            Ok(read) => {
                self.left.extend_from_slice(&buffer[..read]);
                Some(())
            }
        }
    }
}

/// How long a body is, `None` for a chunked one; what is wrong with a head that no strict reader takes.
fn framing(head: &[u8]) -> Result<Option<usize>, &'static str> {
    let text = str::from_utf8(head).map_err(|_| "not UTF-8")?;
    let mut lines = text.strip_suffix("\r\n\r\n").unwrap_or_default().split("\r\n");
    let line: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, version] = line[..] else { return Err("request line") };
    let visible = |text: &str| !text.is_empty() && text.bytes().all(|byte| (0x21..0x7f).contains(&byte));
    if !visible(method) || !visible(target) || !(target.starts_with('/') || target == "*") {
        return Err("request line");
    }
    if !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
        return Err("version");
    }
    let (mut lengths, mut codings, mut hosts) = (Vec::new(), Vec::new(), 0);
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("no colon")?;
        if !visible(name) || value.bytes().any(|byte| byte < b' ' && byte != b'\t' || byte == 0x7f) {
            return Err("field");
        }
        match name.to_ascii_lowercase().as_str() {
            "content-length" => lengths.push(value.trim()),
            "transfer-encoding" => codings.push(value.trim()),
            "host" => hosts += 1,
            _ => {}
        }
    }
    if hosts != 1 && version == "HTTP/1.1" {
        return Err("not one Host");
    }
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(Some(0)),
        ([], ["chunked"]) if version == "HTTP/1.1" => Ok(None),
        ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            length.parse().map(Some).map_err(|_| "content-length")
        }
        _ => Err("framing"),
    }
}
