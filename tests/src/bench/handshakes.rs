//! A client that does nothing but handshakes: TLS 1.3, a certificate on both sides, full or resumed.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumed {
    /// Every handshake shows and verifies both certificates.
    No,
    /// Every handshake offers a ticket of an earlier one; it is the server who takes it or not.
    Yes,
}

impl Resumed {
    /// Its name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "handshake-full",
            Self::Yes => "handshake-resumed",
        }
    }
}

/// Clients at once.
const CLIENTS: u64 = 4;
const PATIENCE: Duration = Duration::from_secs(10);
/// What an HTTP/2 client says first, with empty SETTINGS (RFC 9113, section 3.4): a server that answers has judged us.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// What a run made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    pub(super) took: Duration,
    pub(super) count: u64,
    pub(super) resumed: u64,
}

/// Makes handshakes with `server` for `time`, as the owner of the identity in `tls`.
///
/// # Errors
/// The first that failed, or that was resumed without a ticket.
pub(super) fn run(server: SocketAddr, tls: &Path, resumed: Resumed, time: Duration) -> anyhow::Result<Made> {
    let (made, taken) = (AtomicU64::new(0), AtomicU64::new(0));
    // Each client keeps its own tickets, and has one before the clock starts.
    let configs = (0..CLIENTS).map(|_| {
        let config = Arc::new(client(tls, resumed)?);
        if resumed == Resumed::Yes {
            handshake(server, &config)?;
        }
        anyhow::Ok(config)
    });
    let configs = configs.collect::<anyhow::Result<Vec<_>>>()?;
    let began = Instant::now();
    std::thread::scope(|scope| {
        let clients = configs.iter().map(|config| {
            scope.spawn(|| {
                while began.elapsed() < time {
                    let kind = handshake(server, config)?;
                    made.fetch_add(1, Ordering::Relaxed);
                    if kind == HandshakeKind::Resumed {
                        anyhow::ensure!(resumed == Resumed::Yes, "resumed without a ticket");
                        taken.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Ok(())
            })
        });
        let clients: Vec<_> = clients.collect();
        clients.into_iter().try_for_each(|client| client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?)
    })?;
    Ok(Made { took: began.elapsed(), count: made.into_inner(), resumed: taken.into_inner() })
}

/// One, complete on both sides: the server has answered, and has given its tickets.
fn handshake(server: SocketAddr, config: &Arc<ClientConfig>) -> anyhow::Result<HandshakeKind> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut connection = ClientConnection::new(Arc::clone(config), ServerName::try_from("server")?)?;
    let mut tls = rustls::Stream::new(&mut connection, &mut stream);
    tls.write_all(HELLO)?;
    tls.read_exact(&mut [0; 9])?;
    let kind = connection.handshake_kind().ok_or_else(|| anyhow::anyhow!("no handshake"))?;
    connection.send_close_notify();
    match connection.write_tls(&mut stream) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(kind),
    }
}

fn client(tls: &Path, resumed: Resumed) -> anyhow::Result<ClientConfig> {
    let mut config = crate::tls::client(tls, &[b"istio-h2", b"h2"])?;
    config.resumption = match resumed {
        Resumed::No => Resumption::disabled(),
        Resumed::Yes => Resumption::in_memory_sessions(8),
    };
    Ok(config)
}
