//! Servers that reset streams: what an HTTP/2 client would have heard from them it hears through two sidecars.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{Request, Response};
use remora_test::client;
use remora_test::eventually;
use remora_test::mesh::Mesh;
use remora_test::pod::Pod;
use remora_test::sidecar::Sidecar;
use tokio::net::{TcpListener, TcpStream};

use crate::pair::{entry, service};
use crate::upgrade::{http2, stream};

/// Every kind that means something to clients, one that means nothing, and one that nobody defined.
const CODES: [u32; 6] = [2, 7, 8, 11, 12, 0xbeef];

#[derive(Default)]
struct State {
    /// Requests by path.
    asked: BTreeMap<String, usize>,
    /// Answers that are begun, and the code each is to end with.
    begun: Vec<(SendStream<Bytes>, Reason)>,
}

/// An HTTP/2 application: `/head/CODE` is reset at once; `/within/CODE` gets the beginning of an answer and is reset when somebody
/// asks for `/now`; `/silent` gets no answer, `/endless` no end.
struct App {
    client: Pod,
    outbound: Sidecar,
    inbound: Option<Sidecar>,
    state: Arc<Mutex<State>>,
    /// With what the callers of `/silent` and `/endless` gave up.
    given_up: Receiver<Reason>,
}

impl App {
    /// With a sidecar, unless the entry's fields in `more` say that it has none.
    fn start(more: &str) -> Self {
        let mesh = Mesh::new();
        let (client, server) = (mesh.pod("client"), mesh.pod("server"));
        let inbound = more.is_empty().then(|| server.sidecar("inbound: {mtls: strict}"));
        // A busy machine may be slow to connect.
        let more = format!(", timeouts: {{connect: 20s}}{more}");
        let outbound = client.sidecar(&entry(8080, &[server.at(8080)], &more));
        let listener = server.enter(|| std::net::TcpListener::bind(("0.0.0.0", 8080))).unwrap();
        let state = Arc::<Mutex<State>>::default();
        let (tells, given_up) = mpsc::channel();
        let serves = state.clone();
        // Ends with the process.
        std::thread::spawn(move || serve(listener, &serves, &tells));
        Self { client, outbound, inbound, state, given_up }
    }

    fn asked(&self, path: &str) -> usize {
        self.state.lock().unwrap().asked.get(path).copied().unwrap_or_default()
    }

    /// Requests with a flag, as the client's sidecar and the server's count them.
    fn flagged(&self, flag: &str) -> [f64; 2] {
        [("outbound", Some(&self.outbound)), ("inbound", self.inbound.as_ref())].map(|(direction, sidecar)| {
            let labels = [("direction", direction), ("flag", flag)];
            sidecar.map_or(0.0, |sidecar| sidecar.metric("remora_requests_total", &labels))
        })
    }
}

fn serve(listener: std::net::TcpListener, state: &Arc<Mutex<State>>, tells: &Sender<Reason>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        loop {
            let stream = listener.accept().await.unwrap().0;
            let (state, tells) = (state.clone(), tells.clone());
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    answer(request.uri().path(), respond, &state, &tells);
                }
            });
        }
    });
}

fn answer(path: &str, mut respond: SendResponse<Bytes>, state: &Mutex<State>, tells: &Sender<Reason>) {
    let mut state = state.lock().unwrap();
    *state.asked.entry(path.to_owned()).or_default() += 1;
    let begin = |mut respond: SendResponse<Bytes>| {
        let mut send = respond.send_response(Response::new(()), false).unwrap();
        send.send_data("begun".into(), false).unwrap();
        send
    };
    let given_up = |told: Result<Reason, h2::Error>, tells: Sender<Reason>| tells.send(told.unwrap()).unwrap();
    let tells = tells.clone();
    match path.rsplit_once('/').unwrap() {
        ("/head", code) => respond.send_reset(code.parse::<u32>().unwrap().into()),
        ("/within", code) => state.begun.push((begin(respond), code.parse::<u32>().unwrap().into())),
        (_, "silent") => {
            tokio::spawn(async move { given_up(poll_fn(|cx| respond.poll_reset(cx)).await, tells) });
        }
        (_, "endless") => {
            let mut send = begin(respond);
            tokio::spawn(async move { given_up(poll_fn(|cx| send.poll_reset(cx)).await, tells) });
        }
        _ => {
            for (mut send, code) in state.begun.drain(..) {
                send.send_reset(code);
            }
            respond.send_response(Response::new(()), true).unwrap();
        }
    }
}

/// How each kind of reset is heard, before an answer and within one, by a client that sends requests of `kind`.
fn heard(pod: &Pod, kind: &'static str) -> Vec<(u32, Option<Reason>, Option<Reason>)> {
    pod.block_on(|| async move {
        let (client, connection) =
            h2::client::handshake(TcpStream::connect(service(8080)).await.unwrap()).await.unwrap();
        tokio::spawn(connection);
        let ask = async |path: String| {
            let request =
                Request::get(format!("http://server:8080{path}")).header("content-type", kind).body(()).unwrap();
            client.clone().ready().await.unwrap().send_request(request, true).unwrap().0.await
        };
        let mut heard = Vec::new();
        for code in CODES {
            let head = ask(format!("/head/{code}")).await.expect_err("the server resets it");
            let mut begun = ask(format!("/within/{code}")).await.unwrap().into_body();
            assert_eq!(begun.data().await.unwrap().unwrap(), "begun");
            ask("/now".to_owned()).await.unwrap();
            let within = begun.data().await.expect("no end").expect_err("the server resets it");
            let reason = |error: h2::Error| error.reason().filter(|_| error.is_reset() && error.is_remote());
            heard.push((code, reason(head), reason(within)));
        }
        heard
    })
}

