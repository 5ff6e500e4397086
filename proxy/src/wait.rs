//! `remora-proxy wait`: asks a proxy on this machine whether traffic may come, until it may or the time is up. For the post-start hook of a
//! classic sidecar, which holds the application's containers back.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::ask::{self, stranger};

/// Between two questions.
const AGAIN: Duration = Duration::from_millis(100);
/// Of one question; the proxy asks its workers for at most a second.
const ANSWER: Duration = Duration::from_secs(3);

/// Why there is no traffic yet: a sentence each, the last that was heard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not ready within {waited:?}: {}", .reasons.join("; "))]
pub struct NotReady {
    /// How long it was asked.
    pub waited: Duration,
    /// What the proxy gave as reasons, or why it could not be asked.
    pub reasons: Vec<String>,
}

/// Waits until the proxy whose readiness listens at `address` is ready.
///
/// # Errors
/// It is not after `timeout`.
pub fn until_ready(address: SocketAddr, timeout: Duration) -> Result<(), NotReady> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Even without time it is asked once.
        let reasons = match ask(address, left.clamp(AGAIN, ANSWER)) {
            Ok(None) => return Ok(()),
            Ok(Some(reasons)) => reasons,
            Err(error) => vec![format!("{address}: {error}")],
        };
        if Instant::now() + AGAIN >= deadline {
            return Err(NotReady { waited: timeout, reasons });
        }
        std::thread::sleep(AGAIN);
    }
}

/// `None`: ready.
fn ask(address: SocketAddr, bound: Duration) -> io::Result<Option<Vec<String>>> {
    match ask::ask(address, bound, "GET", "/ready")? {
        (200, _) => Ok(None),
        // The first line says no more than that it is not ready.
        (503, body) => Ok(Some(body.lines().skip(1).map(str::to_owned).collect())),
        (status, body) => Err(stranger(&format!("{status} {body}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// A server that gives these answers, the last one for ever.
    fn server(answers: &[&'static str]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answers = answers.to_vec();
        std::thread::spawn(move || {
            let last = answers.last().copied();
            for answer in answers.into_iter().map(Some).chain(std::iter::repeat(last)).flatten() {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = [0; 256];
                let length = stream.read(&mut head).unwrap();
                assert!(head[..length].starts_with(b"GET /ready HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        address
    }

    const READY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n";
    const WAITING: &str =
        "HTTP/1.1 503 Service Unavailable\r\n\r\nnot ready\nwaiting for worker 0\nwaiting for identity\n";

    #[test]
    fn waits_until_ready() {
        until_ready(server(&[WAITING, "HTTP/1.1 503 x\r\n\r\nnot ready\n", READY]), Duration::from_secs(30)).unwrap();
    }

    #[test]
    fn the_reasons_of_the_proxy_are_given() {
        let error = until_ready(server(&[WAITING]), Duration::from_millis(300)).unwrap_err();
        assert_eq!(error.reasons, ["waiting for worker 0", "waiting for identity"]);
        assert_eq!(error.to_string(), "not ready within 300ms: waiting for worker 0; waiting for identity");
    }

    #[test]
    fn nobody_and_somebody_else_are_told_apart() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = until_ready(nobody, Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
        let error = until_ready(server(&["SSH-2.0-x\r\n"]), Duration::ZERO).unwrap_err();
        assert!(error.reasons[0].contains("unexpected end of file"), "{error}");
        let error = until_ready(server(&["HTTP/1.1 404 Not Found\r\n\r\nno page\n"]), Duration::ZERO).unwrap_err();
        assert!(error.reasons[0].contains("404 no page"), "{error}");
    }
}
