use std::future::poll_fn;

use bytes::BytesMut;
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::worker::{Files, Spread};

/// Enough of it.
pub(in crate::http::h1) fn room() -> Rc<Room> {
    Room::new(Spread::among(1, 1, 1).remove(0).0, Files::new(2))
}

/// A connection of which `read` was read before, and its client's end.
async fn connection(read: &str) -> (Shared, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let stream = Downstream::Plain(listener.accept().await.unwrap().0);
    let io = Replay { prefix: BytesMut::from(read), stream };
    (Rc::new(RefCell::new(Connection::new(io, HttpLimits::default(), room()))), client)
}

async fn next(connection: &Shared, ending: Ending) -> Result<Option<ParsedRequest>, Error> {
    poll_fn(|cx| connection.borrow_mut().poll_head(ending, cx)).await
}

// Time is paused: it passes where nothing else happens.
#[tokio::test(start_paused = true)]
async fn half_a_head_is_waited_for_but_not_for_ever() {
    let head = HttpLimits::default().header_timeout;
    let half = "GET / HTTP/1.1\r\nhost: a\r\n";
    let begun = Instant::now();
    let (silent, _client) = connection(half).await;
    assert!(matches!(next(&silent, Ending::No).await, Err(Error::HeadTimeout(timeout)) if timeout == head));
    assert_eq!(begun.elapsed().as_secs(), head.as_secs());
    let (ending, _client) = connection(half).await;
    let begun = Instant::now();
    assert!(matches!(next(&ending, Ending::Now).await, Ok(None)));
    assert_eq!(begun.elapsed().as_secs(), LAST_HEAD.as_secs());
    let (whole, mut client) = connection(half).await;
    client.write_all(b"\r\nGET").await.unwrap();
    assert_eq!(next(&whole, Ending::Now).await.unwrap().unwrap().head.authority.unwrap(), "a");
    let (idle, _client) = connection("").await;
    assert!(matches!(next(&idle, Ending::Now).await, Ok(None)));
}

