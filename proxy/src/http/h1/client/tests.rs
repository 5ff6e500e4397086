use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Version};
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::*;
use crate::http::Spelling;
use crate::http::h1::parse::InvalidHead;
use crate::telemetry::{ByteCounter, UpstreamMetrics, UpstreamProtocol};
use crate::upstream::STALLED;
use crate::worker::{Files, Need};

/// A connection, and its server's end.
async fn connection() -> (Sender, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (sender(Upstream::Plain(client)), listener.accept().await.unwrap().0)
}

fn sender(io: Upstream) -> Sender {
    let metrics = Arc::new(UpstreamMetrics::new("c".into()));
    let file = Files::new(1).take(Need::First, &mut None).unwrap();
    let counted = UpstreamConnection::opened(&metrics, UpstreamProtocol::Http1, None, None, file);
    Sender::new(io, counted, None, Limits::default())
}

fn head(method: Method) -> RequestHead {
    RequestHead {
        method,
        scheme: None,
        authority: Some("a".parse().unwrap()),
        path: PathAndQuery::from_static("/"),
        version: Version::HTTP_11,
        headers: HeaderMap::new(),
        upgrade: None,
        protocol: None,
        spelling: Spelling::default(),
        repeats: false,
    }
}

fn full(text: impl Into<Bytes>) -> RequestBody {
    RequestBody::new(Body::Full(text.into()), ByteCounter::default(), Duration::ZERO)
}

async fn send(sender: &Sender, method: Method, body: RequestBody) -> Result<(ResponseHead, Body), Unanswered> {
    sender.send(&head(method), body, &Informational::default()).await
}

/// Reads the server's end up to `end`.
async fn until(server: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let byte = server.read_u8().await.unwrap_or_else(|_| panic!("{:?}", String::from_utf8_lossy(&text)));
        text.push(byte);
    }
    String::from_utf8(text).unwrap()
}

async fn say(server: &mut (impl AsyncWrite + Unpin), text: &str) {
    server.write_all(text.as_bytes()).await.unwrap();
}

