//! Uploads that nobody reads, of clients that keep to the windows they are told.

use std::future::poll_fn;
use std::net::TcpStream;
use std::thread::JoinHandle;

use bytes::Bytes;
use h2::SendStream;
use h2::client::SendRequest;
use http::Request;
use remora_test::eventually;
use tokio::sync::{mpsc, oneshot};

use crate::bed::{Bed, NOISE, Row, beds};
use crate::memory::{Group, USUAL, at_rest};

/// Requests of a crowd, fewer than one connection may have.
const CROWD: usize = 900;
/// Each sends more than the windows and buffers on its way.
const LARGE: usize = 400_000;
/// What is sent of the upload that is read, before there is a crowd: more than a window of then has.
const BEFORE: usize = 100_000;
/// All of it.
const WHOLE: usize = 8_000_000;

pub(crate) fn rows() -> [Row; 1] {
    let narrowed = ("remora_http2_windows_narrowed_total", &[("peer", "client")][..]);
    [Row { name: "uploads-that-nobody-reads", counter: narrowed, run: uploads_that_nobody_reads }]
}

beds! {
    gateway a_gateway_before_uploads_that_nobody_reads ["uploads-that-nobody-reads"] => |rows| {
        let group = Group::new("uploads", USUAL);
        let unread = |server: &remora_test::pod::Pod| {
            format!("    - {{path: /unread, endpoints: [\"{}\"], protocol: http2, timeouts: {{idle: 2s}}}}\n", server.at(8080))
        };
        let mut bed = Bed::gateway_by(unread, "workers: 2", |pod, config| pod.proxy_in_group(config, &group.0));
        let ran = rows.run(&mut bed);
        assert_eq!(group.kills(), 0, "the kernel had to end nothing");
        ran
    };

    sidecar uploads_that_an_application_does_not_read ["uploads-that-nobody-reads"] => |rows| {
        let group = Group::new("sidecar", USUAL);
        let mut bed = Bed::inbound("workers: 2\ninbound: {timeouts: {idle: 10s}}");
        group.takes(bed.proxy.pid());
        let ran = rows.run(&mut bed);
        assert_eq!(group.kills(), 0, "the kernel had to end nothing");
        ran
    };
}

fn uploads_that_nobody_reads(bed: &Bed) {
    let before = bed.memory();
    for (connections, idle) in [(1, false), (1, true), (60, false), (60, true)] {
        let clients = Clients::connect(bed, connections, idle);
        eventually("one upload is under way", || (bed.origin.begun("/whole") == 1).then_some(()));
        clients.go();
        let mut most = 0.0_f64;
        eventually("each is with the origin", || {
            most = most.max(bed.memory());
            (bed.origin.begun("/unread") == CROWD).then_some(())
        });
        at_rest(bed, &mut most);
        clients.go();
        let whole = eventually("what is read arrives", || bed.origin.seen("/whole").pop());
        assert_eq!(whole.body.len(), WHOLE);
        println!(
            "{CROWD} by {connections}{}: {:.1} MB beside {:.1} MB",
            if idle { ", idle before" } else { "" },
            (most - before) / 1e6,
            before / 1e6
        );
        drop(clients);
        bed.proxy.metric_until("remora_requests_active", &[], |count| count <= 2.0);
        eventually("what they took is given back", || (bed.memory() < before * 1.2 + NOISE).then_some(()));
        bed.origin.forget();
    }
}

/// Connections of the attacker's, in a thread of their own.
struct Clients {
    /// Begins the next step; where that is dropped, all ends.
    steps: Option<mpsc::UnboundedSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Clients {
    /// So many connections, and one more for an upload that is read. If they are `idle`, they are there before the uploads; if not, each is
    /// made for its own.
    fn connect(bed: &Bed, connections: usize, idle: bool) -> Self {
        let sockets: Vec<_> = (0..=connections).map(|_| bed.connect()).collect();
        let (steps, mut step) = mpsc::unbounded_channel();
        let (ready, is_ready) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let mut sockets = sockets.into_iter();
                let mut read = Upload::begin(&mut connect(sockets.next().unwrap()).await, "/whole").await;
                read.send(BEFORE).await;
                let mut senders = Vec::new();
                if idle {
                    for socket in sockets.by_ref() {
                        let mut sender = connect(socket).await;
                        serve(&mut sender).await;
                        senders.push(sender);
                    }
                }
                ready.send(()).unwrap();
                step.recv().await.unwrap();
                let (mut senders, mut unread) = (senders.into_iter(), Vec::new());
                let mut kept = Vec::new();
                for _ in 0..connections {
                    let mut sender = match senders.next() {
                        Some(sender) => sender,
                        None => connect(sockets.next().unwrap()).await,
                    };
                    // By then it has heard of the windows of now, as over a network it would before it could send as much.
                    serve(&mut sender).await;
                    for _ in 0..CROWD / connections {
                        let mut upload = Upload::begin(&mut sender, "/unread").await;
                        unread.push(tokio::spawn(async move { upload.send(LARGE).await }));
                    }
                    kept.push(sender);
                }
                step.recv().await.unwrap();
                read.send(WHOLE - BEFORE).await;
                read.0.send_data(Bytes::new(), true).unwrap();
                step.recv().await;
            });
        });
        is_ready.blocking_recv().unwrap();
        Self { steps: Some(steps), thread: Some(thread) }
    }

    fn go(&self) {
        self.steps.as_ref().unwrap().send(()).unwrap();
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.steps.take();
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "a client failed");
    }
}

async fn connect(socket: TcpStream) -> SendRequest<Bytes> {
    socket.set_nonblocking(true).unwrap();
    let socket = tokio::net::TcpStream::from_std(socket).unwrap();
    let (sender, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Has a request answered, and so what the proxy says of windows read.
async fn serve(sender: &mut SendRequest<Bytes>) {
    let request = Request::get("http://server:8080/short").body(()).unwrap();
    let (answer, _) = sender.send_request(request, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
}

struct Upload(SendStream<Bytes>);

impl Upload {
    async fn begin(sender: &mut SendRequest<Bytes>, path: &str) -> Self {
        poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
        let request = Request::post(format!("http://server:8080{path}")).body(()).unwrap();
        Self(sender.send_request(request, false).unwrap().1)
    }

    async fn send(&mut self, mut left: usize) {
        while left > 0 {
            self.0.reserve_capacity(left);
            let most = poll_fn(|cx| self.0.poll_capacity(cx)).await.unwrap().unwrap();
            self.0.send_data(Bytes::from(vec![b'u'; most]), false).unwrap();
            left -= most;
        }
    }
}