#[test]
fn a_reset_reaches_an_http2_client_as_it_is() {
    let app = App::start("");
    let as_it_is = CODES.map(|code| (code, Some(code.into()), Some(code.into())));
    for kind in ["text/plain", "application/grpc"] {
        assert_eq!(heard(&app.client, kind), as_it_is, "{kind}");
    }
    let resets = (2 * 2 * CODES.len()) as f64;
    assert_eq!(app.flagged("UR"), [resets, resets + 2.0], "and two that were refused once more");
    // As gRPC's own clients read them: CANCELLED, RESOURCE_EXHAUSTED, PERMISSION_DENIED, INTERNAL.
    for (status, count) in [("1", 2.0), ("7", 2.0), ("8", 2.0), ("13", 4.0), ("14", 2.0)] {
        assert_eq!(app.outbound.metric("remora_grpc_responses_total", &[("grpc_status", status)]), count, "{status}");
    }
}

#[test]
fn an_http1_client_is_told_of_a_reset() {
    let app = App::start(", mtls: false, protocol: http2");
    for code in CODES {
        let answer = app.client.curl(&["--http1.1", &format!("http://10.96.0.10:8080/head/{code}")]);
        let reason = answer.header("x-remora-reason").unwrap_or_default();
        assert!(answer.code == 503 && reason.starts_with("UR "), "{answer:?}");
        assert_eq!(answer.header("x-remora-hop"), None);
    }
    assert!(app.outbound.printed("/head/2").contains("503 UR"), "whichever worker wrote first");
}

#[test]
fn an_application_that_sheds_load_is_asked_twice() {
    let app = App::start("");
    let refused = app.client.block_on(|| async {
        let mut h2 = client::h2(service(8080)).await.unwrap();
        client::unary(&mut h2, "server:8080", "/head/7", &[]).await.expect_err("it refuses")
    });
    let reset = refused.chain().find_map(|error| error.downcast_ref::<h2::Error>()).and_then(h2::Error::reason);
    assert_eq!(reset, Some(Reason::REFUSED_STREAM), "{refused:?}");
    assert_eq!(app.asked("/head/7"), 2, "by the caller's sidecar");
    assert_eq!(app.outbound.metric("remora_upstream_retries_total", &[]), 1.0);
    let inbound = app.inbound.unwrap();
    assert_eq!(inbound.metric("remora_upstream_retries_total", &[]), 0.0, "it could only ask the same again");
}

#[test]
fn a_client_that_leaves_within_its_upload_takes_its_request_back() {
    for more in ["", ", mtls: false, protocol: http2"] {
        let app = App::start(more);
        for path in ["/silent", "/endless"] {
            let state = app.state.clone();
            app.client.block_on(|| async move {
                let (client, connection) =
                    h2::client::handshake(TcpStream::connect(service(8080)).await.unwrap()).await.unwrap();
                tokio::spawn(connection);
                let request = Request::post(format!("http://server:8080{path}")).body(()).unwrap();
                let (_answer, mut upload) = client.ready().await.unwrap().send_request(request, false).unwrap();
                upload.send_data("begun".into(), false).unwrap();
                let asked = move || eventually("it is asked", || state.lock().unwrap().asked.get(path).copied());
                tokio::task::spawn_blocking(asked).await.unwrap();
                // The connection ends with the runtime.
            });
            assert_eq!(app.given_up.recv_timeout(remora_test::PATIENCE), Ok(Reason::CANCEL), "{path}{more}");
        }
    }
}

#[test]
fn a_call_is_given_up_at_its_deadline() {
    let app = App::start("");
    for path in ["/silent", "/endless"] {
        let call = app.client.block_on(|| async {
            let mut h2 = client::h2(service(8080)).await.unwrap();
            let call = client::unary(&mut h2, "server:8080", path, &[("grpc-timeout", "2S")]);
            tokio::time::timeout(remora_test::PATIENCE, call).await.expect("an end").unwrap()
        });
        assert_eq!((call.http, call.status), (200, Some(4)), "DEADLINE_EXCEEDED: {call:?}");
        assert_eq!(app.given_up.recv_timeout(remora_test::PATIENCE), Ok(Reason::CANCEL), "{path}");
    }
    assert!(app.flagged("UT").iter().sum::<f64>() >= 2.0);
}

#[test]
fn an_application_that_takes_no_other_protocol_is_asked_for_none() {
    let app = App::start("");
    let refused = app.client.block_on(|| async {
        let mut client = http2().await;
        stream(&mut client, "/other/protocol").await.0.status()
    });
    assert_eq!((refused.as_u16(), app.asked("/other/protocol")), (400, 0), "and its connection serves on");
    assert_eq!(app.flagged("DPE"), [0.0, 1.0]);
}
