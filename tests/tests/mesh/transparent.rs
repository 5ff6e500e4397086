//! TCP as if no sidecar were there: who speaks first, how it ends, and every byte in between. The servers are part of the test,
//! so that it sees both ends of a connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, Digest, SHA256};
use remora_test::mesh::Mesh;
use remora_test::pod::Pod;
use remora_test::sidecar::Sidecar;
use remora_test::{PATIENCE, eventually};
use socket2::SockRef;

use crate::pair::{VIRTUAL, service};

/// What a server's first byte may take through both sidecars, beside a round trip, which is none here. On a machine that has other things to do
/// it may take ten times as much, but not each time.
const FIRST_BYTE: Duration = Duration::from_millis(50);

/// A machine may stand still for longer than a connection usually may take to be made.
const TIMEOUTS: &str = "timeouts: {connect: 60s}";

/// Ports whose inbound side is plain, permissive and strict.
const PLAIN: u16 = 1;
const PERMISSIVE: u16 = 2;
const STRICT: u16 = 3;

/// Two meshed pods and a stranger. Ports of the server that end in the digits above have that mode; those that end in 2 or 3
/// are reached over mTLS at the virtual address, all of them as they are at the server's own.
struct World {
    outbound: Sidecar,
    inbound: Sidecar,
    client: Pod,
    server: Pod,
    stranger: Pod,
}

impl World {
    fn new(ports: &[u16]) -> Self {
        let mesh = Mesh::new();
        let (client, server, stranger) = (mesh.pod("client"), mesh.pod("server"), mesh.pod("stranger"));
        let (mut modes, mut entries) = (Vec::new(), String::from("outbound:\n"));
        for port in ports {
            match port % 10 {
                PLAIN => modes.push(format!("{{port: {port}, mtls: off}}")),
                PERMISSIVE => modes.push(format!("{{port: {port}, mtls: permissive}}")),
                _ => {}
            }
            if port % 10 != PLAIN {
                let endpoint = server.at(*port);
                entries += &format!(
                    "  - {{host: \"server:{port}\", addresses: [\"{VIRTUAL}\"], endpoints: [\"{endpoint}\"], {TIMEOUTS}}}\n"
                );
            }
        }
        let inbound = server.sidecar(&format!("inbound: {{mtls: strict, ports: [{}], {TIMEOUTS}}}", modes.join(", ")));
        let outbound = client.sidecar(&entries);
        Self { outbound, inbound, client, server, stranger }
    }

    /// Who may reach a port, and where.
    fn ways(&self, port: u16) -> Vec<(&Pod, SocketAddr)> {
        let (direct, mesh) = (self.server.at(port), service(port));
        match port % 10 {
            PLAIN => vec![(&self.stranger, direct), (&self.client, direct)],
            PERMISSIVE => vec![(&self.stranger, direct), (&self.client, direct), (&self.client, mesh)],
            _ => vec![(&self.client, mesh)],
        }
    }

    /// Accepts `count` connections on a port, one after the other, and serves each with `talk`.
    fn serve<T: Send + 'static>(
        &self,
        port: u16,
        count: usize,
        talk: impl Fn(TcpStream) -> T + Send + 'static,
    ) -> JoinHandle<Vec<T>> {
        let listener = self.server.enter(|| TcpListener::bind(("::", port))).unwrap();
        std::thread::spawn(move || (0..count).map(|_| talk(patient(listener.accept().unwrap().0))).collect())
    }
}

pub(crate) fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

pub(crate) fn connect(pod: &Pod, to: SocketAddr) -> TcpStream {
    patient(pod.enter(|| TcpStream::connect(to)).unwrap_or_else(|error| panic!("{to}: {error}")))
}

pub(crate) fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    if let Err(error) = stream.read_exact(&mut read) {
        let bytes = String::from_utf8_lossy(bytes);
        panic!("{:?} waits for {bytes:?} from {:?}: {error}", stream.local_addr(), stream.peer_addr());
    }
    assert_eq!(read, bytes);
}

