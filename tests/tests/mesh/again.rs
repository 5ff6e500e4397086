//! Requests that an HTTP/2 server does not take: each is taken elsewhere, and done once. The servers are part of the test, so that they
//! say what they did.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use remora_test::PATIENCE;
use remora_test::mesh::Mesh;
use remora_test::pod::Pod;
use remora_test::sidecar::Sidecar;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::pair::{entry, service};

/// More of a body than is kept to be sent again.
const MUCH: usize = 100_000;
/// Through two sidecars, and from one to an application that has none.
const ALONG: [&str; 2] = ["", ", mtls: false, protocol: http2"];

/// What an application did.
#[derive(Clone, Default)]
struct Deeds {
    /// Paths, and how long their bodies were.
    done: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    /// Where it refuses what it is asked for the first time: what that was.
    asked: Option<Arc<Mutex<BTreeSet<String>>>>,
}

impl Deeds {
    fn done(&self) -> Vec<String> {
        let mut done = self.done.lock().unwrap().clone();
        done.sort();
        done
    }

    /// Does what is asked on a connection.
    async fn serve(self, stream: TcpStream) {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(self.clone().answer(request, respond));
        }
    }

    async fn answer(self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let path = request.uri().path().to_owned();
        let refuses = self.asked.as_ref().is_some_and(|asked| asked.lock().unwrap().insert(path.clone()));
        let (mut body, mut size) = (request.into_body(), 0);
        let least = if path == "/much" { MUCH } else { 1 };
        while !(refuses && size >= least) {
            match body.data().await {
                Some(Ok(data)) => {
                    size += data.len();
                    body.flow_control().release_capacity(data.len()).unwrap();
                }
                Some(Err(_)) => return,
                None => break,
            }
        }
        if refuses {
            return respond.send_reset(Reason::REFUSED_STREAM);
        }
        self.done.lock().unwrap().push(format!("{path} {size}"));
        let mut send = respond.send_response(Response::new(()), false).unwrap();
        send.send_data(path.into(), true).unwrap();
    }
}

/// Types of frames (RFC 9113 section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

/// SETTINGS_MAX_CONCURRENT_STREAMS.
fn most_streams(most: u8) -> [u8; 6] {
    [0, 3, 0, 0, 0, most]
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A whole answer: 200, from HPACK's static table, and a word.
fn answer(stream: u8, word: &[u8]) -> Vec<u8> {
    [frame(HEADERS, 4, stream, &[0x88]), frame(DATA, 1, stream, word)].concat()
}

/// A server's end of a connection, by hand.
struct ByHand(TcpStream);

impl ByHand {
    /// Takes the connection, with these settings and windows for all that comes.
    async fn begin(stream: TcpStream, settings: &[u8]) -> Self {
        let mut this = Self(stream);
        this.0.read_exact(&mut [0; 24]).await.unwrap();
        let settings = [settings, &[0, 4, 0, 16, 0, 0]].concat();
        this.say(&[frame(SETTINGS, 0, 0, &settings), frame(WINDOW_UPDATE, 0, 0, &[0, 16, 0, 0])].concat()).await;
        this
    }

    async fn say(&mut self, frames: &[u8]) {
        self.0.write_all(frames).await.unwrap();
    }

    /// The next frame, its type, its stream and its size; SETTINGS are acknowledged. `None` at the end.
    async fn frame(&mut self) -> Option<(u8, u32, usize)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let size = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        self.0.read_exact(&mut vec![0; size]).await.ok()?;
        if (head[3], head[4]) == (SETTINGS, 0) {
            self.say(&frame(SETTINGS, 1, 0, &[])).await;
        }
        Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), size))
    }
}

/// A client, the sidecars `along` its way, and an application whose first connection `first` serves.
fn world<F: Future<Output = ()> + Send + 'static>(
    along: &str,
    deeds: &Deeds,
    first: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> (Pod, Sidecar, Option<Sidecar>) {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let inbound = along.is_empty().then(|| server.sidecar("inbound: {mtls: strict}"));
    let more = format!(", timeouts: {{connect: 20s}}{along}");
    let outbound = client.sidecar(&entry(8080, &[server.at(8080)], &more));
    let listener = server.enter(|| std::net::TcpListener::bind(("0.0.0.0", 8080))).unwrap();
    let deeds = deeds.clone();
    let serve = async move {
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let accept = async || {
            let stream = listener.accept().await.unwrap().0;
            deeds.connections.fetch_add(1, Ordering::Relaxed);
            stream
        };
        tokio::spawn(first(accept().await));
        loop {
            tokio::spawn(deeds.clone().serve(accept().await));
        }
    };
    // Ends with the process.
    std::thread::spawn(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(serve));
    (client, outbound, inbound)
}

