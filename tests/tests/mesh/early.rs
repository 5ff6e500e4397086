//! Answers of HTTP/2 that come before their request's end: the server has enough of it, says so by RST_STREAM(NO_ERROR) behind the
//! whole answer, and the client is to have all of that (RFC 9113 section 8.1).

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use remora_test::mesh::Mesh;
use remora_test::pod::Pod;
use tokio::net::{TcpListener, TcpStream};

use crate::pair::{entry, service};

/// Less than a frame, and more than the windows and buffers between a server and a client that reads nothing yet.
const SIZES: [usize; 3] = [0, 100, 3_000_000];

/// An HTTP/2 application that answers `/SIZE` with so many bytes and a trailer as soon as it has the head, and takes no more of the
/// request then.
fn app(pod: &Pod) {
    let listener = pod.enter(|| std::net::TcpListener::bind(("0.0.0.0", 8080))).unwrap();
    listener.set_nonblocking(true).unwrap();
    // Ends with the process.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        let size: usize = request.uri().path()[1..].parse().unwrap();
                        let mut send = respond.send_response(Response::new(()), false).unwrap();
                        tokio::spawn(async move {
                            send_all(&mut send, size).await;
                            let trailers = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from(size))]);
                            send.send_trailers(trailers).unwrap();
                            // The h2 crate resets a stream that nobody holds any more with NO_ERROR where only the request lacks its end.
                            drop((request, respond));
                        });
                    }
                });
            }
        });
    });
}

async fn send_all(send: &mut SendStream<Bytes>, mut left: usize) {
    while left > 0 {
        send.reserve_capacity(left);
        let size = poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
        send.send_data(vec![b'a'; size].into(), false).unwrap();
        left -= size;
    }
}

/// Reads an answer's body and trailers.
async fn read(mut body: RecvStream) -> Result<(usize, Option<HeaderMap>), h2::Error> {
    let mut size = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        size += data.len();
    }
    Ok((size, body.trailers().await?))
}

/// Sends a body as far as the windows go, until its server has enough: with which code.
async fn upload(mut send: SendStream<Bytes>) -> Reason {
    loop {
        send.reserve_capacity(16_384);
        let went_on = poll_fn(|cx| match (send.poll_reset(cx), send.poll_capacity(cx)) {
            (Poll::Ready(reset), _) => Poll::Ready(Err(reset.unwrap())),
            (_, Poll::Ready(Some(Ok(capacity)))) => Poll::Ready(Ok(capacity)),
            // A stream that has no capacity any more is about to be told of its reset.
            _ => Poll::Pending,
        });
        match went_on.await {
            // It may be reset by now, which is told next.
            Ok(capacity) => drop(send.send_data(vec![b'u'; capacity].into(), false)),
            Err(reset) => return reset,
        }
    }
}

/// Has requests answered while their bodies are sent, which have no end, and reads the answers when the uploads are over.
fn answered_early(chain: bool) {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    app(&server);
    let _inbound = chain.then(|| server.sidecar("inbound: {mtls: strict}"));
    let outbound = client.sidecar(&entry(8080, &[server.at(8080)], &format!(", mtls: {chain}")));
    client.block_on(|| async {
        let stream = TcpStream::connect(service(8080)).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        for size in SIZES {
            let request = Request::post(format!("http://server:8080/{size}")).body(()).unwrap();
            sender = sender.ready().await.unwrap();
            let (response, send) = sender.send_request(request, false).unwrap();
            let uploading = tokio::spawn(upload(send));
            let response = response.await.unwrap();
            assert_eq!(response.status(), 200);
            let (got, trailers) = read(response.into_body()).await.unwrap();
            assert_eq!((got, &trailers.unwrap()["etag"]), (size, &HeaderValue::from(size)), "{size}");
            assert_eq!(uploading.await.unwrap(), Reason::NO_ERROR, "{size}");
        }
    });
    assert_eq!(outbound.metric("remora_requests_total", &[("code", "200"), ("flag", "")]), SIZES.len() as f64);
}

#[test]
fn an_early_answer_and_its_reset_come_whole_through_a_sidecar() {
    answered_early(false);
}

#[test]
fn an_early_answer_and_its_reset_come_whole_through_the_chain() {
    answered_early(true);
}
