//! A server of HTTP/1.1 that writes its bytes by hand, in the application's place.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};

use nix::sys::signal::Signal;

use crate::pair::{Pair, Plan, service};
use crate::wire::Wire;

/// Through one hop of mTLS over HTTP/2, and through HTTP/1.1 all the way.
pub(crate) fn both(check: impl Fn(Pair)) {
    check(Pair::usual());
    check(Pair::start(Plan { inbound: "{}", mtls: false, ..Plan::default() }));
}

/// A server's side of one connection.
pub(crate) struct Served {
    pub(crate) stream: TcpStream,
    pub(crate) left: Vec<u8>,
    pub(crate) heads: Sender<String>,
}

impl Served {
    /// Reads to the end of a head, and tells the test of it; `None` when the connection ends.
    pub(crate) fn head(&mut self) -> Option<String> {
        let head = self.until("\r\n\r\n")?;
        let _ = self.heads.send(head.clone());
        Some(head)
    }

    pub(crate) fn until(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some(at) = self.left.windows(end.len()).position(|bytes| bytes == end.as_bytes()) {
                return Some(String::from_utf8(self.left.drain(..at + end.len()).collect()).unwrap());
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.left.extend_from_slice(&buffer[..read]),
            }
        }
    }

    pub(crate) fn say(&mut self, text: &str) {
        // A proxy that had enough may be gone.
        let _ = self.stream.write_all(text.as_bytes());
    }
}

/// Puts a server that keeps to `script` in the application's place: called for each connection, with how many came before it. What it
/// receives are the heads of all requests.
pub(crate) fn scripted(
    pair: &mut Pair,
    script: impl Fn(usize, &mut Served) + Send + Sync + 'static,
) -> Receiver<String> {
    pair.app.signal(Signal::SIGKILL);
    pair.app.wait();
    let listener = pair.server.enter(|| TcpListener::bind(pair.server.at(8080))).unwrap();
    let (heads, received) = channel();
    let script = std::sync::Arc::new(script);
    std::thread::spawn(move || {
        for (count, stream) in listener.incoming().enumerate() {
            let (stream, heads, script) = (stream.unwrap(), heads.clone(), script.clone());
            std::thread::spawn(move || script(count, &mut Served { stream, left: Vec::new(), heads }));
        }
    });
    received
}

/// Puts a server there that gives the same answer to every request.
pub(crate) fn answering(pair: &mut Pair, answer: &'static str) -> Receiver<String> {
    scripted(pair, move |_, served| {
        while served.head().is_some() {
            served.say(answer);
        }
    })
}

pub(crate) fn open(pair: &Pair) -> Wire {
    Wire::open(&pair.client, service(8080))
}
