//! A worker in a thread of its own, as a gateway that is asked over loopback.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::thread::JoinHandle;

use remora_model::HttpLimits;

use super::*;
use crate::control::gateway::GatewayCertificates;
use crate::http::h2;
use crate::io::Upstream;
use crate::pool::{Checkout, Fresh, Hop, Shared};
use crate::readiness::Readiness;
use crate::telemetry::channels;

/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(120);

struct Gateway {
    /// Of the first worker's socket.
    address: SocketAddr,
    /// The workers end with them.
    input: watch::Sender<Input>,
    phase: watch::Sender<Phase>,
    commands: Vec<mpsc::UnboundedSender<Command>>,
    threads: Vec<JoinHandle<()>>,
}

impl Gateway {
    fn start(routes: &str) -> Self {
        Self::with_workers(1, routes)
    }

    fn with_workers(count: usize, routes: &str) -> Self {
        let (input, phase) = (input(routes), watch::Sender::default());
        let (mut addresses, mut commands, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        for spread in Spread::among(count, 1, usize::MAX) {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            addresses.push(socket.local_addr().unwrap());
            let (sender, receiver) = mpsc::unbounded_channel();
            let listeners = vec![(ListenerId(0), socket)];
            threads.push(spawn(start(spread, listeners, &input, &phase, receiver)).unwrap());
            commands.push(sender);
        }
        Self { address: addresses[0], input, phase, commands, threads }
    }

    /// How many connections `worker` serves.
    fn open(&self, worker: usize) -> usize {
        let (reply, answer) = oneshot::channel();
        self.commands[worker].send(Command::Connections(reply)).unwrap();
        answer.blocking_recv().unwrap().len()
    }

    fn end(self) {
        drop(self.input);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

fn input(routes: &str) -> watch::Sender<Input> {
    let config = format!("service: gateway\ngateway:\n  listen: 127.0.0.1:0\n  routes: {routes}\n");
    let snapshot = remora_config::parse("test", config.as_bytes(), &remora_config::Environment::default()).unwrap();
    watch::Sender::new(Input {
        snapshot: Arc::new(snapshot),
        resolved: Arc::default(),
        identity: None,
        gateways: GatewayCertificates::default(),
    })
}

/// A worker with nothing but these.
fn start(
    (spread, inbox): (Spread, Inbox),
    listeners: Vec<(ListenerId, TcpListener)>,
    input: &watch::Sender<Input>,
    phase: &watch::Sender<Phase>,
    commands: mpsc::UnboundedReceiver<Command>,
) -> Start {
    let registry = Registry::new();
    Start {
        index: 0,
        listeners,
        own: OwnAddresses::new(&[], Vec::new()),
        spread,
        inbox,
        input: input.subscribe(),
        phase: phase.subscribe(),
        pressure: watch::channel(Pressure::None).1,
        commands,
        sinks: channels(&registry).0,
        registry,
        ready: Readiness::new().register("worker"),
    }
}

/// Holds the value of `watched` while `work` is done.
fn held<T: Send + Sync>(watched: &watch::Sender<T>, work: impl FnOnce()) {
    let ((holds, held), (done, wait)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            watched.send_if_modified(|_| {
                holds.send(()).unwrap();
                // Ends also when `work` panics.
                let _ = wait.recv();
                false
            })
        });
        held.recv().unwrap();
        work();
        drop(done);
    });
}

