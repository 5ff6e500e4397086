//! How long the way to a connection's peer and back takes.
#![allow(unsafe_code)] // Only getsockopt(2) tells it, and no crate asks.

use std::mem::{offset_of, size_of_val};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::libc::{IPPROTO_TCP, TCP_INFO, getsockopt, socklen_t, tcp_info};
use tokio::net::TcpStream;

/// Where it is, in microseconds.
const RTT: usize = offset_of!(tcp_info, tcpi_rtt) / size_of::<u32>();

/// As the kernel has it smoothed (tcp(7), `TCP_INFO`): of a connection that was accepted, that of the handshake. Zero where it knows nothing.
pub(crate) fn round_trip(stream: &TcpStream) -> Duration {
    // As much of `tcp_info` as has it.
    let mut info = [0_u32; RTT + 1];
    let mut size = size_of_val(&info) as socklen_t;
    // SAFETY: the stream's descriptor is open for as long as the stream is borrowed, and no more than `size` bytes, which `info` has, are written.
    let result =
        unsafe { getsockopt(stream.as_raw_fd(), IPPROTO_TCP, TCP_INFO, info.as_mut_ptr().cast(), &raw mut size) };
    if result == 0 { Duration::from_micros(info[RTT].into()) } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_was_accepted_knows_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        assert!(round_trip(&server) > Duration::ZERO);
    }
}
