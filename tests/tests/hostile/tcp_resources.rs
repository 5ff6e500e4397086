//! Connections that are not HTTP, and what the machine no longer gives.

use std::fs::{DirEntry, OpenOptions};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;

use remora_test::netns::{run, tool};
use remora_test::pod::Pod;
use remora_test::{PATIENCE, eventually};

use crate::bed::{Bed, Counter, Row, SENT_AGAIN, beds, connect};
use crate::frames::{Outcome, get};
use crate::origin::Origin;
use crate::{memory, uploads};

const TCP: Counter = ("remora_tcp_connections_total", &[("direction", "inbound")]);
const OVERLOADED: Counter = ("remora_requests_total", &[("flag", "OM")]);
const LOOP: Counter = ("remora_connections_refused_total", &[("reason", "loop")]);

pub(crate) fn rows() -> Vec<Row> {
    let [little_memory, crowds] = memory::rows();
    let [uploads] = uploads::rows();
    vec![
        Row { name: "half-closes", counter: TCP, run: half_closes },
        Row { name: "servers-that-speak-first", counter: TCP, run: servers_first },
        Row { name: "loops", counter: LOOP, run: loops },
        Row { name: "no-original-destination", counter: LOOP, run: no_original_destination },
        Row { name: "no-open-files", counter: ("remora_accept_pauses_total", &[]), run: no_open_files },
        Row { name: "streams-beyond-the-files", counter: OVERLOADED, run: streams_beyond_the_files },
        little_memory,
        crowds,
        uploads,
        Row { name: "log-sinks", counter: ("remora_log_dropped_total", &[]), run: log_sinks },
        Row { name: "packet-loss", counter: (SENT_AGAIN, &[]), run: packet_loss },
        Row { name: "address-families", counter: TCP, run: address_families },
    ]
}

beds! {
    sidecar tcp_at_a_pod [
        "half-closes", "servers-that-speak-first", "loops", "no-original-destination", "address-families",
    ] => |rows| rows.run(&mut Bed::inbound("inbound: {timeouts: {idle: 3s}, ports: [{port: 9102, protocol: tcp}]}"));

    gateway a_gateway_without_open_files ["no-open-files", "streams-beyond-the-files"] => |rows| {
        let arguments = ["prlimit", "--nofile=80"].map(str::to_owned);
        rows.run(&mut Bed::gateway_with(|_| String::new(), "workers: 2", &arguments))
    };

    gateway a_gateway_whose_logs_nobody_takes ["log-sinks"] => |rows| {
        let fifo = std::env::temp_dir().join(format!("remora-hostile-{}.log", std::process::id()));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
        std::fs::set_permissions(&fifo, PermissionsExt::from_mode(0o666)).unwrap();
        // Open for both, so that the proxy's end opens, too; nobody reads.
        let _reader = OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
        let redirected = format!("exec \"$@\" >/dev/full 2>{}", fifo.display());
        let arguments = ["REMORA_LOG=debug", "sh", "-c", &redirected, "sh"].map(str::to_owned);
        let mut bed = Bed::gateway_with(|_| String::new(), "access_log: {format: text, filter: all}", &arguments);
        std::fs::remove_file(&fifo).unwrap();
        rows.run(&mut bed)
    };

    gateway a_gateway_behind_bad_wires ["packet-loss"] => |rows| {
        // A SYN may be lost several times.
        let routes = |server: &Pod| {
            let to = server.at(8083);
            format!(
                "    - {{path: /lossy, rewrite: /, endpoints: [\"{to}\"], protocol: http, \
                 timeouts: {{connect: 60s}}}}\n"
            )
        };
        rows.run(&mut Bed::gateway_with(routes, "", &[]))
    };
}

/// Serves each connection with `talk`, on a thread that ends with the process.
fn serve(pod: &Pod, port: u16, talk: fn(TcpStream)) {
    serve_at(pod, pod.at(port), talk);
}

fn serve_at(pod: &Pod, at: SocketAddr, talk: fn(TcpStream)) {
    let listener = pod.enter(|| TcpListener::bind(at)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || talk(stream));
        }
    });
}

