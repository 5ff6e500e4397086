//! Connections that their server closes while the next request is under way: it never had that, so it is done elsewhere, once. The
//! servers are part of the test; their sockets can be deafened, so that what is sent to them is under way for as long as they like.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use remora_test::eventually;
use remora_test::mesh::Mesh;
use remora_test::pod::Pod;
use remora_test::sidecar::Sidecar;
use socket2::{SockFilter, SockRef};

use crate::pair::{entry, service};
use crate::wire::Wire;

/// How long the server of the load keeps a connection that is idle.
const IDLE: Duration = Duration::from_millis(50);
/// How long what it is sent is under way when it closes.
const WAY: Duration = Duration::from_millis(5);
/// Clients of the load, and the requests of each.
const CLIENTS: u64 = 32;
const REQUESTS: u64 = 100;

/// How often each request was done, by its name.
type Done = Arc<Mutex<BTreeMap<String, usize>>>;

/// The client's pod and its sidecar, and the server's, with a sidecar in the chain.
struct Bed {
    outbound: Sidecar,
    inbound: Option<Sidecar>,
    client: Pod,
    server: Pod,
}

impl Bed {
    fn start(chain: bool) -> Self {
        let mesh = Mesh::new();
        let (client, server) = (mesh.pod("client"), mesh.pod("server"));
        let inbound = chain.then(|| server.sidecar("workers: 1\ninbound: {mtls: strict}"));
        let entry = entry(8080, &[server.at(8080)], &format!(", mtls: {chain}"));
        let outbound = client.sidecar(&format!("workers: 1\n{entry}"));
        Self { outbound, inbound, client, server }
    }

    /// Serves each connection to the application's port by `serve`, in a thread of its own.
    fn serve(&self, serve: impl Fn(TcpStream) + Send + Sync + 'static) {
        let listener = self.server.enter(|| TcpListener::bind("[::]:8080")).unwrap();
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, serve) = (stream.unwrap(), serve.clone());
                std::thread::spawn(move || serve(stream));
            }
        });
    }

    /// Waits until the sidecar beside the application has written what the server did not receive.
    fn is_under_way(&self) {
        let pod = if self.inbound.is_some() { &self.server } else { &self.client };
        eventually("a request under way", || unacknowledged(pod, "tcp", 2).then_some(()));
    }

    /// Waits until the server's answers are acknowledged: its end would not come behind one that a deaf server has to repeat.
    fn is_acknowledged(&self) {
        eventually("an acknowledgement", || (!unacknowledged(&self.server, "tcp6", 1)).then_some(()));
    }
}

/// Whether a pod has an established connection with port 8080 at the local (1) or the remote (2) end and something unacknowledged.
fn unacknowledged(pod: &Pod, family: &str, end: usize) -> bool {
    let sockets = pod.enter(|| std::fs::read_to_string(format!("/proc/thread-self/net/{family}"))).unwrap();
    let waits =
        |socket: &[&str]| socket[end].ends_with(":1F90") && socket[3] == "01" && !socket[4].starts_with("00000000:");
    sockets.lines().any(|line| waits(&line.split_whitespace().collect::<Vec<_>>()))
}

/// The socket receives nothing any more: its system drops each segment before it looks at it.
fn deafen(stream: &TcpStream) {
    // BPF_RET | BPF_K, of which nothing.
    SockRef::from(stream).attach_filter(&[SockFilter::new(0x06, 0, 0, 0)]).unwrap();
}

/// Reads a request, does it and answers; its name, which is its path or, where it has one, its body.
fn request(stream: &mut TcpStream, done: &Done) -> std::io::Result<String> {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    // A body is a name, in a chunk or not.
    let is_whole = |text: &str| match text.starts_with("GET ") {
        true => text.ends_with("\r\n\r\n"),
        false => text.trim_end_matches("\r\n0\r\n\r\n").ends_with(';'),
    };
    while !is_whole(&text) {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => text += str::from_utf8(&buffer[..read]).unwrap(),
            // Who is within a request is not idle, however slow the machine is.
            Err(error) if error.kind() == ErrorKind::WouldBlock && !text.is_empty() => {}
            Err(error) => return Err(error),
        }
    }
    let name = match text.split_once("\r\n\r\n").unwrap() {
        (head, "") => head.split_whitespace().nth(1).unwrap(),
        (_, body) => body.lines().find(|line| line.ends_with(';')).unwrap(),
    };
    *done.lock().unwrap().entry(name.to_owned()).or_default() += 1;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")?;
    Ok(name.to_owned())
}

