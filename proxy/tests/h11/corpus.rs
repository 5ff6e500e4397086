//! What a gateway passes on of the fuzz targets' committed inputs of HTTP/1 is, to h11 as its origin, well-formed, and just the
//! requests that h11 reads in the client's own bytes; the gateway may refuse more of them.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use remora_proxy::admin::Loggers;
use remora_proxy::control;
use serde_json::Value;

use crate::{python, readings};

const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds");
const ORIGIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/conformance/apps/h1_origin.py");
/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// Answered, and the end of its connection, unless the bytes before it lost their own end.
const LAST: &[u8] = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// What a client sends, piece by piece.
struct Seed {
    file: PathBuf,
    pieces: Vec<Vec<u8>>,
}

/// The inputs of a target whose first byte is `is_requests`, cut in two where it says so.
fn seeds(target: &str, is_requests: impl Fn(u8) -> bool) -> Vec<Seed> {
    let files = fs::read_dir(Path::new(SEEDS).join(target)).unwrap().map(|entry| entry.unwrap().path());
    let seed = |file: PathBuf| {
        let input = fs::read(&file).unwrap();
        let (kind, bytes) = input.split_first().filter(|(kind, _)| is_requests(**kind))?;
        let (first, second) = bytes.split_at(bytes.len().min(usize::from(kind / 2)));
        Some(Seed { file, pieces: vec![first.to_vec(), second.to_vec(), LAST.to_vec()] })
    };
    files.filter_map(seed).collect()
}

/// h11 as an origin, and the file in which it notes what arrives.
struct Origin {
    process: Child,
    log: PathBuf,
}

impl Origin {
    /// Starts it, at an address that it tells.
    fn start(log: PathBuf) -> (Self, SocketAddr) {
        let mut process = Command::new(python()).args([ORIGIN, "0"]).arg(&log).stdout(Stdio::piped()).spawn().unwrap();
        let mut port = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let address = (Ipv4Addr::LOCALHOST, port.trim().parse().unwrap()).into();
        (Self { process, log }, address)
    }

    fn noted(&self) -> Vec<String> {
        fs::read_to_string(&self.log).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Hands on the lines of the proxy's log.
struct Lines(Sender<Vec<u8>>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        // Whoever waited for one has it.
        let _ = self.0.send(line.to_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Starts a gateway before `origin`, which serves until the process ends. A client that loses its end is told so after a second or two.
/// Where it listens, once it is ready, is what its log says.
fn gateway(origin: SocketAddr, folder: &Path) -> SocketAddr {
    let config = format!(
        "gateway: {{listen: '127.0.0.1:0', routes: [{{path: /, to: '{origin}', protocol: http}}], limits: {{header_timeout: 1s, stream_idle: 1s}}}}\n\
         admin: {{address: '127.0.0.1:0', metrics: '127.0.0.1:0', readiness: '127.0.0.1:0'}}\n\
         access_log: {{filter: off}}\nworkers: 1\n"
    );
    let file = folder.join("gateway.yaml");
    fs::write(&file, config).unwrap();
    let (lines, told) = channel();
    tracing_subscriber::fmt().json().with_writer(move || Lines(lines.clone())).init();
    let loggers = Loggers::new("off", |_| Ok(())).unwrap();
    std::thread::spawn(move || panic!("the gateway ended: {:?}", control::run(file, loggers)));
    let mut address = None;
    loop {
        let line: Value = serde_json::from_slice(&told.recv_timeout(PATIENCE).unwrap()).unwrap();
        let fields = &line["fields"];
        match fields["message"].as_str() {
            Some("listening") => {
                let addresses = fields["addresses"].as_str().unwrap();
                address = Some(addresses.trim_matches(['[', ']']).parse().unwrap());
            }
            Some("ready") => return address.unwrap(),
            _ => {}
        }
    }
}

/// Sends `pieces` as one client, and hears what is answered until the gateway ends the connection.
fn exchange(gateway: SocketAddr, seed: &Seed) {
    let mut stream = TcpStream::connect(gateway).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // A gateway that refuses a request need not read the rest.
    let _ = seed.pieces.iter().try_for_each(|piece| stream.write_all(piece));
    let mut answers = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answers) {
        let reset = error.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(reset, "{}: {error} behind {}", seed.file.display(), answers.escape_ascii());
    }
}

/// Sends a request of its own, number `index`. The gateway has one worker and the origin one loop, which serve in turn what comes: when
/// it is answered, all that came before has arrived.
fn mark(gateway: SocketAddr, index: usize) -> String {
    let mut stream = TcpStream::connect(gateway).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /mark/{index} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    format!("request GET /mark/{index} ")
}

/// h11 does not pass over the empty lines that a client may send before its first request (RFC 9112 section 2.2).
fn without_empty_lines(mut bytes: &[u8]) -> &[u8] {
    while let Some(rest) = bytes.strip_prefix(b"\r\n") {
        bytes = rest;
    }
    bytes
}

/// A request as the origin notes it: its target in the form of an origin's.
fn note(request: &Value) -> String {
    let field = |name: &str| request[name].as_str().unwrap();
    let (method, target) = (field("method"), field("target"));
    let target = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => match rest.find(['/', '?']) {
            Some(at) if rest[at..].starts_with('/') => rest[at..].to_owned(),
            Some(at) => format!("/{}", &rest[at..]),
            None if method == "OPTIONS" => "*".to_owned(),
            None => "/".to_owned(),
        },
        _ => target.to_owned(),
    };
    let body: String = field("body").chars().map(|byte| format!("{:02x}", u32::from(byte))).collect();
    format!("request {method} {target} {body}")
}

#[test]
fn h11_as_the_origin_is_told_what_it_reads_in_the_committed_inputs_itself() {
    let folder = std::env::temp_dir().join(format!("remora-h11-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (origin, address) = Origin::start(folder.join("log"));
    let gateway = gateway(address, &folder);

    let mut seeds = seeds("connection", |kind| kind % 2 == 0);
    seeds.extend(self::seeds("http1", |kind| kind % 4 < 2));
    let sent: Vec<Vec<u8>> = seeds.iter().map(|seed| without_empty_lines(&seed.pieces.concat()).to_vec()).collect();
    let (mut known, mut passed) = (0, 0);
    for (index, (seed, readings)) in seeds.iter().zip(readings(&sent)).enumerate() {
        exchange(gateway, seed);
        let mark = mark(gateway, index);
        let mut noted = origin.noted();
        // Of a request that was cut it may hear later.
        noted.truncate(noted.iter().position(|line| *line == mark).unwrap());
        let arrived: Vec<&String> = noted[known..].iter().filter(|line| line.starts_with("request ")).collect();
        let read: Vec<String> = readings.iter().filter(|one| one["error"].is_null()).map(note).collect();
        let (file, bytes) = (seed.file.display(), seed.pieces.concat());
        assert!(
            arrived.len() <= read.len() && arrived.iter().zip(&read).all(|(arrived, read)| *arrived == read),
            "{file}: {}\nh11 reads {read:#?}\nand was told {arrived:#?}",
            bytes.escape_ascii()
        );
        // Whose it was, the file alone would not say.
        let broken: Vec<&String> = noted.iter().filter(|line| line.starts_with("broken ")).collect();
        assert!(broken.is_empty(), "{file} or one before it: {}\n{broken:#?}", bytes.escape_ascii());
        passed += arrived.len();
        known = noted.len() + 1;
    }
    drop(origin);
    fs::remove_dir_all(folder).unwrap();
    // Most are right, and all but a few end as they should.
    assert!(passed >= seeds.len(), "{passed} requests of {} inputs passed", seeds.len());
}
