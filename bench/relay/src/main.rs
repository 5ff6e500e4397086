//! `remora-relay LISTEN TO DOWNSTREAM UPSTREAM [TLS]`: a relay with no feature at all, the floor that `make bench` measures against.
//!
//! DOWNSTREAM and UPSTREAM are `h1`, `h2` or `tcp`, with `+tls` for mutual TLS by the certificate, key and bundle in the folder TLS.
//! Two threads, each with its own listener, runtime and upstream connections; nothing is shared on the path but two counters,
//! which 127.0.0.1:15000 tells: requests (or connections of bytes) and TLS handshakes so far.

mod tls;
mod upstream;

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use upstream::Upstream;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

static REQUESTS: AtomicU64 = AtomicU64::new(0);
static HANDSHAKES: AtomicU64 = AtomicU64::new(0);

const WORKERS: usize = 2;
/// Of a stream, and of a connection.
const WINDOWS: [u32; 2] = [1 << 20, 16 << 20];
/// Bytes copied at once.
const PIECE: usize = 64 << 10;

/// What is spoken on one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
    Tcp,
}

/// A task of the same thread.
#[derive(Clone, Copy, Debug)]
struct Local;

impl<F: Future + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async { drop(future.await) });
    }
}

fn side(word: &str) -> anyhow::Result<(Protocol, bool)> {
    let (protocol, tls) = word.strip_suffix("+tls").map_or((word, false), |protocol| (protocol, true));
    match protocol {
        "h1" => Ok((Protocol::Http1, tls)),
        "h2" => Ok((Protocol::Http2, tls)),
        "tcp" => Ok((Protocol::Tcp, tls)),
        _ => anyhow::bail!("{word}: neither h1, h2 nor tcp"),
    }
}

fn main() -> anyhow::Result<()> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [listen, to, downstream, upstream, rest @ ..] = &words[..] else {
        anyhow::bail!("usage: remora-relay LISTEN TO DOWNSTREAM UPSTREAM [TLS]")
    };
    let (listen, to): (SocketAddr, SocketAddr) = (listen.parse()?, to.parse()?);
    let (downstream, accept_tls) = side(downstream)?;
    let (upstream, connect_tls) = side(upstream)?;
    let folder = || rest.first().map(Path::new).context("the folder TLS is missing");
    let acceptor = if accept_tls { Some(tls::server(folder()?, downstream == Protocol::Http2)?) } else { None };
    let connector = if connect_tls { Some(tls::client(folder()?, upstream == Protocol::Http2)?) } else { None };
    for _ in 0..WORKERS {
        let (acceptor, connector, listener) = (acceptor.clone(), connector.clone(), bind(listen)?);
        std::thread::spawn(move || work(listener, downstream, acceptor, || Upstream::new(to, upstream, connector)));
    }
    let told = std::net::TcpListener::bind(("127.0.0.1", 15_000))?;
    loop {
        // Who left without the answer asks again.
        let _ = told.accept().and_then(|(mut stream, _)| {
            let (requests, handshakes) = (REQUESTS.load(Ordering::Relaxed), HANDSHAKES.load(Ordering::Relaxed));
            // Read before the end: what is left unread would turn the end into a reset.
            let _ = stream.read(&mut [0; 4_096])?;
            write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{requests} {handshakes}\n")
        });
    }
}

fn bind(address: SocketAddr) -> anyhow::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1_024)?;
    Ok(socket.into())
}

fn work(
    listener: std::net::TcpListener,
    protocol: Protocol,
    tls: Option<Arc<ServerConfig>>,
    upstream: impl FnOnce() -> Upstream,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let upstream = Rc::new(upstream());
        loop {
            let (stream, _) = listener.accept().await?;
            let (tls, upstream) = (tls.clone(), Rc::clone(&upstream));
            // A connection's error is its client's to see.
            tokio::task::spawn_local(async move { drop(connection(stream, protocol, tls, upstream).await) });
        }
    })
}

async fn connection(
    stream: TcpStream,
    protocol: Protocol,
    tls: Option<Arc<ServerConfig>>,
    upstream: Rc<Upstream>,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let Some(tls) = tls else { return serve(stream, protocol, upstream).await };
    let stream = TlsAcceptor::from(tls).accept(stream).await?;
    HANDSHAKES.fetch_add(1, Ordering::Relaxed);
    serve(stream, protocol, upstream).await
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    mut stream: S,
    protocol: Protocol,
    upstream: Rc<Upstream>,
) -> anyhow::Result<()> {
    if protocol == Protocol::Tcp {
        REQUESTS.fetch_add(1, Ordering::Relaxed);
        let mut other = upstream.connect().await?;
        tokio::io::copy_bidirectional_with_sizes(&mut stream, &mut other, PIECE, PIECE).await?;
        return Ok(());
    }
    let version = if protocol == Protocol::Http2 { http::Version::HTTP_2 } else { http::Version::HTTP_11 };
    let service = service_fn(move |request: http::Request<Incoming>| {
        REQUESTS.fetch_add(1, Ordering::Relaxed);
        let upstream = Rc::clone(&upstream);
        async move {
            let answer = upstream.send(request).await;
            let mut answer = answer.map_err(|error| std::io::Error::other(error.to_string()))?;
            *answer.version_mut() = version;
            Ok::<_, std::io::Error>(answer)
        }
    });
    let stream = TokioIo::new(stream);
    match protocol {
        Protocol::Http2 => {
            let mut server = http2::Builder::new(Local);
            server.initial_stream_window_size(WINDOWS[0]).initial_connection_window_size(WINDOWS[1]);
            server.max_concurrent_streams(1_024).serve_connection(stream, service).await?;
        }
        _ => http1::Builder::new().serve_connection(stream, service).await?,
    }
    Ok(())
}
