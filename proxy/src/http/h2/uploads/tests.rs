use std::future::poll_fn;
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};

use super::super::MAX_STREAMS;
use super::*;
use crate::http::body::Body;
use crate::http::h1::parse::Limits;

const MOST: u32 = 256 * 1024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
/// Of data and heads; and of settings and pings.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// POST http://a/
const POST: &[u8] = &[0x83, 0x86, 0x84, 0x41, 1, b'a'];

/// Reads what is uploaded, tells how much that is, and answers in the end.
async fn serve(io: DuplexStream, crowd: Rc<Crowd>, read: mpsc::UnboundedSender<usize>) {
    let mut windows = Windows::new(crowd, MOST, Arc::default());
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(windows.first()).initial_connection_window_size(MAX_STREAMS * MOST);
    let mut h2 = builder.handshake::<_, Bytes>(io).await.unwrap();
    while let Some(accepted) = poll_fn(|cx| windows.poll_accept(&mut h2, cx)).await {
        let (request, mut respond) = accepted.unwrap();
        let mut body = Body::from_h2(request.into_body(), false, Limits::default());
        if let Body::H2(body) = &mut body {
            body.is_upload(windows.upload());
        }
        let read = read.clone();
        spawn_local(async move {
            let mut length = 0;
            while let Some(frame) = body.frame().await {
                length += frame.unwrap().into_data().unwrap().len();
                read.send(length).unwrap();
            }
            drop(body);
            respond.send_response(http::Response::new(()), true).unwrap();
        });
    }
}

/// A client by hand.
struct Client {
    io: DuplexStream,
    /// What the server has read of uploads.
    read: mpsc::UnboundedReceiver<usize>,
}

impl Client {
    /// Whose server has begun.
    async fn new(crowd: &Rc<Crowd>) -> Self {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (tell, read) = mpsc::unbounded_channel();
        spawn_local(serve(far, crowd.clone(), tell));
        let mut client = Self { io: near, read };
        client.io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        client.send(SETTINGS, 0, 0, b"").await;
        client
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u8, payload: &[u8]) {
        let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        self.io.write_all(&[&[a, b, c, kind, flags, 0, 0, 0, stream], payload].concat()).await.unwrap();
    }

    /// Sends so much, and waits until the server has read so much of that stream.
    async fn upload(&mut self, stream: u8, size: usize, flags: u8, all: usize) {
        for part in vec![0; size].chunks(16_384) {
            self.send(DATA, flags, stream, part).await;
        }
        while self.read.recv().await.unwrap() < all {}
    }

    /// The payload of the next frame of this kind, stream, and flags.
    async fn next(&mut self, kind: u8, flags: u8, stream: u8) -> Vec<u8> {
        let next = async {
            loop {
                let mut head = [0; 9];
                self.io.read_exact(&mut head).await.unwrap();
                let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
                self.io.read_exact(&mut payload).await.unwrap();
                assert!(head[3] != SETTINGS || head[4] == ACK || kind == SETTINGS, "told of {payload:?}");
                if (head[3], head[4], head[8]) == (kind, flags, stream) {
                    return payload;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), next).await.expect("comes")
    }

    /// The window in the next settings, in KiB.
    async fn told(&mut self) -> u32 {
        let settings = self.next(SETTINGS, 0, 0).await;
        let window = settings.chunks(6).find(|setting| setting[..2] == [0, 4]).unwrap();
        u32::from_be_bytes(window[2..].try_into().unwrap()) / 1024
    }

    async fn acknowledge(&mut self) {
        self.send(SETTINGS, ACK, 0, b"").await;
    }

    /// All that was sent is read, and the server has nothing to tell.
    async fn is_told_nothing(&mut self) {
        self.send(PING, 0, 0, b"anything").await;
        self.next(PING, ACK, 0).await;
    }
}

fn enter(crowd: &Crowd, streams: u32) {
    (0..streams).for_each(|_| crowd.enter());
}

#[tokio::test(start_paused = true)]
async fn clients_are_told_at_once_while_they_upload_nothing() {
    let passing = async {
        let crowd = Rc::<Crowd>::default();
        let mut client = Client::new(&crowd).await;
        assert_eq!(client.told().await, 256);
        enter(&crowd, 128);
        client.is_told_nothing().await;
        client.acknowledge().await;
        assert_eq!(client.told().await, 64, "once it has heard the first");
        client.acknowledge().await;
        // What ended with its head is no upload.
        client.send(HEADERS, END_HEADERS | END_STREAM, 1, POST).await;
        client.next(HEADERS, END_HEADERS | END_STREAM, 1).await;
        assert_eq!(crowd.streams(), 128);
        enter(&crowd, 384);
        assert_eq!(client.told().await, 32);
        client.acknowledge().await;
        client.send(HEADERS, END_HEADERS, 3, POST).await;
        client.upload(3, 1, 0, 1).await;
        assert_eq!(crowd.streams(), 513);
        assert_eq!(client.told().await, 32, "again: one began, and might have before it had heard");
        client.acknowledge().await;
        enter(&crowd, 2_048);
        client.is_told_nothing().await;
        (0..2_560).for_each(|_| crowd.leave());
        crowd.ease();
        assert_eq!(client.told().await, 64, "as far as that goes beside an upload");
        client.acknowledge().await;
        client.upload(3, 1, END_STREAM, 2).await;
        assert_eq!(client.told().await, 256);
        client.acknowledge().await;
        assert_eq!(crowd.streams(), 0);
        enter(&crowd, 128);
        assert_eq!(client.told().await, 64);
        assert_eq!(Client::new(&crowd).await.told().await, 64, "a new one");
    };
    LocalSet::new().run_until(passing).await;
}

#[tokio::test(start_paused = true)]
async fn uploads_that_began_before_a_narrower_window_was_heard_of_go_on() {
    let passing = async {
        let crowd = Rc::<Crowd>::default();
        let mut client = Client::new(&crowd).await;
        assert_eq!(client.told().await, 256);
        client.acknowledge().await;
        enter(&crowd, 512);
        // All of these are on their way when it comes; both are read by the time that it is acknowledged.
        assert_eq!(client.told().await, 32);
        for stream in [1, 3] {
            client.send(HEADERS, END_HEADERS, stream, POST).await;
            client.upload(stream, 48 * 1024, 0, 48 * 1024).await;
        }
        client.acknowledge().await;
        // Its windows are 16 KiB less than nothing.
        assert_eq!(client.told().await, 32);
        for stream in [1, 3] {
            let more = client.next(WINDOW_UPDATE, 0, stream).await;
            assert_eq!(u32::from_be_bytes(more.try_into().unwrap()), 48 * 1024);
        }
        client.acknowledge().await;
        client.upload(3, 16 * 1024, 0, 64 * 1024).await;
        client.upload(3, 16 * 1024, END_STREAM, 80 * 1024).await;
        client.next(HEADERS, END_HEADERS | END_STREAM, 3).await;
    };
    LocalSet::new().run_until(passing).await;
}