/// Has one GET answered with `answer`, whose body is read.
async fn answered(
    sender: &Sender,
    server: &mut (impl AsyncRead + AsyncWrite + Unpin),
    answer: &str,
) -> (ResponseHead, Bytes) {
    let (got, ()) = tokio::join!(send(sender, Method::GET, RequestBody::empty()), async {
        until(server, "\r\n\r\n").await;
        say(server, answer).await;
    });
    let (head, body) = got.unwrap();
    (head, body.collect().await.unwrap().to_bytes())
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Waits until the runtime knows of what the server did.
async fn noticed(sender: &Sender) {
    while !sender.has_ended() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_clean_exchange_leaves_the_connection_for_another() {
    let (sender, mut server) = connection().await;
    for answer in [OK, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"] {
        assert_eq!(answered(&sender, &mut server, answer).await.1, "ok");
        assert!(sender.is_reusable() && !sender.has_ended(), "{answer}");
    }
    answered(&sender, &mut server, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
    assert!(!sender.is_reusable());
}

#[tokio::test]
async fn what_a_large_head_took_is_given_back_before_its_answer_comes() {
    let (sender, mut server) = connection().await;
    let (mut large, informational) = (head(Method::GET), Informational::default());
    large.headers.insert("x-large", HeaderValue::from_bytes(&[b'l'; 50_000]).unwrap());
    let mut answered = pin!(sender.send(&large, RequestBody::empty(), &informational));
    tokio::select! {
        _ = &mut answered => panic!("an answer"),
        text = until(&mut server, "\r\n\r\n") => assert!(text.len() > 50_000),
    }
    // Whether its last part has left may not have been asked yet.
    assert!(poll_fn(|cx| Poll::Ready(answered.as_mut().poll(cx))).await.is_pending());
    assert!(!sender.inner.borrow_mut().output.holds_room(1));
    say(&mut server, OK).await;
    answered.await.unwrap();
}

#[tokio::test]
async fn what_comes_behind_an_answer_poisons_the_connection() {
    let (sender, mut server) = connection().await;
    let surplus = |sender: &Sender| sender.inner.borrow().counted.surplus_answers();
    answered(&sender, &mut server, &format!("{OK}EVIL")).await;
    assert!(!sender.is_reusable());
    assert_eq!(surplus(&sender), 1);
    let (sender, mut server) = connection().await;
    answered(&sender, &mut server, OK).await;
    assert!(sender.is_reusable() && !sender.has_ended());
    assert_eq!(surplus(&sender), 0);
    say(&mut server, "EVIL").await;
    noticed(&sender).await;
    assert_eq!(surplus(&sender), 1);
    // One that only ends has said nothing.
    let (sender, mut server) = connection().await;
    answered(&sender, &mut server, OK).await;
    drop(server);
    noticed(&sender).await;
    assert_eq!(surplus(&sender), 0);
}

#[tokio::test]
async fn a_closed_connection_costs_only_what_may_not_be_done_twice() {
    for (method, text, used, repeats, again) in [
        (Method::GET, "", true, true, true),
        (Method::DELETE, "", true, true, true),
        (Method::GET, "", true, false, false),
        (Method::GET, "", false, true, false),
        (Method::POST, "", true, true, false),
        (Method::PUT, "body", true, true, false),
    ] {
        let (sender, mut server) = connection().await;
        if used {
            answered(&sender, &mut server, OK).await;
        }
        let body = if text.is_empty() { RequestBody::empty() } else { full(text) };
        let head = RequestHead { repeats, ..head(method.clone()) };
        let told = Informational::default();
        let (got, ()) = tokio::join!(sender.send(&head, body, &told), async {
            until(&mut server, &format!("\r\n\r\n{text}")).await;
            drop(server);
        });
        let Unanswered { why, unprocessed, body } = got.unwrap_err();
        assert!(matches!(why, Why::Closed(_)), "{why}");
        assert_eq!((unprocessed, body.is_some()), (false, again), "{method} {text:?} used: {used} {repeats}");
    }
}

#[tokio::test]
async fn a_request_comes_back_whole_from_a_connection_closed_before_it() {
    let (sender, mut server) = connection().await;
    answered(&sender, &mut server, OK).await;
    drop(server);
    noticed(&sender).await;
    let Unanswered { unprocessed, body, .. } = send(&sender, Method::POST, full("hello")).await.unwrap_err();
    assert!(unprocessed);
    assert_eq!(body.unwrap().collect().await.unwrap().to_bytes(), "hello");
}

/// What becomes of a request that its server ends under way: after it was `heard`, or before it received anything of it.
async fn met_an_end(used: bool, heard: bool, reset: bool, request: RequestBody) -> (bool, Option<Bytes>) {
    let (sender, mut server) = connection().await;
    if used {
        answered(&sender, &mut server, OK).await;
    }
    if !heard {
        socket::tests::deafen(&server);
    }
    let (got, ()) = tokio::join!(send(&sender, Method::POST, request), async {
        if heard {
            until(&mut server, "\r\n\r\n").await;
        } else {
            let written = || socket::unacknowledged(sender.inner.borrow().wire.stream.tcp()).unwrap() > 0;
            poll_fn(|cx| if written() { Poll::Ready(()) } else { wake(cx) }).await;
        }
        if reset {
            socket::abort_on_drop(&server).unwrap();
        }
        drop(server);
    });
    let Unanswered { why, unprocessed, body } = got.unwrap_err();
    assert!(matches!(why, Why::Closed(_)), "{why}");
    let body = match body {
        Some(body) => Some(body.collect().await.unwrap().to_bytes()),
        None => None,
    };
    (unprocessed, body)
}

fn wake(cx: &Context<'_>) -> Poll<()> {
    cx.waker().wake_by_ref();
    Poll::Pending
}

#[tokio::test]
async fn a_request_that_its_server_never_received_comes_back_whole() {
    let whole = |text: &'static str| (true, Some(Bytes::from(text)));
    assert_eq!(met_an_end(true, false, false, RequestBody::empty()).await, whole(""));
    assert_eq!(met_an_end(true, false, false, full("hello")).await, whole("hello"));
    assert_eq!(met_an_end(true, true, false, full("hello")).await, (false, None), "it had the head");
    assert_eq!(met_an_end(true, false, true, full("hello")).await, (false, None), "a reset proves nothing");
    assert_eq!(
        met_an_end(false, false, false, full("hello")).await,
        (false, None),
        "nor does a new connection that fails"
    );
    assert_eq!(met_an_end(true, false, false, full(vec![0; 100_000])).await, (true, None), "too much was sent to keep");
}

#[tokio::test]
async fn what_tls_has_sent_is_counted_as_it_was_sent() {
    for heard in [false, true] {
        let (client, mut server) = crate::tls::tests::connected().await;
        let sender = sender(Upstream::Tls(Box::new(client)));
        answered(&sender, &mut server, OK).await;
        if !heard {
            socket::tests::deafen(&server.get_ref().0.stream);
        }
        let (got, ()) = tokio::join!(send(&sender, Method::POST, full("hello")), async {
            if heard {
                until(&mut server, "\r\n\r\nhello").await;
            } else {
                let written = || socket::unacknowledged(sender.inner.borrow().wire.stream.tcp()).unwrap() > 0;
                poll_fn(|cx| if written() { Poll::Ready(()) } else { wake(cx) }).await;
            }
            drop(server);
        });
        let Unanswered { why, unprocessed, body } = got.unwrap_err();
        assert!(matches!(why, Why::Closed(_)), "{why}");
        assert_eq!((unprocessed, body.is_some()), (!heard, !heard));
    }
}

#[tokio::test]
async fn what_tls_was_given_and_has_not_sent_comes_back() {
    let (plain, server) = connection().await;
    let (client, over_tls) = crate::tls::tests::connected().await;
    socket::abort_on_drop(&server).unwrap();
    socket::abort_on_drop(&over_tls.get_ref().0.stream).unwrap();
    drop((server, over_tls));
    let tls = sender(Upstream::Tls(Box::new(client)));
    for sender in [plain, tls] {
        let Unanswered { why, unprocessed, body } = send(&sender, Method::POST, full("hello")).await.unwrap_err();
        assert!(matches!(why, Why::Closed(_)), "{why}");
        assert!(unprocessed);
        assert_eq!(body.unwrap().collect().await.unwrap().to_bytes(), "hello");
    }
}

#[tokio::test]
async fn an_answer_may_come_before_the_end_of_the_request() {
    let (sender, mut server) = connection().await;
    let long = vec![b'u'; 20_000_000];
    let (got, ()) = tokio::join!(send(&sender, Method::POST, full(long)), async {
        until(&mut server, "\r\n\r\n").await;
        say(&mut server, "HTTP/1.1 413 Content Too Large\r\ncontent-length: 4\r\n\r\nlong").await;
    });
    let (head, body) = got.unwrap();
    assert_eq!(head.status, 413);
    assert_eq!(body.collect().await.unwrap().to_bytes(), "long");
    assert!(!sender.is_reusable() && sender.is_uploading());
    let rest = async {
        let mut sink = vec![0; 20_000_000];
        server.read_exact(&mut sink).await.unwrap();
    };
    tokio::join!(sender.finish(), rest);
    assert!(sender.is_reusable(), "the upload went on beyond its answer");
}

#[tokio::test]
async fn an_upload_goes_on_while_nobody_takes_its_answer() {
    let (sender, mut server) = connection().await;
    let (got, ()) = tokio::join!(send(&sender, Method::POST, full(vec![b'u'; 20_000_000])), async {
        until(&mut server, "\r\n\r\n").await;
        say(&mut server, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate").await;
    });
    let mut answer = got.unwrap().1;
    let mut sink = vec![0; 20_000_000];
    let mut rest = pin!(server.read_exact(&mut sink));
    let uploaded = poll_fn(|cx| {
        assert!(answer.poll_blocked(cx).is_pending());
        rest.as_mut().poll(cx)
    });
    uploaded.await.unwrap();
    assert_eq!(answer.collect().await.unwrap().to_bytes(), "late");
    assert!(sender.is_reusable());
}

#[tokio::test]
async fn an_idle_connection_holds_no_buffer_however_often_it_is_looked_at() {
    let (sender, mut server) = connection().await;
    let held = || sender.inner.borrow().wire.input.capacity();
    assert!(!sender.has_ended());
    assert_eq!(held(), 0);
    answered(&sender, &mut server, OK).await;
    sender.free_buffer();
    assert!(!sender.has_ended());
    assert_eq!(held(), 0);
    assert_eq!(answered(&sender, &mut server, OK).await.1, "ok");
}

/// Has the server answer an upload of 20 MB and read no more of it.
async fn answered_early() -> (Sender, TcpStream) {
    let (sender, mut server) = connection().await;
    let (got, ()) = tokio::join!(send(&sender, Method::POST, full(vec![b'u'; 20_000_000])), async {
        until(&mut server, "\r\n\r\n").await;
        say(&mut server, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    });
    assert!(matches!(got.unwrap().1, Body::Empty));
    assert!(sender.is_uploading());
    (sender, server)
}

// Time is paused: it passes where nothing else happens.
#[tokio::test(start_paused = true)]
async fn an_upload_beyond_its_answer_is_given_up_where_it_stands_still() {
    let (sender, _server) = answered_early().await;
    let begun = Instant::now();
    sender.finish().await;
    assert!((STALLED..3 * STALLED).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert!(!sender.is_reusable());
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_stands_still_takes_the_unfinished_answer_with_it() {
    let (sender, mut server) = connection().await;
    let (other, mut silent) = connection().await;
    let (never, ()) = tokio::join!(send(&other, Method::GET, RequestBody::empty()), async {
        until(&mut silent, "\r\n\r\n").await;
        say(&mut silent, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").await;
    });
    let idle = Duration::from_secs(60);
    let upload = RequestBody::new(never.unwrap().1, ByteCounter::default(), idle);
    let (got, ()) = tokio::join!(send(&sender, Method::POST, upload), async {
        until(&mut server, "\r\n\r\n").await;
        say(&mut server, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
    });
    // Its server waits for the rest, and would for ever.
    let broken = tokio::time::timeout(3 * idle, got.unwrap().1.collect()).await.expect("an end").unwrap_err();
    assert!(matches!(broken, BodyError::Stalled(bound) if bound == idle), "{broken:?}");
    assert!(!sender.is_reusable());
}

#[tokio::test(start_paused = true)]
async fn an_upload_beyond_its_answer_goes_on_while_it_gets_on() {
    let (sender, mut server) = answered_early().await;
    let rest = async {
        let mut sink = vec![0; 5_000_000];
        for _ in 0..4 {
            tokio::time::sleep(STALLED - Duration::from_secs(1)).await;
            server.read_exact(&mut sink).await.unwrap();
        }
    };
    let begun = Instant::now();
    tokio::join!(sender.finish(), rest);
    assert!(begun.elapsed() > 2 * STALLED && sender.is_reusable());
}

#[tokio::test]
async fn informational_responses_come_first_and_are_counted() {
    let (sender, mut server) = connection().await;
    let informational = Informational::default();
    let get = head(Method::GET);
    let (got, ()) = tokio::join!(sender.send(&get, RequestBody::empty(), &informational), async {
        until(&mut server, "\r\n\r\n").await;
        say(&mut server, &format!("HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n{OK}"))
            .await;
    });
    assert_eq!(got.unwrap().0.status, 200);
    assert_eq!(informational.pop().unwrap().headers["link"], "a");
    assert_eq!(informational.pop().unwrap().status, 100);
    let (sender, mut server) = connection().await;
    let (got, ()) = tokio::join!(send(&sender, Method::GET, RequestBody::empty()), async {
        until(&mut server, "\r\n\r\n").await;
        say(&mut server, &"HTTP/1.1 100 Continue\r\n\r\n".repeat(3_000)).await;
    });
    assert!(matches!(got.unwrap_err().why, Why::Misplaced(_)));
}

#[tokio::test]
async fn a_connection_leaves_http_only_when_asked_to() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nearly";
    let (sender, mut server) = connection().await;
    let (before, ()) = tokio::join!(send(&sender, Method::GET, RequestBody::empty()), async {
        until(&mut server, "\r\n\r\n").await;
        say(&mut server, OK).await;
    });
    // Of an answer before, whoever passes it on to a slow client has it still.
    let mut read = before.unwrap().1;
    assert_eq!(read.frame().await.unwrap().unwrap().into_data().unwrap(), "ok");
    assert!(sender.is_reusable());
    let mut asking = head(Method::GET);
    asking.upgrade = Some(HeaderValue::from_static("x"));
    let (got, ()) =
        tokio::join!(async { sender.send(&asking, RequestBody::empty(), &Informational::default()).await }, async {
            assert!(until(&mut server, "\r\n\r\n").await.contains("upgrade: x"));
            say(&mut server, switch).await;
        });
    assert_eq!(got.unwrap().0.status, 101);
    assert_eq!(&sender.upgrade(None).unwrap().io.prefix[..], b"early");
    assert!(read.is_end_stream() && read.frame().await.is_none());
    let (sender, mut server) = connection().await;
    let (got, ()) = tokio::join!(send(&sender, Method::GET, RequestBody::empty()), async {
        until(&mut server, "\r\n\r\n").await;
        say(&mut server, switch).await;
    });
    assert!(matches!(got.unwrap_err().why, Why::Invalid(InvalidHead::Unasked)));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_seen_to() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nokEVIL",
    ] {
        let (sender, mut server) = connection().await;
        let (got, ()) = tokio::join!(send(&sender, Method::GET, RequestBody::empty()), async {
            until(&mut server, "\r\n\r\n").await;
            say(&mut server, answer).await;
            drop(server);
        });
        got.unwrap().1.collect().await.expect_err(answer);
        assert!(!sender.is_reusable());
    }
}

#[tokio::test]
async fn a_server_says_how_long_it_waits() {
    let (sender, mut server) = connection().await;
    assert_eq!(sender.idle_limit(), None);
    for (said, limit) in [(5, Duration::from_secs(4)), (1, Duration::from_millis(500))] {
        let answer = format!("HTTP/1.1 200 OK\r\nkeep-alive: timeout={said}\r\ncontent-length: 0\r\n\r\n");
        answered(&sender, &mut server, &answer).await;
        assert_eq!(sender.idle_limit(), Some(limit));
    }
}
