//! Bytes carried between the host and a run: published ports towards the run, the host's loopback ports and name servers towards it.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// How long a name server may take.
const ANSWER: Duration = Duration::from_secs(10);
/// Questions that may wait for an answer at once.
const QUESTIONS: usize = 512;
/// The largest datagram.
const DATAGRAM: usize = 65_535;

/// Accepts connections and carries each to `to`, on the current runtime, until that ends.
pub(super) fn tcp(listener: TcpListener, to: SocketAddr) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = net::TcpListener::from_std(listener)?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((client, _)) => drop(tokio::spawn(carry(client, to))),
                // Out of files, or a client gone already: others may follow.
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    });
    Ok(())
}

async fn carry(mut client: net::TcpStream, to: SocketAddr) {
    // The client sees its connection closed, as with a server that cannot serve.
    let Ok(mut server) = net::TcpStream::connect(to).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

/// Hands questions on to the name server `to`, and its answers back.
pub(super) fn udp(socket: UdpSocket, to: SocketAddr) -> std::io::Result<()> {
    socket.set_nonblocking(true)?;
    let socket = Arc::new(net::UdpSocket::from_std(socket)?);
    let free = Arc::new(Semaphore::new(QUESTIONS));
    tokio::spawn(async move {
        let mut question = vec![0; DATAGRAM];
        loop {
            let Ok((length, client)) = socket.recv_from(&mut question).await else { continue };
            // More than that: dropped, as a busy network does.
            let Ok(permit) = Arc::clone(&free).try_acquire_owned() else { continue };
            let (socket, question) = (Arc::clone(&socket), question[..length].to_vec());
            tokio::spawn(async move {
                let _permit = permit;
                if let Ok(Ok(answer)) = timeout(ANSWER, ask(&question, to)).await {
                    let _ = socket.send_to(&answer, client).await;
                }
            });
        }
    });
    Ok(())
}

async fn ask(question: &[u8], to: SocketAddr) -> std::io::Result<Vec<u8>> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = net::UdpSocket::bind((any, 0)).await?;
    socket.connect(to).await?;
    socket.send(question).await?;
    let mut answer = vec![0; DATAGRAM];
    let length = socket.recv(&mut answer).await?;
    answer.truncate(length);
    Ok(answer)
}
