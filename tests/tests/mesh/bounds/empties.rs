//! Empty DATA frames, as of who flushes: the h2 crate takes a hundred of them in a connection's life.

use http::Request;

use super::trailers::{client, serve_streams};
use super::*;

/// Sends a body with two of them.
fn send(body: &mut h2::SendStream<Bytes>) {
    for part in ["hello", "", " world", ""] {
        body.send_data(Bytes::from(part), false).unwrap();
    }
    body.send_data(Bytes::new(), true).unwrap();
}

async fn read(mut body: h2::RecvStream) -> Bytes {
    let mut whole = Vec::new();
    while let Some(data) = body.data().await {
        whole.extend_from_slice(&data.unwrap());
    }
    whole.into()
}

#[test]
fn empty_frames_of_those_who_flush_end_no_connection() {
    let gate = gate("", ", protocol: http2", "0", |stream| {
        serve_streams(stream, |request, mut respond| async move {
            assert_eq!(read(request.into_body()).await, "hello world");
            send(&mut respond.send_response(Response::new(()), false).unwrap());
        });
    });
    let runtime = runtime();
    let mut h2 = client(&gate, &runtime);
    for number in 0..200 {
        let whole = runtime.block_on(async {
            let request = Request::post("http://a/").body(()).unwrap();
            let (answer, mut upload) = h2.send_request(request, false).unwrap();
            send(&mut upload);
            read(answer.await.unwrap().into_body()).await
        });
        assert_eq!(whole, "hello world", "{number}");
    }
    let labels = [("direction", "gateway"), ("protocol", "http2")];
    assert_eq!(gate.gateway.metric("remora_downstream_connections_total", &labels), 1.0);
}
