//! Trailers over HTTP/2 that are larger, or more, than a head may be. The h2 crate leaves out what it does not read of them.

use std::sync::{Arc, Mutex};

use http::{HeaderName, HeaderValue, Request};

use super::*;
use crate::scripted::Served;
use remora_test::PATIENCE;

/// Bytes of the fields, and whether they pass.
const CASES: [(&[usize], bool); 7] = [
    (&[20_000, 20_000, 1], true),
    (&[61_000], true),
    (&[1; 100], true),
    (&[1; 101], false),
    (&[30_000, 30_000, 30_000, 1], false),
    (&[61_500, 1], false),
    // More than is read, of which nothing is left.
    (&[250_000, 1], false),
];

fn fields(sizes: &[usize]) -> HeaderMap {
    let field = |(n, size): (usize, &usize)| -> (HeaderName, HeaderValue) {
        (format!("x-{n}").parse().unwrap(), "l".repeat(*size).parse().unwrap())
    };
    sizes.iter().enumerate().map(field).collect()
}

fn sizes(trailers: &HeaderMap) -> Vec<usize> {
    (0..trailers.len()).map(|n| trailers[&format!("x-{n}")].len()).collect()
}

/// What ended a body well: its trailers.
async fn end(mut body: h2::RecvStream) -> Result<Option<HeaderMap>, h2::Error> {
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    body.trailers().await
}

/// A client that reads whatever comes.
pub(super) fn client(gate: &Gate, runtime: &Runtime) -> h2::client::SendRequest<Bytes> {
    let to = gate.pod.at(8080);
    gate.caller.enter(|| {
        runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(to).await.unwrap();
            let (sender, connection) =
                h2::client::Builder::new().max_header_list_size(16 << 20).handshake(stream).await.unwrap();
            tokio::spawn(connection);
            sender
        })
    })
}

/// Asks with trailers, and returns how the answer ended.
async fn ask(
    h2: &mut h2::client::SendRequest<Bytes>,
    path: &str,
    trailers: Option<HeaderMap>,
) -> Result<(u16, Option<HeaderMap>), h2::Error> {
    asked(h2, Request::post(format!("http://a{path}")).body(()).unwrap(), trailers).await
}

async fn asked(
    h2: &mut h2::client::SendRequest<Bytes>,
    request: Request<()>,
    trailers: Option<HeaderMap>,
) -> Result<(u16, Option<HeaderMap>), h2::Error> {
    let (answer, mut send) = h2.send_request(request, false)?;
    send.send_data(Bytes::from_static(b"hello"), trailers.is_none())?;
    trailers.map(|trailers| send.send_trailers(trailers)).transpose()?;
    let answer = answer.await?;
    Ok((answer.status().as_u16(), end(answer.into_body()).await?))
}

/// Answers each stream by `answer`.
pub(super) fn serve_streams<F: Future<Output = ()> + 'static>(
    stream: TcpStream,
    answer: impl Fn(Request<h2::RecvStream>, h2::server::SendResponse<Bytes>) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    stream.set_nonblocking(true).unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let mut builder = h2::server::Builder::new();
        builder.max_header_list_size(16 << 20);
        let stream = tokio::net::TcpStream::from_std(stream).unwrap();
        let mut h2 = builder.handshake(stream).await.unwrap();
        while let Some(Ok((request, respond))) = h2.accept().await {
            tokio::task::spawn_local(answer(request, respond));
        }
    });
}

/// Answers with the trailers that the path numbers, and tells how requests ended.
fn serve(stream: TcpStream, ended: &Arc<Mutex<Vec<Option<Vec<usize>>>>>) {
    serve_streams(stream, |request, mut respond| {
        let ended = ended.clone();
        async move {
            let case = request.uri().path()[1..].parse::<usize>().ok();
            let trailers = end(request.into_body()).await;
            ended.lock().unwrap().push(trailers.ok().map(|trailers| trailers.as_ref().map(sizes).unwrap_or_default()));
            let Ok(mut send) = respond.send_response(Response::new(()), false) else { return };
            let _ = send.send_data(Bytes::from_static(b"hello"), case.is_none());
            if let Some(case) = case {
                let _ = send.send_trailers(fields(CASES[case].0));
            }
        }
    });
}