fn read_all(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn half_closes(bed: &Bed) {
    // Reads to the client's end before it answers.
    serve(&bed.server, 9100, |mut stream| {
        let text = read_all(&mut stream);
        let _ = stream.write_all(format!("heard {text}").as_bytes());
    });
    // Ends its own direction, then listens, and tells on the next connection what it heard.
    serve(&bed.server, 9101, |mut stream| {
        stream.write_all(b"half").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let heard = read_all(&mut stream);
        *HEARD.lock().unwrap() = Some(heard);
    });
    let mut first = connect(&bed.attacker, bed.server.at(9100));
    first.write_all(b"\x01to the end").unwrap();
    first.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut first), "heard \x01to the end");
    let mut second = connect(&bed.attacker, bed.server.at(9101));
    second.write_all(b"\x01begun, ").unwrap();
    assert_eq!(read_all(&mut second), "half");
    second.write_all(b"and ended").unwrap();
    drop(second);
    let heard = eventually("the server hears the end", || HEARD.lock().unwrap().take());
    assert_eq!(heard, "\x01begun, and ended");
    // A peer that vanishes without a word is missed by its idle timeout, and nothing of it stays.
    serve(&bed.server, 9103, |mut stream| drop(stream.read_to_end(&mut Vec::new())));
    let vanished = bed.mesh.pod("vanished");
    let mut stream = connect(&vanished, bed.server.at(9103));
    stream.write_all(b"\x01here").unwrap();
    bed.proxy.metric_until("remora_tcp_connections_total", &[], |count| count >= 3.0);
    vanished.link(false).unwrap();
    eventually("no connection of the vanished peer is left", || {
        let table = bed.server.enter(|| std::fs::read_to_string("/proc/thread-self/net/tcp")).unwrap();
        // Of the application's port, and in CLOSE_WAIT (08) or still established (01).
        let left = |line: &&str| line.contains(":238F ") && (line.contains(" 08 ") || line.contains(" 01 "));
        table.lines().find(left).is_none().then_some(())
    });
    vanished.link(true).unwrap();
}

static HEARD: std::sync::Mutex<Option<String>> = std::sync::Mutex::new(None);

fn servers_first(bed: &Bed) {
    for port in [9102, 9104] {
        serve(&bed.server, port, |mut stream| {
            let _ = stream.write_all(b"220 hello\r\n");
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let mut stream = connect(&bed.attacker, bed.server.at(port));
        let mut greeting = [0; 11];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"220 hello\r\n", "{port}");
    }
}

/// Asserts that nothing but the end comes back.
fn refused(pod: &Pod, to: SocketAddr) {
    let Ok(mut stream) = pod.enter(|| TcpStream::connect(to)) else { return };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer);
    let waited = end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(answer.is_empty() && !waited, "{to}: {}", answer.escape_ascii());
}

fn loops(bed: &Bed) {
    for _ in 0..50 {
        for port in [15_001, 15_006] {
            refused(&bed.attacker, bed.server.at(port));
            refused(&bed.server, bed.server.at(port));
            refused(&bed.server, ([127, 0, 0, 1], port).into());
        }
    }
    let count = bed.proxy.metric(LOOP.0, LOOP.1);
    assert!(count <= 600.0, "each is refused once, not again by itself: {count}");
}

fn no_original_destination(bed: &Bed) {
    refused(&bed.attacker, bed.server.at(15_006));
    // Where nothing is redirected at all, nobody can say where a connection was aimed.
    let bare = bed.mesh.pod("bare");
    let proxy = bare.proxy("service: bare\n");
    proxy.ready();
    for port in [15_001, 15_006] {
        refused(&bed.attacker, bare.at(port));
    }
    proxy.metric_until("remora_connections_refused_total", &[], |count| count >= 2.0);
}

