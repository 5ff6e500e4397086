//! `remora-proxy leave`: tells the proxy of this pod that the pod leaves. For the pre-stop hook of a native sidecar, which Kubernetes runs when
//! the pod is deleted, long before the sidecar is told to end.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::ask::{ask, stranger};

/// Of the one question.
const ANSWER: Duration = Duration::from_secs(3);

/// Tells the proxy whose admin interface listens at `address`; false where none does: there is nobody to leave.
///
/// # Errors
/// Somebody listens, and does not answer as a proxy does.
pub fn leave(address: SocketAddr) -> io::Result<bool> {
    match ask(address, ANSWER, "POST", "/leave") {
        Ok((200, _)) => Ok(true),
        Ok((status, body)) => Err(stranger(&format!("{status} {body}"))),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn nobody_is_no_failure_and_somebody_else_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            for answer in ["HTTP/1.1 200 OK\r\n\r\nleaving\n", "HTTP/1.1 404 Not Found\r\n\r\nno page /leave\n"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = [0; 256];
                let length = stream.read(&mut head).unwrap();
                assert!(head[..length].starts_with(b"POST /leave HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        assert!(leave(address).unwrap());
        let error = leave(address).unwrap_err();
        assert!(error.to_string().contains("404 no page /leave"), "{error}");
        server.join().unwrap();
        assert!(!leave(address).unwrap(), "nobody listens any more");
    }
}