#[test]
fn trailers_announced_beside_a_length_reach_an_http1_application() {
    let (heads, told) = std::sync::mpsc::channel();
    let gate = gate("", "", "0", move |stream| {
        let mut served = Served { stream, left: Vec::new(), heads: heads.clone() };
        while let Some(head) = served.head() {
            let end = if head.contains("trailer: x-0") { "\r\n\r\n" } else { "hello" };
            let body = served.until(end).unwrap();
            served.heads.send(body).unwrap();
            served.say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let runtime = runtime();
    let mut h2 = client(&gate, &runtime);
    for trailers in [Some(fields(&[1])), None] {
        let mut request = Request::post("http://a/").header("content-length", 5);
        if trailers.is_some() {
            request = request.header("trailer", "x-0");
        }
        let answered = runtime.block_on(asked(&mut h2, request.body(()).unwrap(), trailers.clone()));
        assert!(matches!(answered, Ok((200, None))), "{answered:?}");
        let [head, body] = [(); 2].map(|()| told.recv_timeout(PATIENCE).unwrap());
        let (chunked, whole) = match trailers {
            Some(_) => (true, "5\r\nhello\r\n0\r\nx-0: l\r\n\r\n"),
            None => (false, "hello"),
        };
        assert_eq!(body, whole, "{head}");
        assert_eq!((head.contains("transfer-encoding: chunked"), head.contains("content-length")), (chunked, !chunked));
    }
}

#[test]
fn trailers_arrive_whole_or_the_message_is_seen_to_be_broken() {
    let ended = Arc::<Mutex<Vec<_>>>::default();
    let tells = ended.clone();
    let gate = gate("", ", protocol: http2", "0", move |stream| serve(stream, &tells));
    let runtime = runtime();
    for (case, (wanted, passes)) in CASES.iter().enumerate() {
        let count = wanted.len();
        let what = format!("{count} fields, the first of {} bytes", wanted[0]);
        let mut h2 = client(&gate, &runtime);
        match runtime.block_on(ask(&mut h2, &format!("/{case}"), None)) {
            Ok((200, trailers)) => assert!(*passes && sizes(&trailers.unwrap()) == *wanted, "answered with {what}"),
            other => assert!(!passes, "answered with {what}: {other:?}"),
        }
        let mut wire = gate.open();
        wire.send(&format!("GET /{case} HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: close\r\n\r\n"));
        let text = String::from_utf8(wire.rest()).unwrap();
        let whole =
            text.contains("\r\n0\r\n") && text.ends_with("\r\n\r\n") && text.contains(&format!("x-{}: l", count - 1));
        assert_eq!(whole, *passes, "answered with {what} over HTTP/1.1: {} bytes", text.len());
        assert!(*passes || !text.contains("\r\n0\r\n"), "a clean end");

        ended.lock().unwrap().clear();
        let mut h2 = client(&gate, &runtime);
        let answered = runtime.block_on(ask(&mut h2, "/echo", Some(fields(wanted))));
        assert_eq!(matches!(answered, Ok((200, None))), *passes, "asked with {what}: {answered:?}");
        // The server tells of a request before it answers. By then it has the other one's end, too, if that has any.
        gate.gateway.metric_until("remora_requests_active", &[], |active| active == 0.0);
        let next = runtime.block_on(ask(&mut client(&gate, &runtime), "/echo", None));
        assert!(matches!(next, Ok((200, None))), "{next:?}");
        let ended: Vec<_> = ended.lock().unwrap().drain(..).flatten().collect();
        let whole = if *passes { vec![wanted.to_vec(), vec![]] } else { vec![vec![]] };
        assert_eq!(ended, whole, "asked with {what}: how the server saw both requests end");
    }
}