fn open(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Has a request answered for which there is no route.
fn ask(stream: &mut TcpStream) {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = [0; 1024];
    let length = stream.read(&mut answer).unwrap();
    assert!(answer[..length].starts_with(b"HTTP/1.1 404 "), "no route");
}

#[test]
fn connections_are_spread_over_the_workers_and_outlive_the_drain() {
    let gateway = Gateway::with_workers(2, "[{path: /a, to: \"127.0.0.1:9\"}]");
    // All come to the first worker's socket.
    let mut streams: Vec<_> = (0..8).map(|_| open(gateway.address)).collect();
    streams.iter_mut().for_each(ask);
    assert_eq!((gateway.open(0), gateway.open(1)), (4, 4));
    gateway.phase.send_replace(Phase::Gone);
    // Each is told, wherever it is served, and then both workers end by themselves.
    for stream in &mut streams {
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }
    gateway.threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn connections_wait_for_no_other_thread() {
    let gateway = Gateway::start("[{path: /a, to: \"127.0.0.1:9\"}]");
    let open = || open(gateway.address);
    let mut stream = open();
    ask(&mut stream);
    held(&gateway.phase, || {
        held(&gateway.input, || {
            ask(&mut stream);
            ask(&mut open());
        });
    });
    gateway.phase.send_replace(Phase::Draining);
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "told all the same");
    gateway.end();
}

/// What an application that speaks HTTP/2 does with each request.
#[derive(Clone, Copy)]
enum Refusal {
    /// Resets its stream with REFUSED_STREAM.
    Stream,
    /// Takes in more of its body than is kept, and says that no stream was processed.
    GoAway,
}

/// Bytes of a body after which [`Refusal::GoAway`] comes; what is kept of one is less.
const TAKEN: usize = 200_000;

/// An application that refuses every request, and how many there were.
struct Application {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl Application {
    fn start(refusal: Refusal) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let count = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, count) = (stream.unwrap(), count.clone());
                // Ends with the connection.
                std::thread::spawn(move || refuse(&mut stream, refusal, &count));
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// RFC 9113, as far as it takes to refuse.
fn refuse(stream: &mut TcpStream, refusal: Refusal, count: &AtomicUsize) -> std::io::Result<()> {
    let (data, headers, reset, settings, go_away, window) = (0, 1, 3, 4, 7, 8);
    stream.read_exact(&mut [0; 24])?;
    // INITIAL_WINDOW_SIZE, and as much for the connection.
    stream.write_all(&frame(settings, 0, 0, &[0, 4, 0, 16, 0, 0]))?;
    stream.write_all(&frame(window, 0, 0, &[0, 16, 0, 0]))?;
    let mut taken = 0;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        stream.read_exact(&mut vec![0; length])?;
        if kind == settings && flags == 0 {
            stream.write_all(&frame(settings, 1, 0, &[]))?;
        } else if kind == headers {
            count.fetch_add(1, Ordering::Relaxed);
            if let Refusal::Stream = refusal {
                stream.write_all(&frame(reset, 0, id, &[0, 0, 0, 7]))?;
            }
        } else if kind == data {
            taken += length;
            if taken >= TAKEN {
                taken = 0;
                stream.write_all(&frame(go_away, 0, 0, &[0; 8]))?;
            }
        }
    }
}

/// A gateway to one endpoint that speaks HTTP/2.
fn gateway_to(application: &Application) -> Gateway {
    Gateway::start(&format!("[{{path: /, to: \"{}\", protocol: http2}}]", application.address))
}

#[test]
fn an_application_that_refuses_requests_is_asked_twice() {
    let application = Application::start(Refusal::Stream);
    let gateway = gateway_to(&application);
    let mut stream = open(gateway.address);
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("x-remora-reason: UR "), "{answer}");
    assert_eq!(application.requests(), 2);
    gateway.end();
}

#[test]
fn a_body_of_which_too_much_was_sent_is_not_sent_again() {
    let application = Application::start(Refusal::GoAway);
    let gateway = gateway_to(&application);
    for (asked, sent) in [TAKEN, 20 * TAKEN].into_iter().enumerate() {
        let mut stream = open(gateway.address);
        write!(stream, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 20 * TAKEN).unwrap();
        let mut rest = stream.try_clone().unwrap();
        // The connection may end before all of it is sent.
        let sending = std::thread::spawn(move || rest.write_all(&vec![b'x'; sent]));
        let mut answer = [0; 1024];
        let length = stream.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]);
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("x-remora-reason: UC "), "{answer}");
        assert_eq!(application.requests(), asked + 1);
        drop(stream);
        let _ = sending.join().unwrap();
    }
    gateway.end();
}

#[tokio::test]
async fn a_shared_connection_that_comes_to_rest_gives_way_to_who_waits_for_a_file() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let input = input(&format!("[{{path: /, to: \"{address}\", protocol: http2}}]"));
    let spread = Spread::among(1, 1, 2).remove(0);
    let worker =
        Worker::new(&start(spread, Vec::new(), &input, &watch::Sender::default(), mpsc::unbounded_channel().1));
    let mut files = [(); 2].map(|()| worker.files.take(Need::First, &mut None)).into_iter();

    let io = Upstream::Plain(tokio::net::TcpStream::connect(address).await.unwrap());
    let (sender, _connection) = h2::connect(io, true, HttpLimits::default(), 65_535).await.unwrap();
    let shared = Shared::new(sender, false, &HttpLimits::default(), Share::default(), Rc::default());
    let view = worker.view();
    let host = view.clusters[0].pool.host((address, Hop::Http2, None), 0);
    let stream = host.add(Fresh::Http2(shared.clone()), 0);
    let by = Instant::now() + PATIENCE;
    let mut waiting = pin!(worker.file(Need::First, None, by));
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(cx).is_pending());
    worker.make_room();
    assert!(matches!(host.checkout(Hop::Http2, false, false), Checkout::Ready(_)), "it is in use");
    drop(stream);
    worker.make_room();
    assert!(matches!(host.checkout(Hop::Http2, false, false), Checkout::Dial(..)));
    // Its task ends then.
    drop(files.next());
    assert!(waiting.await.is_some());
}