fn no_open_files(bed: &Bed) {
    let hold = || {
        let mut stream = bed.connect();
        stream.write_all(b"GET /silent HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        stream
    };
    let held: Vec<_> = (0..150).map(|_| hold()).collect();
    bed.proxy.metric_until("remora_accept_pauses_total", &[], |count| count >= 3.0);
    assert_eq!(bed.proxy.admin("/stats").code, 200, "the admin interface answers");
    assert!(bed.open_files() < 80);
    drop(held);
    let ask = || bed.answer_to(b"GET /after HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    assert!(ask().starts_with("HTTP/1.1 200 "), "it recovers");
    // And where the kernel itself says so.
    let pauses = bed.proxy.metric("remora_accept_pauses_total", &[]);
    let mut command = bed.gateway.command(tool("strace"));
    command.args(["-f", "-qq", "-e", "trace=accept4", "-e", "inject=accept4:error=EMFILE", "-p"]);
    let strace = bed.gateway.process("strace", command.arg(bed.proxy.pid().to_string()));
    let tracer = format!("TracerPid:\t{}", strace.pid());
    eventually("strace is attached to every thread", || {
        let mut threads = std::fs::read_dir(format!("/proc/{}/task", bed.proxy.pid())).unwrap();
        let status = |thread: &DirEntry| std::fs::read_to_string(thread.path().join("status")).unwrap();
        threads.all(|thread| status(&thread.unwrap()).lines().any(|line| line == tracer)).then_some(())
    });
    let mut waiting = bed.connect();
    waiting.write_all(b"GET /waiting HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    // The scrape is refused, too, as long as it lasts: so the log is asked.
    let _ = bed.proxy.said("accepting connections rests");
    drop(strace);
    assert!(read_all(&mut waiting).starts_with("HTTP/1.1 200 "), "what waited is served");
    let after = bed.proxy.metric_until("remora_accept_pauses_total", &[], |count| count > pauses);
    assert!(after < pauses + 2_000.0, "accepting rests between two tries: {after}");
}

fn streams_beyond_the_files(bed: &Bed) {
    let mut h2 = bed.h2();
    let asked: Vec<u32> = (0..400).map(|_| h2.ask(&get("/silent"))).collect();
    // A status that was answered before is an index of the dynamic table.
    assert!(matches!(h2.outcome(asked[399]), Outcome::Answer(_)), "who finds no file is told");
    bed.proxy.metric_until(OVERLOADED.0, OVERLOADED.1, |count| count >= 300.0);
    assert!(!bed.origin.seen("/silent").is_empty(), "others are under way");
    assert!(bed.open_files() < 80);
    for _ in 0..10 {
        assert!(bed.proxy.is_ready());
        let answer = bed.answer_to(b"GET /other HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    }
    assert!(h2.settled(), "and all the while it goes on");
}

fn log_sinks(bed: &Bed) {
    for _ in 0..300 {
        let answer = bed.answer_to(b"GET /logged HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
        let refused = bed.answer_to(b"GET bad HTTP/1.1\r\n\r\n");
        assert!(refused.starts_with("HTTP/1.1 400 "), "{refused:?}");
    }
    bed.proxy.metric_until("remora_access_log_dropped_total", &[], |count| count > 0.0);
    let mut asked = 0;
    while bed.proxy.metric("remora_log_dropped_total", &[]) == 0.0 {
        asked += 1;
        assert!(asked < 20_000, "the log takes everything");
        let mut h2 = bed.h2();
        let id = h2.ask(&get("/logged"));
        assert_eq!(h2.outcome(id), Outcome::Answer(200));
    }
}

fn packet_loss(bed: &Bed) {
    let origin = Origin::start(&bed.server, bed.server.at(8083));
    let exchange = |path: &str, size: usize| {
        let head = format!(
            "POST {path}/big/{size} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n"
        );
        let answer = bed.answer_to(&[head.as_bytes(), &vec![b'u'; size]].concat());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(body.len() == size && body.bytes().all(|byte| byte == b'o'), "{} bytes", body.len());
    };
    let drop_some = |pod: &Pod, action: &str, more: &[&str], share: &str| {
        let mut command = pod.command(tool("iptables"));
        command.args(["-w", action, "INPUT", "-p", "tcp"]).args(more);
        run(command.args(["-m", "statistic", "--mode", "random", "--probability", share, "-j", "DROP"])).unwrap();
    };
    for share in ["0.05", "0.15", "0.3"] {
        drop_some(&bed.attacker, "-A", &[], share);
        drop_some(&bed.server, "-A", &["--dport", "8083"], share);
        for _ in 0..3 {
            exchange("", 20_000);
            exchange("/lossy", 20_000);
        }
        drop_some(&bed.attacker, "-D", &[], share);
        drop_some(&bed.server, "-D", &["--dport", "8083"], share);
    }
    let tbf = ["qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "1mbit", "burst", "32kbit", "latency", "400ms"];
    run(bed.attacker.command(tool("tc")).args(tbf)).unwrap();
    exchange("", 100_000);
    run(bed.attacker.command(tool("tc")).args(["qdisc", "del", "dev", "eth0", "root"])).unwrap();
    let seen = origin.seen("/big");
    assert!(seen.len() == 9 && seen.iter().all(|seen| seen.body == vec![b'u'; 20_000]), "{}", seen.len());
    for path in ["", "/lossy"] {
        exchange(path, 1_000);
    }
    origin.assert_strict("packet-loss");
}

fn address_families(bed: &Bed) {
    // The bed's own pod has both, and its sidecar counts what comes by either.
    for at in [bed.server.at(9105), bed.server.at6(9105)] {
        let (metric, labels) = TCP;
        let counted = bed.proxy.metric(metric, labels);
        serve_at(&bed.server, at, |mut stream| stream.write_all(b"220 hello\r\n").unwrap());
        assert_eq!(read_all(&mut connect(&bed.attacker, at)), "220 hello\r\n", "{at}");
        bed.proxy.metric_until(metric, labels, |count| count >= counted + 1.0);
    }
    let served = |pod: &Pod, to: SocketAddr| {
        let answer = {
            let mut stream = connect(&bed.attacker, to);
            stream.write_all(b"GET /family HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
            read_all(&mut stream)
        };
        assert!(answer.starts_with("HTTP/1.1 200 "), "{} at {to}: {answer:?}", pod.name());
    };
    let start = |pod: &Pod, at: &[SocketAddr]| {
        let origins: Vec<_> = at.iter().map(|at| Origin::start(pod, *at)).collect();
        let proxy = pod.plain_sidecar("inbound: {mtls: off}");
        at.iter().for_each(|at| served(pod, *at));
        assert_eq!(origins.iter().map(|origin| origin.seen("/family").len()).sum::<usize>(), at.len());
        assert_eq!(
            proxy.metric("remora_requests_total", &[("direction", "inbound"), ("code", "200")]),
            at.len() as f64
        );
    };
    // The same of a gateway, which has addresses of its own and an endpoint in each family.
    let front = |pod: &Pod, at: &[SocketAddr]| {
        let beside = |at: &SocketAddr| SocketAddr::new(at.ip(), 8090);
        let origins: Vec<_> = at.iter().map(|at| Origin::start(pod, beside(at))).collect();
        let list = |all: Vec<SocketAddr>| all.iter().map(|at| format!("\"{at}\"")).collect::<Vec<_>>().join(", ");
        let (listen, endpoints) = (list(at.to_vec()), list(at.iter().map(beside).collect()));
        let proxy = pod.proxy(&format!("gateway: {{listen: [{listen}], routes: [{{endpoints: [{endpoints}]}}]}}\n"));
        proxy.ready();
        // Each way in more than once, so that each endpoint is chosen.
        (0..8).for_each(|_| at.iter().for_each(|at| served(pod, *at)));
        assert!(origins.iter().all(|origin| !origin.seen("/family").is_empty()), "{at:?}");
    };
    for (role, start) in [("pod", &start as &dyn Fn(&Pod, &[SocketAddr])), ("front", &front)] {
        let without_v6 = bed.mesh.pod(&format!("{role}-without6"));
        without_v6.enter(|| std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")).unwrap();
        start(&without_v6, &[without_v6.at(8080)]);
        let only_v6 = bed.mesh.pod(&format!("{role}-only6"));
        run(only_v6.command(tool("ip")).args(["-4", "address", "flush", "dev", "eth0"])).unwrap();
        start(&only_v6, &[only_v6.at6(8080)]);
        let dual = bed.mesh.pod(&format!("{role}-dual"));
        start(&dual, &[dual.at(8080), dual.at6(8080)]);
    }
}