async fn connect() -> SendRequest<Bytes> {
    let (client, connection) = h2::client::handshake(TcpStream::connect(service(8080)).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Sends a request, with a body where it is given `some` of one; the rest of it is the caller's.
async fn ask(client: &SendRequest<Bytes>, path: &str, some: Option<Vec<u8>>) -> (ResponseFuture, SendStream<Bytes>) {
    let request = Request::post(format!("http://server:8080{path}")).body(()).unwrap();
    let mut client = client.clone().ready().await.unwrap();
    let (answer, mut rest) = client.send_request(request, some.is_none()).unwrap();
    if let Some(some) = some {
        rest.send_data(some.into(), false).unwrap();
    }
    (answer, rest)
}

/// What became of a request: the answer's status, and its body where that is 200; or how its stream was reset.
async fn outcome(answer: ResponseFuture) -> String {
    let answer = match tokio::time::timeout(PATIENCE, answer).await.expect("nothing hangs") {
        Ok(answer) => answer,
        Err(error) => return format!("{:?}", error.reason().unwrap()),
    };
    let status = answer.status().as_u16();
    if status != 200 {
        return status.to_string();
    }
    let (mut body, mut text) = (answer.into_body(), Vec::new());
    while let Some(data) = body.data().await {
        text.extend_from_slice(&data.unwrap());
    }
    format!("200 {}", String::from_utf8(text).unwrap())
}

/// Four requests at once: without a body, with a small one that is whole, with one that has only begun, with much of one.
async fn four(client: &SendRequest<Bytes>) -> [String; 4] {
    let bare = ask(client, "/bare", None).await.0;
    let (whole, mut end) = ask(client, "/whole", Some(b"hel".into())).await;
    end.send_data("lo".into(), true).unwrap();
    let (begun, mut rest) = ask(client, "/begun", Some(b"hel".into())).await;
    let (much, _never) = ask(client, "/much", Some(vec![b'x'; MUCH])).await;
    let (bare, whole, much) = (outcome(bare).await, outcome(whole).await, outcome(much).await);
    // Whoever took it meanwhile has the first part, too. Of one that is over the outcome tells.
    let _ = rest.send_data("lo".into(), true);
    [bare, whole, outcome(begun).await, much]
}

/// What is done of these, where they had to be sent again.
const DONE: [&str; 3] = ["/bare 0", "/begun 5", "/whole 5"];

#[test]
fn what_is_refused_once_is_done_once() {
    for along in ALONG {
        let deeds = Deeds { asked: Some(Arc::default()), ..Deeds::default() };
        let refusing = deeds.clone();
        let (client, outbound, _inbound) = world(along, &deeds, |stream| refusing.serve(stream));
        let outcomes = client.block_on(|| async { four(&connect().await).await });
        // Of the last too much was sent; its client hears that it was refused.
        assert_eq!(outcomes, ["200 /bare", "200 /whole", "200 /begun", "REFUSED_STREAM"], "{along}");
        assert_eq!(deeds.done(), DONE, "{along}");
        assert_eq!(outbound.metric("remora_upstream_retries_total", &[]), 3.0, "{along}");
    }
}

/// Takes five requests and their bodies, of which it promises to serve the first alone, and does.
async fn goes_away(stream: TcpStream, hears: UnboundedSender<()>) {
    let mut server = ByHand::begin(stream, &[]).await;
    let (mut heads, mut taken) = (0, 0);
    while heads < 5 || taken < "hello".len() + "hel".len() + MUCH {
        match server.frame().await.unwrap() {
            (HEADERS, ..) => {
                heads += 1;
                let _ = hears.send(());
            }
            (DATA, _, size) => taken += size,
            _ => {}
        }
    }
    // The last stream is the first, and there is no error.
    server.say(&frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])).await;
    server.say(&answer(1, b"old")).await;
    while server.frame().await.is_some() {}
}

