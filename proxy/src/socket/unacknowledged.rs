//! What of the bytes that were written to a connection its peer's system has not said to have received.
#![allow(unsafe_code)] // Only ioctl(2) tells it.

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc::{TIOCOUTQ, c_int, ioctl};
use tokio::net::TcpStream;

/// Bytes that were written last and that the peer has not acknowledged, whether they were sent or not (tcp(7), `SIOCOUTQ`). The
/// connection's end, even by a reset, leaves that as it was.
///
/// # Errors
/// What the kernel said.
pub(crate) fn unacknowledged(stream: &TcpStream) -> io::Result<u64> {
    let mut bytes: c_int = 0;
    // SAFETY: the stream's descriptor is open for as long as the stream is borrowed, and this request writes one `int`, where it is told.
    let result = unsafe { ioctl(stream.as_raw_fd(), TIOCOUTQ, &raw mut bytes) };
    Errno::result(result)?;
    u64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::socket::has_broken;
    use crate::socket::tests::deafen;

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn an_end_acknowledges_what_was_received_before_it() {
        let (mut client, mut server) = connected().await;
        client.write_all(b"earlier").await.unwrap();
        server.read_exact(&mut [0; 7]).await.unwrap();
        deafen(&server);
        client.write_all(b"hello").await.unwrap();
        drop(server);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(unacknowledged(&client).unwrap(), 5, "closed before it was received");
        let (mut client, mut server) = connected().await;
        client.write_all(b"hello").await.unwrap();
        server.read_exact(&mut [0; 5]).await.unwrap();
        drop(server);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(unacknowledged(&client).unwrap(), 0, "closed after it was received");
    }

    #[tokio::test]
    async fn a_reset_behind_the_end_hides_nothing() {
        let (mut client, server) = connected().await;
        drop(server);
        // A closed socket answers what it receives by a reset.
        client.write_all(b"hello").await.unwrap();
        while !has_broken(&client) {
            tokio::task::yield_now().await;
        }
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the end came first");
        assert_eq!(unacknowledged(&client).unwrap(), 5);
    }
}