/// Has the server close a connection while a request is under way to it.
fn met_by_a_close(chain: bool) {
    let bed = Bed::start(chain);
    let done = Done::default();
    let (tell, told) = channel::<()>();
    let (deaf, is_deaf) = channel();
    let (counts, told) = (done.clone(), Mutex::new(told));
    bed.serve(move |mut stream| {
        while let Ok(name) = request(&mut stream, &counts) {
            if name == "/last" {
                let told = told.lock().unwrap();
                told.recv().unwrap();
                deafen(&stream);
                deaf.send(()).unwrap();
                return told.recv().unwrap();
            }
        }
    });
    let mut wire = Wire::open(&bed.client, service(8080));
    let mut expected = BTreeMap::new();
    for (name, parts) in [
        ("/got", &["GET /got HTTP/1.1\r\nhost: server:8080\r\n\r\n"][..]),
        ("whole;", &["POST / HTTP/1.1\r\nhost: server:8080\r\ncontent-length: 6\r\n\r\nwhole;"]),
        (
            "chunk;",
            &["POST / HTTP/1.1\r\nhost: server:8080\r\ntransfer-encoding: chunked\r\n\r\n6\r\nchunk;\r\n0\r\n\r\n"],
        ),
        ("parts;", &["POST / HTTP/1.1\r\nhost: server:8080\r\ncontent-length: 6\r\n\r\n", "parts;"]),
    ] {
        assert_eq!(wire.get("/last", &[]).code, 200);
        bed.is_acknowledged();
        tell.send(()).unwrap();
        is_deaf.recv().unwrap();
        wire.send(parts[0]);
        bed.is_under_way();
        tell.send(()).unwrap();
        parts[1..].iter().for_each(|part| wire.send(part));
        let answer = wire.answer();
        assert_eq!(answer.code, 200, "{name} {answer:?}");
        expected.insert(name.to_owned(), 1);
    }
    expected.insert("/last".to_owned(), expected.len());
    assert_eq!(*done.lock().unwrap(), expected);
    let near = bed.inbound.as_ref().unwrap_or(&bed.outbound);
    assert_eq!(near.metric("remora_upstream_retries_total", &[]), 4.0, "each was under way when its connection ended");
}

#[test]
fn a_request_that_meets_a_close_is_done_on_another_connection() {
    met_by_a_close(false);
}

#[test]
fn a_request_that_meets_a_close_behind_another_sidecar_is_done_on_another_connection() {
    met_by_a_close(true);
}

/// Serves a connection until it was idle for [`IDLE`], and closes it a [`WAY`] after the last segment that reached it. What its system has
/// received by then is served: had the server closed without having read it, its client would see a reset, which proves nothing.
fn serve_while_busy(mut stream: TcpStream, done: &Done) {
    loop {
        match request(&mut stream, done) {
            // A new connection is waited for longer, as is the custom.
            Ok(_) => stream.set_read_timeout(Some(IDLE)).unwrap(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                deafen(&stream);
                stream.set_nonblocking(true).unwrap();
                let waits = matches!(stream.peek(&mut [0]), Ok(1..));
                stream.set_nonblocking(false).unwrap();
                if !waits {
                    return std::thread::sleep(WAY);
                }
                SockRef::from(&stream).detach_filter().unwrap();
            }
            Err(_) => return,
        }
    }
}

/// Requests with pauses around the server's time-out, so that many meet its close.
fn load(chain: bool) {
    let bed = Bed::start(chain);
    let done = Done::default();
    let counts = done.clone();
    bed.serve(move |stream| serve_while_busy(stream, &counts));
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let mut wire = Wire::open(&bed.client, service(8080));
            scope.spawn(move || {
                let mut random = client;
                for number in 0..REQUESTS {
                    // Knuth's generator (MMIX): 45 to 60 ms.
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    std::thread::sleep(IDLE - WAY + Duration::from_micros((random >> 33) % 15_000));
                    let name = format!("{client}-{number};");
                    let request = match number % 2 {
                        0 => format!("GET /{name} HTTP/1.1\r\nhost: server:8080\r\n\r\n"),
                        _ => format!(
                            "POST / HTTP/1.1\r\nhost: server:8080\r\ncontent-length: {}\r\n\r\n{name}",
                            name.len()
                        ),
                    };
                    wire.send(&request);
                    let answer = wire.answer();
                    assert_eq!(answer.code, 200, "{name} {answer:?}");
                }
            });
        }
    });
    let done = done.lock().unwrap();
    assert_eq!(done.len() as u64, CLIENTS * REQUESTS);
    assert!(done.values().all(|&times| times == 1), "{done:?}");
    let near = bed.inbound.as_ref().unwrap_or(&bed.outbound);
    let met = near.metric("remora_upstream_retries_total", &[]);
    assert!(met >= 1.0, "no request met a close, which is what they are for");
}

#[test]
fn pauses_as_long_as_the_servers_patience_cost_no_request() {
    load(false);
}

#[test]
fn pauses_as_long_as_the_patience_of_a_server_behind_another_sidecar_cost_no_request() {
    load(true);
}
