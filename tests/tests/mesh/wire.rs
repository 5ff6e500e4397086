//! HTTP/1.1 by hand on one connection: what no client library would send, and every byte that comes back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use remora_test::pod::Pod;
use remora_test::sidecar::Answer;

/// One connection, and what was read of it beyond the last answer.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    left: Vec<u8>,
}

impl Wire {
    pub(crate) fn open(pod: &Pod, to: SocketAddr) -> Self {
        let stream = pod.enter(|| TcpStream::connect(to)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(remora_test::PATIENCE)).unwrap();
        Self { stream, left: Vec::new() }
    }

    /// Where it comes from, as its sidecar sees it.
    pub(crate) fn local(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// Sends a GET with more header lines, and reads its answer.
    pub(crate) fn get(&mut self, path: &str, lines: &[&str]) -> Answer {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: server:8080\r\n{lines}\r\n"));
        self.answer()
    }

    /// Reads one answer; of an informational one the head only.
    pub(crate) fn answer(&mut self) -> Answer {
        let end = loop {
            if let Some(end) = self.left.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            self.read_more();
        };
        let head = String::from_utf8(self.left.drain(..end + 4).collect()).unwrap();
        let code = head.split_whitespace().nth(1).unwrap().parse().unwrap();
        let mut answer = Answer { code, head, body: String::new() };
        if code >= 200 {
            let length = answer.header("content-length").unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap();
            answer.body = String::from_utf8(self.bytes(length)).unwrap();
        }
        answer
    }

    /// Reads exactly so many bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.left.len() < count {
            self.read_more();
        }
        self.left.drain(..count).collect()
    }

    /// Reads to the peer's end.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        self.stream.read_to_end(&mut self.left).unwrap();
        std::mem::take(&mut self.left)
    }

    fn read_more(&mut self) {
        let mut buffer = [0; 16_384];
        let read = self.stream.read(&mut buffer).unwrap();
        assert_ne!(read, 0, "the connection ended after {:?}", String::from_utf8_lossy(&self.left));
        self.left.extend_from_slice(&buffer[..read]);
    }
}
