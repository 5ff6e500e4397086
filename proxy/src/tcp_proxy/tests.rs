use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::watch::WATCH;

#[derive(Default)]
struct Counts(Cell<usize>, Cell<usize>);

impl ByteCount for Counts {
    fn sent(&self, n: usize) {
        self.0.set(self.0.get() + n);
    }

    fn received(&self, n: usize) {
        self.1.set(self.1.get() + n);
    }
}

impl Endpoint for DuplexStream {}

/// Both ends of a connection over loopback.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

struct Relayed {
    client: TcpStream,
    server: TcpStream,
    downstream: Replay<Downstream>,
    upstream: Replay<Upstream>,
}

async fn relayed() -> Relayed {
    let ((client, downstream), (upstream, server)) = (pair().await, pair().await);
    Relayed {
        client,
        server,
        downstream: Replay::new(Downstream::Plain(downstream)),
        upstream: Replay::new(Upstream::Plain(upstream)),
    }
}

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|i| ((i * 31 + i / 251 + seed) % 253) as u8).collect()
}

const NEVER: Duration = Duration::ZERO;

#[tokio::test]
async fn each_direction_ends_on_its_own_after_its_last_byte() {
    let Relayed { mut client, mut server, downstream, upstream } = relayed().await;
    let counts = Counts::default();
    let peers = async {
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"question");
        // The client's end has passed; the server's answer still comes, in pieces.
        for _ in 0..3 {
            server.write_all(b"answer").await.unwrap();
            client.read_exact(&mut [0; 6]).await.unwrap();
        }
        drop(server);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    };
    let (result, ()) = tokio::join!(relay(downstream, upstream, false, NEVER, &counts, std::future::pending()), peers);
    result.unwrap();
    assert_eq!((counts.0.get(), counts.1.get()), (18, 8));
}

#[tokio::test]
async fn the_server_may_end_first() {
    let Relayed { mut client, mut server, downstream, upstream } = relayed().await;
    let counts = Counts::default();
    let peers = async {
        server.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        client.write_all(b"late").await.unwrap();
        drop(client);
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"late");
    };
    let (result, ()) = tokio::join!(relay(downstream, upstream, false, NEVER, &counts, std::future::pending()), peers);
    result.unwrap();
}

#[tokio::test]
async fn bulk_passes_both_ways_unchanged() {
    bulk_passes().await;
    assert!(pipe::Pipe::kept() > 0, "the kernel moved none of it");
}

#[tokio::test]
async fn bulk_for_which_there_is_no_pipe_is_copied() {
    pipe::allow(1);
    bulk_passes().await;
    assert_eq!(pipe::Pipe::kept(), 1, "of one direction");
}

/// 8 MiB each way at once, with what was read ahead: more than every buffer and pipe on the way holds.
async fn bulk_passes() {
    let Relayed { client, server, mut downstream, mut upstream } = relayed().await;
    let (up, down) = (pattern(8 << 20, 1), pattern((8 << 20) + 12345, 2));
    downstream.prefix.extend_from_slice(&up[..100]);
    upstream.prefix.extend_from_slice(&down[..7]);
    let counts = Counts::default();
    let exchange = async |stream: TcpStream, out: &[u8], expected: &[u8]| {
        let (mut read, mut write) = stream.into_split();
        let mut heard = Vec::new();
        let (written, received) = tokio::join!(
            async {
                write.write_all(out).await?;
                write.shutdown().await
            },
            read.read_to_end(&mut heard)
        );
        written.unwrap();
        received.unwrap();
        assert!(heard == expected, "{} bytes, expected {}", heard.len(), expected.len());
    };
    let (result, (), ()) = tokio::join!(
        relay(downstream, upstream, false, NEVER, &counts, std::future::pending()),
        exchange(client, &up[100..], &down),
        exchange(server, &down[7..], &up),
    );
    result.unwrap();
    assert_eq!((counts.0.get(), counts.1.get()), (down.len(), up.len()));
}

/// Sends until nothing more is taken anywhere on the way.
async fn fill(stream: &mut TcpStream) {
    let part = [b'x'; 1 << 16];
    while timeout(10 * WATCH, stream.write_all(&part)).await.is_ok() {}
}