#[test]
fn what_a_goaway_leaves_out_is_done_once_on_another_connection() {
    for along in ALONG {
        let deeds = Deeds::default();
        let (hears, mut heard) = unbounded_channel();
        let (client, _outbound, _inbound) = world(along, &deeds, |stream| goes_away(stream, hears));
        let (old, outcomes) = client.block_on(move || async move {
            let client = connect().await;
            let (old, _) = ask(&client, "/old", None).await;
            heard.recv().await.unwrap();
            let outcomes = four(&client).await;
            (outcome(old).await, outcomes)
        });
        assert_eq!(old, "200 old", "{along}");
        assert_eq!(outcomes, ["200 /bare", "200 /whole", "200 /begun", "503"], "{along}");
        assert_eq!(deeds.done(), DONE, "{along}");
        assert_eq!(deeds.connections.load(Ordering::Relaxed), 2, "{along}");
    }
}

/// Takes `most` streams at once, and none any more when it has them. It answers the first when that is `due`, and refuses the second.
/// Tells when it may be asked again.
async fn takes_no_more(stream: TcpStream, most: u8, hears: UnboundedSender<()>, mut due: UnboundedReceiver<()>) {
    let mut server = ByHand::begin(stream, &most_streams(most)).await;
    let (mut heads, mut acknowledged) = (0, 0);
    while acknowledged < 2 {
        match server.frame().await.unwrap() {
            (HEADERS, ..) => {
                heads += 1;
                match heads {
                    1 if most == 1 => server.say(&frame(SETTINGS, 0, 0, &most_streams(0))).await,
                    1 => hears.send(()).unwrap(),
                    _ => {
                        let refused = frame(RST_STREAM, 0, 3, &[0, 0, 0, 7]);
                        server.say(&[frame(SETTINGS, 0, 0, &most_streams(0)), refused].concat()).await;
                    }
                }
            }
            // An acknowledgement: all others say something.
            (SETTINGS, _, 0) => acknowledged += 1,
            _ => {}
        }
    }
    let _ = hears.send(());
    due.recv().await.unwrap();
    server.say(&answer(1, b"old")).await;
    while server.frame().await.is_some() {}
}

#[test]
fn a_server_that_takes_no_more_streams_is_asked_on_another_connection() {
    for (along, most) in ALONG.into_iter().flat_map(|along| [(along, 1), (along, 2)]) {
        let deeds = Deeds::default();
        let (hears, mut heard) = unbounded_channel();
        let (tell, due) = unbounded_channel();
        let (client, _outbound, _inbound) = world(along, &deeds, move |stream| takes_no_more(stream, most, hears, due));
        let outcomes = client.block_on(move || async move {
            let client = connect().await;
            let (first, _) = ask(&client, "/old", None).await;
            heard.recv().await.unwrap();
            let mut outcomes = Vec::new();
            for path in ["/b", "/c"] {
                outcomes.push(outcome(ask(&client, path, None).await.0).await);
            }
            tell.send(()).unwrap();
            outcomes.push(outcome(first).await);
            outcomes.push(outcome(ask(&client, "/d", None).await.0).await);
            outcomes
        });
        assert_eq!(outcomes, ["200 /b", "200 /c", "200 old", "200 /d"], "{along} {most}");
        assert_eq!(deeds.done(), ["/b 0", "/c 0", "/d 0"], "{along} {most}");
        assert_eq!(deeds.connections.load(Ordering::Relaxed), 2, "{along} {most}");
    }
}

/// Takes no stream until one is `due`, and answers that.
async fn takes_none_yet(stream: TcpStream, mut due: UnboundedReceiver<()>) {
    let mut server = ByHand::begin(stream, &most_streams(0)).await;
    due.recv().await.unwrap();
    server.say(&frame(SETTINGS, 0, 0, &most_streams(1))).await;
    while let Some((kind, stream, _)) = server.frame().await {
        if kind == HEADERS {
            server.say(&answer(stream as u8, b"late")).await;
        }
    }
}

#[test]
fn a_request_waits_for_a_server_that_takes_no_stream_yet() {
    for along in ALONG {
        let deeds = Deeds::default();
        let (tell, due) = unbounded_channel();
        let (client, outbound, inbound) = world(along, &deeds, |stream| takes_none_yet(stream, due));
        let outcome = std::thread::scope(|scope| {
            let asking = scope
                .spawn(|| client.block_on(|| async { outcome(ask(&connect().await, "/late", None).await.0).await }));
            let last = inbound.as_ref().unwrap_or(&outbound);
            last.metric_until("remora_upstream_connections_active", &[], |n| n == 1.0);
            tell.send(()).unwrap();
            asking.join().unwrap()
        });
        assert_eq!(outcome, "200 late", "{along}");
        assert_eq!((deeds.done(), deeds.connections.load(Ordering::Relaxed)), (Vec::new(), 1), "{along}");
    }
}
