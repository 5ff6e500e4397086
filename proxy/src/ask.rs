//! One question to a proxy on this machine, over HTTP: what the subcommands are made of.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The largest answer that is read.
const MAX_ANSWER: u64 = 64 * 1024;

/// Asks and returns status and body.
///
/// # Errors
/// Nobody listens, nothing came within `bound`, or no HTTP.
pub(crate) fn ask(address: SocketAddr, bound: Duration, method: &str, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, bound)?;
    stream.set_read_timeout(Some(bound))?;
    let request = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    match head.split(' ').nth(1).and_then(|status| status.parse().ok()) {
        Some(status) => Ok((status, body.to_owned())),
        None => Err(stranger(head)),
    }
}

/// Whoever answered is no proxy.
pub(crate) fn stranger(answer: &str) -> io::Error {
    io::Error::other(format!("no answer of a proxy: {}", answer.lines().next().unwrap_or_default()))
}