// Time is paused: it passes where nothing else happens.
#[tokio::test(start_paused = true)]
async fn a_reset_is_seen_though_the_other_side_takes_nothing() {
    let Relayed { mut client, mut server, downstream, upstream } = relayed().await;
    let breaks = async {
        fill(&mut client).await;
        // Both have ended, and what was sent before is still on its way.
        server.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        fill(&mut client).await;
        socket::abort_on_drop(&client).unwrap();
        drop(client);
    };
    let counts = Counts::default();
    let hour = Duration::from_secs(3600);
    let relay = timeout(hour, relay(downstream, upstream, false, NEVER, &counts, std::future::pending()));
    let (result, ()) = tokio::join!(relay, breaks);
    assert!(matches!(result.expect("an end"), Err(RelayError::Downstream(_))));
    let error = server.read_to_end(&mut Vec::new()).await.expect_err("a reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn what_both_sides_have_ended_still_comes_to_a_slow_reader() {
    let Relayed { mut client, mut server, downstream, upstream } = relayed().await;
    let sent = pattern(16 << 20, 4);
    let counts = Counts::default();
    let peers = async {
        server.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        let send = async {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let receive = async {
            let mut heard = vec![0; sent.len()];
            for part in heard.chunks_mut(1 << 20) {
                sleep(2 * WATCH).await;
                server.read_exact(part).await.unwrap();
            }
            assert!(heard == sent);
            assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
        };
        tokio::join!(send, receive);
    };
    let (result, ()) = tokio::join!(relay(downstream, upstream, false, NEVER, &counts, std::future::pending()), peers);
    result.unwrap();
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_back_and_gets_everything() {
    let Relayed { mut client, mut server, downstream, upstream } = relayed().await;
    let body = pattern(32 << 20, 3);
    let counts = Counts::default();
    let all_written = Cell::new(false);
    let writer = async {
        client.write_all(&body).await.unwrap();
        all_written.set(true);
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    };
    let reader = async {
        server.readable().await.unwrap();
        // The relay takes no more than sockets and one buffer hold, however often it gets a turn.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert!(!all_written.get());
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.unwrap();
        assert!(heard == body);
        drop(server);
    };
    let (result, (), ()) =
        tokio::join!(relay(downstream, upstream, false, NEVER, &counts, std::future::pending()), writer, reader);
    result.unwrap();
}

#[tokio::test]
async fn a_reset_passes_in_both_directions() {
    for downstream_resets in [true, false] {
        let Relayed { client, server, downstream, upstream } = relayed().await;
        let (resets, mut other) = if downstream_resets { (client, server) } else { (server, client) };
        let peers = async {
            socket::abort_on_drop(&resets).unwrap();
            drop(resets);
            other.read(&mut [0]).await
        };
        let relaying =
            async { relay(downstream, upstream, false, NEVER, &Counts::default(), std::future::pending()).await };
        let (result, heard) = tokio::join!(relaying, peers);
        match result.unwrap_err() {
            RelayError::Downstream(_) => assert!(downstream_resets),
            RelayError::Upstream(_) => assert!(!downstream_resets),
            other => panic!("{other}"),
        }
        assert_eq!(heard.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test(start_paused = true)]
async fn silence_in_both_directions_ends_it_and_any_byte_prolongs_it() {
    let (mut client, mut downstream) = duplex(64);
    let (mut upstream, mut server) = duplex(64);
    let idle = Duration::from_secs(60);
    let start = Instant::now();
    let counts = Counts::default();
    let relaying = async { relay_between(&mut downstream, &mut upstream, idle, &counts).await };
    let peers = async {
        for turn in 0..10 {
            sleep(Duration::from_secs(50)).await;
            let (from, to) = if turn % 2 == 0 { (&mut client, &mut server) } else { (&mut server, &mut client) };
            from.write_all(b"x").await.unwrap();
            timeout(Duration::from_secs(1), to.read_exact(&mut [0])).await.expect("relayed").unwrap();
        }
        start.elapsed()
    };
    let (result, last_byte) = tokio::join!(relaying, peers);
    assert!(matches!(result, Err(RelayError::Idle(after)) if after == idle));
    let quiet = start.elapsed() - last_byte;
    assert!(quiet >= idle && quiet <= idle * 5 / 4, "{quiet:?}");
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_connection_may_wait_but_not_longer_than_idle() {
    let (mut client, mut downstream) = duplex(64);
    let (mut upstream, mut server) = duplex(64);
    let idle = Duration::from_secs(60);
    let counts = Counts::default();
    let relaying = async { relay_between(&mut downstream, &mut upstream, idle, &counts).await };
    let peers = async {
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
    };
    let (result, ()) = tokio::join!(relaying, peers);
    assert!(matches!(result, Err(RelayError::Idle(_))));
}

/// Always has bytes, and always takes them.
struct Endless;

impl AsyncRead for Endless {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        buf.initialize_unfilled().fill(7);
        buf.advance(buf.remaining());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // A stuck relay ends the test instead of holding it up.
        Poll::Ready(if TAKEN.replace(TAKEN.get() + buf.len()) < 8 << 20 { Ok(buf.len()) } else { Ok(0) })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Endpoint for Endless {}

thread_local! {
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_direction_that_never_runs_dry_leaves_others_their_turn() {
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Arc::clone(&woken).into();
    let moved = Cell::new(0);
    let mut direction = Direction::default();
    let polled = direction.poll(&mut Context::from_waker(&waker), &mut Endless, &mut Endless, |n| {
        moved.set(moved.get() + n);
    });
    assert!(polled.is_pending(), "{polled:?}");
    assert!((1 << 14..1 << 20).contains(&moved.get()), "{moved:?}");
    assert!(woken.0.load(Ordering::Relaxed), "it must ask for its next turn itself");
}
