use std::time::Duration;

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio::time::Instant;

use super::*;
use crate::io::Upstream;
use crate::pool::Checkout;
use crate::resolve::Resolved;
use crate::telemetry::{ByteCounter, Registry, UpstreamProtocol, WorkerTelemetry, channels};
use crate::upstream::{STALLED, UpstreamConnection};
use crate::worker::{Files, Need};

/// Pumps a body, and then nothing for ever; how long that is let to go on beyond its answer.
async fn let_go_on(pause: Duration) -> (u32, bool) {
    let body = RequestBody::new(Body::Full(Bytes::from_static(b"x")), ByteCounter::default(), Duration::ZERO);
    let body = Lent::new(body);
    let progress = body.progress();
    let held = Rc::new(());
    let holds = held.clone();
    let pumping = spawn_local(async move {
        let _holds = holds;
        tokio::time::sleep(pause).await;
        body.clone().collect().await.unwrap();
        std::future::pending::<()>().await;
    });
    let begun = Instant::now();
    Upload { pumping, progress }.finish().await;
    tokio::task::yield_now().await;
    (begun.elapsed().as_secs() as u32 / STALLED.as_secs() as u32, Rc::strong_count(&held) == 1)
}

const AT: &str = "127.0.0.1:1";

fn cluster() -> ClusterState {
    let config = format!("service: a\ngateway: {{listen: \"127.0.0.1:0\", routes: [{{path: /, to: \"{AT}\"}}]}}\n");
    let snapshot = remora_config::parse("test", config.as_bytes(), &remora_config::Environment::default()).unwrap();
    let registry = Registry::new();
    let telemetry = WorkerTelemetry::new(&registry, channels(&registry).0);
    ClusterState::new(snapshot.clusters[0].clone(), &telemetry, &Resolved::default())
}

/// A connection that was used once, and its server's end.
async fn used(cluster: &ClusterState) -> (h1::client::Sender, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let io = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let mut server = listener.accept().await.unwrap().0;
    let file = Files::new(1).take(Need::First, &mut None).unwrap();
    let counted = UpstreamConnection::opened(&cluster.metrics, UpstreamProtocol::Http1, None, None, file);
    let sender = h1::client::Sender::new(Upstream::Plain(io), counted, None, h1::parse::Limits::default());
    server.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    let answered = sender.send(&RequestHead::unread(), RequestBody::empty(), &Informational::default()).await;
    assert_eq!(answered.unwrap().0.status, 204);
    assert!(server.read(&mut [0; 1024]).await.unwrap() > 0);
    (sender, server)
}

#[tokio::test(start_paused = true)]
async fn how_long_a_server_waits_is_learned_from_the_request_that_meets_its_end() {
    let cluster = cluster();
    let host = cluster.pool.host((AT.parse().unwrap(), Hop::Http1, None), 0);
    let (sender, server) = used(&cluster).await;
    host.give_back(sender, 0);
    tokio::time::advance(Duration::from_secs(10)).await;
    drop(server);
    let Checkout::Ready(connection) = host.checkout(Hop::Http1, false, false) else { panic!("nobody was told") };
    let checked = Checked { host: host.clone(), connection, generation: 0, hop: Hop::Http1, place: None };
    let picked = cluster.pick(AT.parse().unwrap(), &[], || 0).unwrap();
    let (attempt, request) = (AttemptTelemetry::new(None, false), (RequestHead::unread().into(), RequestBody::empty()));
    let met = exchange(&cluster, picked, checked, attempt, None, &Informational::default(), request).await;
    assert!(met.is_err_and(|failure| failure.request.is_some() && failure.error.retryable()), "it is sent again");
    let (sender, _server) = used(&cluster).await;
    host.give_back(sender, 0);
    tokio::time::advance(Duration::from_secs(4)).await;
    let Checkout::Ready(connection) = host.checkout(Hop::Http1, false, false) else { panic!("it is young") };
    host.put_back(connection, 0);
    tokio::time::advance(Duration::from_secs(6)).await;
    let retired = matches!(host.checkout(Hop::Http1, false, false), Checkout::Dial(..));
    assert!(retired, "its server may be about to close it");
}

#[tokio::test(start_paused = true)]
async fn an_upload_beyond_its_answer_is_given_up_where_it_stands_still() {
    let local = LocalSet::new();
    local
        .run_until(async {
            assert_eq!(let_go_on(STALLED / 2).await, (2, true));
            assert_eq!(let_go_on(STALLED * 2).await, (1, true));
        })
        .await;
}
