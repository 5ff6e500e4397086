use http_body_util::BodyExt;
use tokio::task::{LocalSet, spawn_local};

use super::*;

const LARGE: [u8; 300] = [b'l'; 300];

/// The body of a stream whose connection ends at the fifth small frame that nobody has taken, and what sends it.
async fn stream() -> (h2::SendStream<Bytes>, Body) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let serving = spawn_local(async {
        let mut builder = h2::server::Builder::new();
        let mut connection = builder.data_frame_budget(4 * 255).handshake::<_, Bytes>(far).await.unwrap();
        let (request, respond) = connection.accept().await.unwrap().unwrap();
        spawn_local(async move {
            // Its answer is not over.
            let _respond = respond;
            while connection.accept().await.is_some() {}
        });
        Body::from_h2(request.into_body(), false, Limits::default())
    });
    let (mut sender, connection) = h2::client::handshake(near).await.unwrap();
    spawn_local(async {
        let _ = connection.await;
    });
    let request = http::Request::post("http://a/").body(()).unwrap();
    let (_response, send) = sender.send_request(request, false).unwrap();
    (send, serving.await.unwrap())
}

fn of_h2(body: &mut Body) -> &mut H2Body {
    let Body::H2(body) = body else { panic!("{body:?}") };
    body
}

/// Waits without room until so many bytes are held.
async fn hold(body: &mut Body, size: usize) {
    poll_fn(|cx| {
        assert!(body.poll_blocked(cx).is_pending());
        let held = of_h2(body).held.as_ref().map_or(0, |held| held.size());
        if held == size { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// How much of the stream's window is taken.
fn taken(body: &mut Body) -> usize {
    of_h2(body).stream.flow_control().used_capacity()
}

async fn data(body: &mut Body) -> Bytes {
    body.frame().await.unwrap().unwrap().into_data().unwrap()
}

#[tokio::test]
async fn what_comes_without_room_is_held_and_keeps_its_window() {
    LocalSet::new().run_until(held_and_sent_on()).await;
}

async fn held_and_sent_on() {
    let (mut send, mut body) = stream().await;
    for sent in 1..=20 {
        send.send_data("x".into(), false).unwrap();
        hold(&mut body, sent).await;
    }
    send.send_data(Bytes::from_static(&LARGE), false).unwrap();
    send.send_data("y".into(), false).unwrap();
    send.send_trailers(HeaderMap::from_iter([(http::HeaderName::from_static("x-a"), 1.into())])).unwrap();
    hold(&mut body, 20 + LARGE.len() + 1).await;
    assert_eq!(taken(&mut body), 20 + LARGE.len() + 1);
    assert_eq!(data(&mut body).await, "x".repeat(20));
    assert_eq!(taken(&mut body), LARGE.len() + 1);
    assert_eq!(data(&mut body).await, &LARGE[..]);
    assert_eq!(data(&mut body).await, "y");
    assert_eq!(taken(&mut body), 0);
    assert!(of_h2(&mut body).held.is_none(), "nothing is kept of what was handed on");
    let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers.len(), 1);
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn an_end_or_a_reset_comes_behind_what_is_held() {
    LocalSet::new().run_until(ends_and_resets()).await;
}

async fn ends_and_resets() {
    let (mut send, mut body) = stream().await;
    send.send_data("x".into(), true).unwrap();
    hold(&mut body, 1).await;
    assert!(!http_body::Body::is_end_stream(&body));
    assert_eq!(data(&mut body).await, "x");
    assert!(http_body::Body::is_end_stream(&body));
    assert_eq!(body.collect().await.unwrap().to_bytes(), "");

    let (mut send, mut body) = stream().await;
    send.send_data("x".into(), false).unwrap();
    hold(&mut body, 1).await;
    send.send_reset(h2::Reason::CANCEL);
    poll_fn(|cx| of_h2(&mut body).stream.poll_data(cx).map(|told| assert!(told.unwrap().is_err()))).await;
    hold(&mut body, 1).await;
    assert_eq!(data(&mut body).await, "x");
    assert!(matches!(body.frame().await, Some(Err(BodyError::Reset(h2::Reason::CANCEL)))));
}

#[tokio::test]
async fn what_nobody_will_take_gives_its_window_back() {
    LocalSet::new().run_until(given_back()).await;
}

async fn given_back() {
    let (mut send, mut body) = stream().await;
    send.send_data("x".into(), false).unwrap();
    hold(&mut body, 1).await;
    let window = of_h2(&mut body).stream.flow_control().clone();
    assert_eq!(window.used_capacity(), 1);
    drop(body);
    assert_eq!(window.used_capacity(), 0);
}
