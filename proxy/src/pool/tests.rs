//! Connections over loopback whose other ends say nothing, or goodbye.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use remora_model::{CircuitBreakers, HttpLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::http::h2;
use crate::io::Upstream;
use crate::telemetry::{UpstreamMetrics, UpstreamProtocol};
use crate::upstream::UpstreamConnection;
use crate::worker::{Files, Need, Share};

/// SETTINGS, and GOAWAY with no stream processed.
const GOODBYE: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

async fn connected() -> (Upstream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (Upstream::Plain(stream), listener.accept().await.unwrap().0)
}

fn http2(host: &Rc<Host>, sender: h2::Sender) -> Rc<Shared> {
    let shared = Shared::new(sender, true, &HttpLimits::default(), Share::default(), Rc::default());
    drop(host.add(Fresh::Http2(shared.clone()), 0));
    shared
}

/// The shared connection that a request gets.
fn given(host: &Rc<Host>) -> Option<Rc<Shared>> {
    match host.checkout(Hop::MeshHttp2, false, false) {
        Checkout::Ready(Connection::Http2(Stream(ref shared, _))) => Some(shared.clone()),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn shared_connections_are_superseded_once_a_second() {
    let host = Rc::new(Host::new(0, None));
    let mut all = Vec::new();
    for _ in 0..3 {
        let (io, end) = connected().await;
        let (sender, connection) = h2::connect(io, true, HttpLimits::default(), 65_535).await.unwrap();
        all.push((sender, connection, end));
    }
    let mut senders = all.iter().map(|(sender, ..)| sender.clone());
    let [first, second] = [0, 1].map(|_| http2(&host, senders.next().unwrap()));
    assert!(Rc::ptr_eq(&given(&host).unwrap(), &first));
    host.supersede(&first);
    assert!(given(&host).is_none(), "what was made with it leads no other way");
    let third = http2(&host, senders.next().unwrap());
    for superseded in [&first, &second, &third] {
        host.supersede(superseded);
        assert!(Rc::ptr_eq(&given(&host).unwrap(), &third), "it is new");
    }
    tokio::time::advance(SUPERSEDED).await;
    host.supersede(&first);
    assert!(given(&host).is_some(), "that was long ago");
    host.supersede(&third);
    assert!(given(&host).is_none());
}

fn http1(io: Upstream) -> h1::client::Sender {
    http1_of(&Files::new(1), io)
}

fn http1_of(files: &Rc<Files>, io: Upstream) -> h1::client::Sender {
    let metrics = Arc::new(UpstreamMetrics::new("c".into()));
    let file = files.take(Need::First, &mut None).unwrap();
    let counted = UpstreamConnection::opened(&metrics, UpstreamProtocol::Http1, None, None, file);
    h1::client::Sender::new(io, counted, None, Default::default())
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_work_gives_way_to_what_waits_for_a_file() {
    let (host, files) = (Rc::new(Host::new(0, None)), Files::new(2));
    let ((io, mut end), (other_io, _other_end), (shared_io, _shared_end)) =
        (connected().await, connected().await, connected().await);
    host.give_back(http1_of(&files, io), 0);
    tokio::time::advance(Duration::from_secs(1)).await;
    let (sender, _connection) = h2::connect(shared_io, true, HttpLimits::default(), 65_535).await.unwrap();
    let shared = Shared::new(sender, true, &HttpLimits::default(), files.share(Need::More).unwrap(), Rc::default());
    assert!(files.share(Need::More).is_none());
    drop(host.add(Fresh::Http2(shared.clone()), 0));
    assert!(files.share(Need::More).is_some(), "once it has rested it is anybody's");
    assert!(host.close_longest_idle(), "its file is free");
    assert_eq!(end.read(&mut [0]).await.unwrap(), 0);
    let stream = Stream::new(shared.clone());
    assert_eq!(host.idle_since(), None, "it is in use");
    drop(stream);
    assert!(!host.close_longest_idle() && shared.closed.get(), "it says so first");
    drop(host.add(Fresh::Http2(shared), 0));
    assert_eq!(host.idle_since(), None, "what has ended and is not yet swept holds no file for long");
    host.sweep(Instant::now(), Duration::ZERO);

    let (other, _last) = (http1_of(&files, other_io), files.take(Need::First, &mut None).unwrap());
    let by = Instant::now() + Duration::from_secs(1);
    let (file, ()) = tokio::join!(files.wait(Share::default(), by), async { host.give_back(other, 0) });
    assert!(file.is_some() && host.is_unused());
}

#[tokio::test(start_paused = true)]
async fn how_long_a_server_waits_is_learned() {
    let host = Rc::new(Host::new(0, None));
    let (io, end) = connected().await;
    host.give_back(http1(io), 0);
    tokio::time::advance(Duration::from_secs(5)).await;
    drop(end);
    // Until the runtime knows.
    while !host.is_unused() {
        host.sweep(Instant::now(), Duration::ZERO);
        tokio::task::yield_now().await;
    }
    let (io, _end) = connected().await;
    host.give_back(http1(io), 0);
    tokio::time::advance(Duration::from_secs(2)).await;
    let kept = host.take_idle().unwrap();
    host.give_back(kept, 0);
    tokio::time::advance(Duration::from_secs(3)).await;
    assert!(host.take_idle().is_none(), "its server may be about to close it");
    tokio::time::advance(patience::BELIEVED).await;
    assert_eq!(host.patience.limit(), None, "servers change");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_keeps_no_connection_is_known_by_the_second() {
    let host = Rc::new(Host::new(0, None));
    let moment = Duration::from_millis(20);
    let ends = async |serves: bool| {
        let (io, _end) = connected().await;
        let sender = http1(io);
        host.give_back(sender, 0);
        tokio::time::advance(moment).await;
        let sender = host.take_idle().unwrap();
        if serves {
            host.give_back(sender, 0);
            return host.take_idle().map(drop).unwrap();
        }
        host.learn_haste(&sender);
        tokio::time::advance(moment).await;
    };
    ends(false).await;
    assert_eq!(host.patience.limit(), None, "as of a server that restarts");
    ends(true).await;
    ends(false).await;
    assert_eq!(host.patience.limit(), None, "it does keep some");
    ends(false).await;
    assert_eq!(host.patience.limit(), Some(Duration::ZERO));
    let (io, _end) = connected().await;
    host.give_back(http1(io), 0);
    assert!(host.take_idle().is_none());
}

#[tokio::test]
async fn where_one_connection_has_ended_others_that_have_are_not_tried() {
    let host = Rc::new(Host::new(0, None));
    let mut ends = Vec::new();
    for _ in 0..4 {
        let (io, end) = connected().await;
        host.give_back(http1(io), 0);
        ends.push(end);
    }
    drop(ends.drain(2..));
    assert!(host.take_idle().map(|sender| host.give_back(sender, 0)).is_some(), "its end is not yet seen");
    host.discard_ended();
    assert_eq!(host.idle.borrow().len(), 2, "those that have not ended stay");
    assert!(matches!(host.checkout(Hop::Http1, false, true), Checkout::Dial(None, _)), "one may end at any time");
    assert!(matches!(host.checkout(Hop::Http1, false, false), Checkout::Ready(_)));
    assert!(host.is_unused(), "the fresh one came in another's place");
}

#[tokio::test(start_paused = true)]
async fn ended_connections_are_looked_for_once_a_second() {
    let host = Rc::new(Host::new(0, None));
    host.discard_ended();
    let (io, end) = connected().await;
    host.give_back(http1(io), 0);
    drop(end);
    host.discard_ended();
    assert!(!host.is_unused(), "nobody looks");
    tokio::time::advance(LOOK).await;
    host.discard_ended();
    assert!(host.is_unused());
}

#[tokio::test]
async fn where_one_connection_has_ended_shared_ones_that_have_not_stay() {
    let host = Rc::new(Host::new(0, None));
    let ((io, mut end), (other_io, _other_end)) = (connected().await, connected().await);
    let (mut sender, connection) = h2::connect(io, true, HttpLimits::default(), 65_535).await.unwrap();
    let (other, _other_connection) = h2::connect(other_io, true, HttpLimits::default(), 65_535).await.unwrap();
    let (ended, stays) = (http2(&host, sender.clone()), http2(&host, other));
    end.write_all(GOODBYE).await.unwrap();
    let mut connection = pin!(connection);
    let goodbye = poll_fn(|cx| {
        let ended = connection.as_mut().poll(cx);
        let refused = matches!(sender.poll_ready(cx), Poll::Ready(Err(_)));
        if ended.is_ready() || refused { Poll::Ready(()) } else { Poll::Pending }
    });
    tokio::time::timeout(Duration::from_secs(120), goodbye).await.unwrap();
    assert!(Rc::ptr_eq(&given(&host).unwrap(), &ended), "nobody was told");
    host.discard_ended();
    assert!(Rc::ptr_eq(&given(&host).unwrap(), &stays));
}

#[tokio::test]
async fn a_connection_that_takes_no_streams_is_not_kept() {
    /// SETTINGS with a limit of no streams.
    const NONE: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0];
    let host = Rc::new(Host::new(0, None));
    let (io, mut end) = connected().await;
    let (sender, connection) = h2::connect(io, true, HttpLimits::default(), 65_535).await.unwrap();
    let shared = http2(&host, sender);
    host.sweep(Instant::now(), Duration::ZERO);
    assert!(Rc::ptr_eq(&given(&host).unwrap(), &shared));
    end.write_all(NONE).await.unwrap();
    let mut connection = pin!(connection);
    let told = poll_fn(|cx| {
        assert!(connection.as_mut().poll(cx).is_pending());
        if shared.has_room() { Poll::Pending } else { Poll::Ready(()) }
    });
    tokio::time::timeout(Duration::from_secs(120), told).await.unwrap();
    host.sweep(Instant::now(), Duration::ZERO);
    assert!(host.is_unused());
}

#[tokio::test]
async fn streams_that_a_server_allows_later_are_for_those_who_wait() {
    /// SETTINGS with a limit of 100 streams.
    const HUNDRED: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100];
    let limits = CircuitBreakers { max_connections: Some(1), ..Default::default() };
    let bounds = Bounds::new(limits, Arc::default());
    let host = Rc::new(Host::new(0, Some(bounds.clone())));
    let Checkout::Dial(Some(ticket), Some(mut place)) = host.checkout(Hop::Http2, false, false) else {
        panic!("none is made")
    };
    let (io, mut end) = connected().await;
    let (sender, connection) = h2::connect(io, false, HttpLimits::default(), 65_535).await.unwrap();
    place.is_shared();
    let lasts =
        host.add(Fresh::Http2(Shared::new(sender, false, &HttpLimits::default(), Share::default(), Rc::default())), 0);
    drop(ticket);
    assert!(matches!(host.checkout(Hop::Http2, false, false), Checkout::Full(_)));
    let mut first = pin!(bounds.freed());
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(first.as_mut().poll(cx).is_pending());
    end.write_all(HUNDRED).await.unwrap();
    let Connection::Http2(Stream(shared, _)) = &lasts else { panic!("one stream") };
    let mut connection = pin!(connection);
    let told = poll_fn(|cx| {
        assert!(connection.as_mut().poll(cx).is_pending());
        if shared.has_room() { Poll::Ready(()) } else { Poll::Pending }
    });
    tokio::time::timeout(Duration::from_secs(120), told).await.unwrap();
    assert!(matches!(host.checkout(Hop::Http2, false, false), Checkout::Full(_)), "it waits behind the first");
    assert!(first.as_mut().poll(cx).is_ready());
    let mut second = pin!(bounds.freed());
    assert!(second.as_mut().poll(cx).is_pending());
    host.sweep(Instant::now(), Duration::ZERO);
    assert!(second.as_mut().poll(cx).is_ready());
}