#[tokio::test]
async fn a_body_is_read_from_its_connection_and_ends_before_the_next_request() {
    let (connection, _client) = connection("abcGET / HTTP/1.0\r\n\r\n").await;
    let mut read = body(&connection, Framing::Length(3));
    assert!(!connection.borrow().is_read());
    assert_eq!(read.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
    assert!(connection.borrow().is_read());
    assert!(read.frame().await.is_none());
    assert_eq!(Rc::strong_count(&connection), 1, "whoever has read it still may send it on for long");
    assert!(next(&connection, Ending::No).await.unwrap().is_some());
}

#[tokio::test]
async fn a_body_that_nobody_wants_is_passed_over() {
    const NEXT: &str = "GET / HTTP/1.0\r\n\r\n";
    for (text, framing, found) in [
        (format!("abc{NEXT}"), Framing::Length(3), true),
        (format!("3\r\nabc\r\n0\r\n\r\n{NEXT}"), Framing::Chunked, true),
        (format!("3\r\nabc\r\n0\r\na: b\r\n\r\n{NEXT}"), Framing::Chunked, true),
        (format!("x\r\n{NEXT}"), Framing::Chunked, false),
        ("ab".to_owned(), Framing::Length(3), false),
    ] {
        let (connection, client) = connection(&text).await;
        drop((body(&connection, framing), client));
        while poll_fn(|cx| connection.borrow_mut().poll_unwanted(cx)).await {}
        assert_eq!(connection.borrow().is_read(), found, "{text}");
        if found {
            assert!(next(&connection, Ending::No).await.unwrap().is_some());
        }
    }
}

#[tokio::test]
async fn a_client_that_ends_within_its_body_is_gone() {
    let (connection, client) = connection("ab").await;
    drop(client);
    body(&connection, Framing::Length(3)).collect().await.expect_err("one byte is missing");
    assert!(matches!(poll_fn(|cx| connection.borrow_mut().poll_gone(cx)).await, Ended::Gone));
}

#[tokio::test]
async fn a_body_that_is_wanted_no_more_breaks_off() {
    let (connection, mut client) = connection("").await;
    let read = body(&connection, Framing::Length(3));
    client.write_all(b"abc").await.unwrap();
    connection.borrow_mut().refuse_body();
    read.collect().await.expect_err("what others read is not passed over");
}

#[tokio::test]
async fn who_waits_for_a_body_learns_that_it_is_wanted_no_more() {
    let (connection, _client) = connection("a").await;
    let read = body(&connection, Framing::Length(3));
    let refuse = async {
        while connection.borrow().body.is_none() {
            tokio::task::yield_now().await;
        }
        connection.borrow_mut().refuse_body();
        // Whoever closes the connection reads from it, too.
        let mut cx = Context::from_waker(Waker::noop());
        assert!(connection.borrow_mut().poll_discard(&mut cx).is_pending());
    };
    tokio::join!(async { read.collect().await.expect_err("it breaks off") }, refuse);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_ended_behind_a_whole_request_is_waited_for_a_while() {
    let request = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let (two, mut client) = connection(&request.repeat(2)).await;
    client.shutdown().await.unwrap();
    for _ in 0..2 {
        assert!(next(&two, Ending::No).await.unwrap().is_some());
        let begun = Instant::now();
        assert!(matches!(poll_fn(|cx| two.borrow_mut().poll_gone(cx)).await, Ended::Gone));
        assert_eq!(begun.elapsed().as_secs(), PARTING.as_secs());
    }
    assert!(next(&two, Ending::No).await.unwrap().is_none());
    let (one, client) = connection(request).await;
    assert!(next(&one, Ending::No).await.unwrap().is_some());
    client.set_zero_linger().unwrap();
    drop(client);
    let begun = Instant::now();
    poll_fn(|cx| one.borrow_mut().poll_gone(cx)).await;
    assert!(begun.elapsed() < PARTING, "it took back what it asked");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_ended_behind_a_whole_request_gives_way_where_others_wait() {
    let (connection, mut client) = connection("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client.shutdown().await.unwrap();
    assert!(next(&connection, Ending::No).await.unwrap().is_some());
    let room = connection.borrow().room.clone();
    let begun = Instant::now();
    let gone = poll_fn(|cx| connection.borrow_mut().poll_gone(cx));
    let others = async {
        tokio::time::sleep(PARTING / 10).await;
        room.want();
    };
    let (ended, ()) = tokio::join!(gone, others);
    assert!(matches!(ended, Ended::Gone));
    assert_eq!(begun.elapsed().as_millis(), (PARTING / 10).as_millis());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_is_seen_where_nothing_is_read_from_it() {
    let ahead = "x".repeat(AHEAD);
    for (before, framing) in [(&ahead[..], Framing::Empty), ("abc", Framing::Length(9))] {
        let (connection, client) = connection(before).await;
        let _unread = body(&connection, framing);
        let gone = poll_fn(|cx| connection.borrow_mut().poll_gone(cx));
        let mut gone = std::pin::pin!(gone);
        let hour = Duration::from_secs(3600);
        tokio::time::timeout(hour, gone.as_mut()).await.expect_err("it is there");
        drop(client);
        assert!(matches!(tokio::time::timeout(hour, gone).await.unwrap(), Ended::Gone), "{framing:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_behind_bytes_that_are_not_read_yet_is_met_in_its_place() {
    const SIZE: usize = 100_000;
    let (connection, mut client) = connection("").await;
    let Body::H1Request(mut reader) = body(&connection, Framing::Length(SIZE as u64)) else { panic!("it has none") };
    client.write_all(&vec![b'u'; SIZE]).await.unwrap();
    client.shutdown().await.unwrap();
    let mut read = 0;
    while read < SIZE {
        // Whoever reads it has no room for so long.
        let gone = poll_fn(|cx| connection.borrow_mut().poll_gone(cx));
        tokio::time::timeout(UNREAD - Duration::from_secs(2), gone).await.expect_err("it may be whole");
        read += poll_fn(|cx| reader.poll_frame(cx)).await.unwrap().unwrap().into_data().unwrap().len();
    }
    assert!(connection.borrow().is_read());
    let begun = Instant::now();
    poll_fn(|cx| connection.borrow_mut().poll_gone(cx)).await;
    assert_eq!(begun.elapsed().as_secs(), PARTING.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_breaks_off_behind_bytes_that_are_not_read_is_gone_at_once() {
    let (connection, mut client) = connection("").await;
    let _unread = body(&connection, Framing::Length(9));
    client.write_all(b"abc").await.unwrap();
    client.shutdown().await.unwrap();
    let gone = poll_fn(|cx| connection.borrow_mut().poll_gone(cx));
    let mut gone = std::pin::pin!(gone);
    tokio::time::timeout(UNREAD / 2, gone.as_mut()).await.expect_err("it has ended its side alone");
    socket::abort_on_drop(&client).unwrap();
    drop(client);
    tokio::time::timeout(2 * crate::watch::WATCH, gone).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_is_seen_where_its_body_is_waited_for_no_more() {
    let (connection, client) = connection("a").await;
    let mut unread = body(&connection, Framing::Length(9));
    let mut cx = Context::from_waker(Waker::noop());
    let Body::H1Request(reader) = &mut unread else { panic!("it is read") };
    while reader.poll_frame(&mut cx).is_ready() {}
    // Another try of the request waits for a connection.
    drop(client);
    let gone = poll_fn(|cx| connection.borrow_mut().poll_gone(cx));
    assert!(matches!(tokio::time::timeout(Duration::from_secs(3600), gone).await.unwrap(), Ended::Gone));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_ends_behind_its_last_request_is_there_until_it_breaks_off() {
    for (head, framing) in [
        ("GET / HTTP/1.0\r\n\r\n", Framing::Empty),
        ("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", Framing::Empty),
        ("POST / HTTP/1.0\r\ncontent-length: 9\r\n\r\n", Framing::Length(9)),
    ] {
        let (connection, mut client) = connection(head).await;
        next(&connection, Ending::No).await.unwrap().unwrap();
        let _unread = body(&connection, framing);
        client.shutdown().await.unwrap();
        let gone = poll_fn(|cx| connection.borrow_mut().poll_gone(cx));
        let mut gone = std::pin::pin!(gone);
        let hour = Duration::from_secs(3600);
        tokio::time::timeout(hour, gone.as_mut()).await.expect_err("it waits for its answer");
        socket::abort_on_drop(&client).unwrap();
        drop(client);
        assert!(matches!(tokio::time::timeout(hour, gone).await.unwrap(), Ended::Gone), "{head}");
    }
    let (connection, client) = connection("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    next(&connection, Ending::No).await.unwrap().unwrap();
    drop(client);
    assert!(matches!(poll_fn(|cx| connection.borrow_mut().poll_gone(cx)).await, Ended::Gone));
}

#[tokio::test(start_paused = true)]
async fn an_empty_line_between_requests_is_no_late_head() {
    let (connection, mut client) = connection("\r\n").await;
    let day = Duration::from_secs(86_400);
    tokio::time::timeout(day, next(&connection, Ending::No)).await.expect_err("it is idle");
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    assert!(next(&connection, Ending::No).await.unwrap().is_some());
}
