//! gRPC streams under load: each sends a message when it has the answer to the one before.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, client};
use tokio::net::TcpStream;

const CONNECTIONS: usize = 4;
const STREAMS: usize = 8;
/// Of a message, without the five bytes before it.
const MESSAGE: usize = 128;

/// Streams of one run.
pub(super) const TOTAL: u64 = (CONNECTIONS * STREAMS) as u64;

/// Runs every stream for `time`, on the calling thread; milliseconds that each message waited for its answer.
///
/// # Errors
/// The first stream that failed, or ended with another `grpc-status` than 0.
pub(super) async fn run(server: SocketAddr, time: Duration) -> anyhow::Result<Vec<f64>> {
    let waited = Rc::new(RefCell::new(Vec::new()));
    let deadline = Instant::now() + time;
    let local = tokio::task::LocalSet::new();
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let socket = TcpStream::connect(server).await?;
        socket.set_nodelay(true)?;
        let (client, connection) = client::handshake(socket).await?;
        // Its errors are its streams', too.
        local.spawn_local(async move { drop(connection.await) });
        for _ in 0..STREAMS {
            streams.spawn_local_on(stream(client.clone(), server, deadline, Rc::clone(&waited)), &local);
        }
    }
    local
        .run_until(async {
            while let Some(ended) = streams.join_next().await {
                ended??;
            }
            anyhow::Ok(())
        })
        .await?;
    Ok(waited.take())
}

async fn stream(
    client: client::SendRequest<Bytes>,
    server: SocketAddr,
    deadline: Instant,
    waited: Rc<RefCell<Vec<f64>>>,
) -> anyhow::Result<()> {
    let mut client = client.ready().await?;
    let request = http::Request::post(format!("http://{server}/stream"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (response, mut send) = client.send_request(request, false)?;
    let message = message();
    send.send_data(message.clone(), false)?;
    let mut sent = Instant::now();
    let mut receive = response.await?.into_body();
    let mut last = false;
    loop {
        take(&mut receive, message.len()).await?;
        waited.borrow_mut().push(sent.elapsed().as_secs_f64() * 1e3);
        if last {
            return end(receive).await;
        }
        (sent, last) = (Instant::now(), Instant::now() >= deadline);
        // The last one ends the stream: Envoy takes a row of empty frames for an attack.
        send.send_data(message.clone(), last)?;
    }
}

fn message() -> Bytes {
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(MESSAGE as u32);
    message.put_bytes(b'm', MESSAGE);
    message.freeze()
}

/// Reads so many bytes, in whatever pieces they come.
async fn take(receive: &mut RecvStream, mut length: usize) -> anyhow::Result<()> {
    while length > 0 {
        let piece = receive.data().await.context("the stream ended early")??;
        length = length.checked_sub(piece.len()).context("more came than was sent")?;
        receive.flow_control().release_capacity(piece.len())?;
    }
    Ok(())
}

async fn end(mut receive: RecvStream) -> anyhow::Result<()> {
    while let Some(rest) = receive.data().await {
        anyhow::ensure!(rest?.is_empty(), "more came than was sent");
    }
    let trailers = receive.trailers().await?.context("no trailers")?;
    anyhow::ensure!(trailers.get("grpc-status").is_some_and(|status| status == "0"), "{trailers:?}");
    Ok(())
}