/// Sends a reset.
pub(crate) fn abort(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// The greeting of a server that speaks first, what its client says to it, and the answer.
type Dialogue = (u16, &'static [u8], &'static [u8], &'static [u8]);

const DIALOGUES: [Dialogue; 3] = [
    // MySQL's protocol 10: length, sequence, version, and the client's login.
    (
        13_300,
        b"\x4a\0\0\0\x0a8.0.36\0\x08\0\0\0abcdefgh\0",
        b"\x20\0\0\x01\x85\xa6\x03\0login",
        b"\x07\0\0\x02\0\0\0\x02\0\0\0",
    ),
    (2_520, b"220 mail.example ESMTP\r\n", b"EHLO client.example\r\n", b"250 mail.example\r\n"),
    (4_220, b"INFO {\"server_id\":\"N\",\"max_payload\":1048576}\r\n", b"CONNECT {}\r\nPING\r\n", b"PONG\r\n"),
];

#[test]
fn servers_that_speak_first_need_no_annotation() {
    let modes = [PLAIN, PERMISSIVE, STRICT];
    let ports: Vec<u16> = DIALOGUES.iter().flat_map(|(base, ..)| modes.map(|mode| base + mode)).collect();
    let world = World::new(&ports);
    let mut encrypted = 0.0;
    for (base, greeting, question, answer) in DIALOGUES {
        for port in modes.map(|mode| base + mode) {
            let listener = world.server.enter(|| TcpListener::bind(("::", port))).unwrap();
            SockRef::from(&listener).set_read_timeout(Some(PATIENCE)).unwrap();
            for (pod, to) in world.ways(port) {
                eventually(&format!("{} hears {to} in time", pod.name()), || {
                    let begin = Instant::now();
                    let mut stream = connect(pod, to);
                    let mut server = patient(listener.accept().unwrap().0);
                    server.write_all(greeting).unwrap();
                    expect(&mut stream, greeting);
                    let took = begin.elapsed();
                    stream.write_all(question).unwrap();
                    expect(&mut server, question);
                    server.write_all(answer).unwrap();
                    drop(server);
                    expect(&mut stream, answer);
                    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "{to}: the server's end");
                    encrypted += f64::from(u8::from(to == service(port)));
                    assert!(took < 10 * FIRST_BYTE, "{} -> {to}: {took:?}", pod.name());
                    (took < FIRST_BYTE).then_some(())
                });
            }
        }
    }
    let handshakes = world.inbound.metric("remora_tls_handshakes_total", &[("side", "server")]);
    assert_eq!(handshakes, encrypted);
    assert!(encrypted >= 6.0, "three protocols, permissive and strict");
}

#[test]
fn a_client_that_ends_without_a_word_still_hears_the_server() {
    let world = World::new(&[7_001, 7_003]);
    for port in [7_001, 7_003] {
        let ways = world.ways(port);
        let server = world.serve(port, ways.len(), |mut stream| {
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the client's end");
            stream.write_all(b"the time is now\n").unwrap();
        });
        for (pod, to) in ways {
            let mut stream = connect(pod, to);
            stream.shutdown(Shutdown::Write).unwrap();
            expect(&mut stream, b"the time is now\n");
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        }
        server.join().unwrap();
    }
}

#[test]
fn slow_clients_are_waited_for_and_relayed_byte_by_byte() {
    let world = World::new(&[7_001, 7_003]);
    for port in [7_001, 7_003] {
        let ways = world.ways(port);
        let server = world.serve(port, ways.len(), |mut stream| {
            // Each byte is answered, so the next comes only when the last went all the way.
            for byte in b"\x01slow" {
                expect(&mut stream, &[*byte]);
                stream.write_all(&[*byte]).unwrap();
            }
        });
        for (pod, to) in ways {
            let mut stream = connect(pod, to);
            eventually("the proxies have given up waiting for the first word", || {
                (world.inbound.metric("remora_upstream_connections_active", &[]) >= 1.0).then_some(())
            });
            for byte in b"\x01slow" {
                stream.write_all(&[*byte]).unwrap();
                expect(&mut stream, &[*byte]);
            }
            drop(stream);
            world.inbound.metric_until("remora_upstream_connections_active", &[], |n| n == 0.0);
        }
        server.join().unwrap();
    }
}

#[test]
fn a_reset_arrives_as_a_reset_whoever_sends_it() {
    let world = World::new(&[7_001, 7_003]);
    for port in [7_001, 7_003] {
        let ways = world.ways(port);
        let server = world.serve(port, 3 * ways.len(), |mut stream| {
            let mut command = [0];
            stream.read_exact(&mut command).unwrap();
            stream.write_all(b"!").unwrap();
            match command {
                [1] => {
                    abort(stream);
                    Ok(1)
                }
                // What it was half-way through saying is no whole message either.
                _ => stream.read(&mut command),
            }
        });
        for (pod, to) in &ways {
            for command in [b"\x01", b"\x02", b"\x03"] {
                let mut stream = connect(pod, *to);
                stream.write_all(command).unwrap();
                expect(&mut stream, b"!");
                match command {
                    b"\x01" => {
                        let error = stream.read(&mut [0]).expect_err("the server's reset");
                        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{to}");
                    }
                    b"\x02" => abort(stream),
                    _ => drop(stream),
                }
            }
        }
        for (n, heard) in server.join().unwrap().into_iter().enumerate() {
            match (n % 3, heard) {
                (1, heard) => {
                    assert_eq!(heard.unwrap_err().kind(), ErrorKind::ConnectionReset, "connection {n}, {port}")
                }
                (2, heard) => assert_eq!(heard.unwrap(), 0, "an end is an end"),
                (_, heard) => assert_eq!(heard.unwrap(), 1),
            }
        }
    }
}

/// The seconds that conntrack still gives a connection to `port`; `None`: it has forgotten it.
fn remembered(pod: &Pod, port: u16) -> Option<u32> {
    let output = pod.output("conntrack", &["-L", "-p", "tcp", "--dport", &port.to_string()]).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().find_map(|line| line.split_whitespace().nth(2)?.parse().ok())
}

/// Without our keep-alive the kernel forgets a half-closed connection, and what comes later finds a stranger.
fn is_renewed(pod: &Pod) {
    eventually("conntrack knows that half of it is closed", || remembered(pod, 7_003).filter(|left| *left <= 16));
    let mut least = u32::MAX;
    eventually("a keep-alive renews it", || {
        let left = remembered(pod, 7_003).expect("conntrack has forgotten the connection");
        least = least.min(left);
        (left > least + 2).then_some(())
    });
}

/// `REMORA_HALF_CLOSED=300` holds it for so many seconds, and leaves the kernel its own patience.
#[test]
fn a_half_closed_connection_is_held_and_kept_in_the_kernels_memory() {
    let held = std::env::var("REMORA_HALF_CLOSED").ok().map(|text| Duration::from_secs(text.parse().unwrap()));
    let world = World::new(&[7_003]);
    for pod in [&world.client, &world.server].into_iter().filter(|_| held.is_none()) {
        // A minute each by default; still longer than our keep-alive's interval of 10 s.
        for state in ["close_wait", "fin_wait", "last_ack", "time_wait"] {
            let file = format!("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{state}");
            pod.enter(|| std::fs::write(&file, "16")).unwrap();
        }
    }
    let (speak, spoken) = std::sync::mpsc::channel();
    let spoken = std::sync::Mutex::new(spoken);
    let server = world.serve(7_003, 1, move |mut stream| {
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        spoken.lock().unwrap().recv_timeout(PATIENCE + held.unwrap_or_default()).unwrap();
        stream.write_all(b"late").unwrap();
        heard
    });
    let mut stream = connect(&world.client, service(7_003));
    stream.write_all(b"\x01question").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let pods = [&world.client, &world.server];
    match held {
        Some(held) => std::thread::sleep(held),
        None => pods.into_iter().for_each(is_renewed),
    }
    speak.send(()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"late");
    assert_eq!(server.join().unwrap(), [b"\x01question"]);
}

/// Sends `mebibytes` of bytes that never repeat, then its end; returns their digest.
fn send(stream: &mut TcpStream, mebibytes: usize, seed: u8) -> Digest {
    let mut block: Vec<u8> = (0..1_usize << 20).map(|n| (n * 31 + n / 251) as u8 ^ seed).collect();
    let mut digest = Context::new(&SHA256);
    for n in 0..mebibytes {
        block[..8].copy_from_slice(&(n as u64).to_be_bytes());
        digest.update(&block);
        stream.write_all(&block).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    digest.finish()
}

/// Reads to the peer's end; returns how much there was, and its digest.
fn receive(stream: &mut TcpStream) -> (usize, Digest) {
    let (mut block, mut digest, mut total) = (vec![0; 1 << 18], Context::new(&SHA256), 0);
    loop {
        match stream.read(&mut block).unwrap() {
            0 => return (total, digest.finish()),
            n => {
                digest.update(&block[..n]);
                total += n;
            }
        }
    }
}

/// Both at once.
fn exchange(stream: &TcpStream, mebibytes: usize, seed: u8) -> (Digest, usize, Digest) {
    std::thread::scope(|scope| {
        let mut writer = stream.try_clone().unwrap();
        let sent = scope.spawn(move || send(&mut writer, mebibytes, seed));
        let (total, received) = receive(&mut stream.try_clone().unwrap());
        (sent.join().unwrap(), total, received)
    })
}

/// `REMORA_BULK_MIB=1024` makes it a gibibyte.
#[test]
fn much_arrives_whole_in_both_directions_at_once() {
    let mebibytes = std::env::var("REMORA_BULK_MIB").map_or(128, |text| text.parse().unwrap());
    let world = World::new(&[7_001, 7_003]);
    for (port, to) in [(7_001, world.server.at(7_001)), (7_003, service(7_003))] {
        let server = world.serve(port, 1, move |stream| exchange(&stream, mebibytes, 7));
        let stream = connect(&world.client, to);
        let (sent, total, received) = exchange(&stream, mebibytes, 99);
        let (answered, heard, question) = server.join().unwrap().remove(0);
        assert_eq!((total, heard), (mebibytes << 20, mebibytes << 20), "{to}");
        assert_eq!(received.as_ref(), answered.as_ref(), "{to}: what the server sent");
        assert_eq!(question.as_ref(), sent.as_ref(), "{to}: what the client sent");
    }
    world.outbound.metric_until("remora_downstream_connections_active", &[("direction", "outbound")], |n| n == 0.0);
}
