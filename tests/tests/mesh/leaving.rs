//! A pod behind a Service's address ends. Callers' pooled connections, which conntrack keeps on it, come to the pod that stays.

use std::io::{Read, Write};
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use remora_test::binaries::binary;
use remora_test::client;
use remora_test::eventually;
use remora_test::mesh::Mesh;
use remora_test::netns::{run, tool};
use remora_test::pod::{PROXY, Pod};
use remora_test::process::Process;
use remora_test::sidecar::{Sidecar, ask};

use crate::pair::{Pair, Plan, entry, service};
use crate::wire::Wire;

/// The Service's own address, led to one pod or another as kube-proxy does: to callers it is one endpoint.
const CLUSTER_IP: &str = "10.97.0.1";

const GET: &str = "GET / HTTP/1.1\r\nhost: server:8080\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nhost: server:8080\r\ncontent-length: 2\r\n\r\nhi";

struct Backend {
    sidecar: Sidecar,
    app: Process,
    pod: Pod,
}

impl Backend {
    fn start(pod: Pod) -> Self {
        let app = pod.peer("http", 8080, &[]);
        Self { sidecar: pod.sidecar("lame_duck: 0\ninbound: {mtls: strict}"), app, pod }
    }

    /// The application ends, and the sidecar has seen its connections to it end.
    fn lose_app(&mut self) {
        self.app.signal(Signal::SIGKILL);
        self.app.wait();
        self.sidecar.metric_until("remora_upstream_connections_active", &[("cluster", "inbound")], |n| n == 0.0);
    }
}

struct Service {
    outbound: Sidecar,
    old: Backend,
    new: Backend,
    client: Pod,
}

impl Service {
    /// Led to the old pod.
    fn start() -> Self {
        let mesh = Mesh::new();
        let (old, new) = (Backend::start(mesh.pod("old")), Backend::start(mesh.pod("new")));
        let client = mesh.pod("client");
        let entry = entry(8080, &[format!("{CLUSTER_IP}:8080").parse().unwrap()], "");
        // With one worker, whoever comes meets the connections of those before.
        let outbound = client.sidecar(&format!("workers: 1\n{entry}"));
        let this = Self { outbound, old, new, client };
        this.iptables("-I", &this.old.pod);
        this
    }

    /// Leads new connections to `pod`; those that are there stay where they are.
    fn lead_to(&self, pod: &Pod) {
        self.iptables("-R", pod);
    }

    fn iptables(&self, action: &str, pod: &Pod) {
        let to = pod.at(8080).to_string();
        let rule = ["-d", CLUSTER_IP, "-p", "tcp", "--dport", "8080", "-j", "DNAT", "--to-destination", &to];
        run(self.client.command(tool("iptables")).args(["-w", "-t", "nat", action, "OUTPUT", "1"]).args(rule)).unwrap();
    }

    /// Connections that the caller's sidecar has made.
    fn hops(&self) -> f64 {
        self.outbound.metric("remora_upstream_connections_total", &[("cluster", "server:8080")])
    }
}

fn leave(pod: &Pod) -> Output {
    pod.command_as(PROXY, PROXY, binary("remora-proxy")).arg("leave").output().unwrap()
}

/// Callers that ask and ask, each on a connection of its own, with and without a body.
struct Callers {
    stop: Arc<AtomicBool>,
    /// The pods that answered, by caller.
    answers: Vec<Arc<Mutex<Vec<String>>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Callers {
    fn start(client: &Pod) -> Self {
        let mut callers = Self { stop: Arc::default(), answers: Vec::new(), threads: Vec::new() };
        for _ in 0..4 {
            let answers = Arc::new(Mutex::new(Vec::new()));
            let (client, stop, seen) = (client.clone(), callers.stop.clone(), answers.clone());
            callers.answers.push(answers);
            callers.threads.push(std::thread::spawn(move || {
                let mut wire = Wire::open(&client, service(8080));
                while !stop.load(Ordering::Relaxed) {
                    for request in [GET, POST] {
                        wire.send(request);
                        let answer = wire.answer();
                        assert_eq!(answer.code, 200, "{answer:?}");
                        seen.lock().unwrap().push(answer.json()["name"].as_str().unwrap().to_owned());
                    }
                }
            }));
        }
        callers
    }

    /// Waits until each caller has had `more` answers of `pod` from now on.
    fn answered(&self, pod: &Pod, more: usize) {
        let of = |answers: &Arc<Mutex<Vec<String>>>| {
            answers.lock().unwrap().iter().filter(|name| *name == pod.name()).count()
        };
        let before: Vec<_> = self.answers.iter().map(of).collect();
        eventually(&format!("each caller is answered by {}", pod.name()), || {
            assert!(self.threads.iter().all(|thread| !thread.is_finished()), "a request failed");
            self.answers.iter().zip(&before).all(|(now, before)| of(now) >= before + more).then_some(())
        });
    }

    /// Whether `pod` has answered anyone.
    fn have_met(&self, pod: &Pod) -> bool {
        self.answers.iter().any(|answers| answers.lock().unwrap().iter().any(|name| name == pod.name()))
    }

    /// Ends them; every request was answered well.
    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

#[test]
fn callers_come_to_the_pod_that_stays_while_the_one_that_leaves_still_serves() {
    let mut service = Service::start();
    let callers = Callers::start(&service.client);
    callers.answered(&service.old.pod, 10);

    let hops = service.hops();
    service.lead_to(&service.new.pod);
    callers.answered(&service.old.pod, 30);
    assert_eq!(service.hops(), hops, "by themselves connections stay where they are");

    // The pod may know that it leaves before everybody's rules do.
    service.lead_to(&service.old.pod);
    let left = leave(&service.old.pod);
    assert_eq!((left.status.code(), left.stderr.as_slice()), (Some(0), &[][..]));
    let cluster = [("cluster", "server:8080")];
    service.outbound.metric_until("remora_upstream_connections_total", &cluster, |n| n >= 3.0 * hops);
    assert!(!callers.have_met(&service.new.pod));
    assert!(service.old.sidecar.is_ready(), "whoever comes is served");

    service.lead_to(&service.new.pod);
    callers.answered(&service.new.pod, 10);
    service.old.lose_app();
    callers.answered(&service.new.pod, 10);
    service.old.sidecar.terminate();
    assert_eq!(service.old.sidecar.wait().code(), Some(0));
    callers.answered(&service.new.pod, 10);
    callers.finish();
    assert_eq!(service.outbound.metric("remora_requests_total", &[("code", "503")]), 0.0);
}

#[test]
fn http1_ends_with_an_answer_and_bytes_go_on() {
    let mut pair = Pair::start(Plan { inbound: "{mtls: permissive}", both: "lame_duck: 0", ..Plan::default() });
    let _echo = pair.server.peer("echo", 7000, &[]);
    let stranger = pair.mesh.pod("stranger");
    let _app = stranger.peer("http", 8080, &[]);
    let mut bytes = stranger.enter(|| std::net::TcpStream::connect(pair.server.at(7000))).unwrap();
    bytes.set_read_timeout(Some(remora_test::PATIENCE)).unwrap();
    let mut echoes = || {
        bytes.write_all(b"\x01ping").unwrap();
        let mut echo = [0; 5];
        bytes.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"\x01ping");
    };
    let mut outgoing = Wire::open(&pair.server, stranger.at(8080));
    let mut wire = Wire::open(&stranger, pair.server.at(8080));
    echoes();
    for wire in [&mut wire, &mut outgoing] {
        assert_eq!(wire.get("/name", &[]).header("connection"), None);
    }

    assert_eq!(leave(&pair.server).status.code(), Some(0));
    let last = eventually("an answer that is the last", || {
        let answer = wire.get("/name", &[]);
        assert_eq!((answer.code, answer.body.as_str()), (200, "server"));
        answer.header("connection").map(str::to_owned)
    });
    assert_eq!(last, "close");
    assert_eq!(wire.rest(), b"");
    eventually("an answer while the connection is young", || {
        Wire::open(&stranger, pair.server.at(8080)).get("/name", &[]).header("connection").is_none().then_some(())
    });
    echoes();
    let answer = outgoing.get("/name", &[]);
    assert_eq!((answer.body.as_str(), answer.header("connection")), ("stranger", None), "the application's own go on");
    drop((bytes, outgoing));
    pair.inbound.terminate();
    assert_eq!(pair.inbound.wait().code(), Some(0));
    let nobody = leave(&pair.server);
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert_eq!(nobody.status.code(), Some(0), "a hook that fails would be an event to look into");
    assert!(said.contains("no proxy at 127.0.0.1:15000"), "{said}");
}

#[test]
fn the_hook_asks_where_the_configuration_puts_the_admin_interface() {
    let mesh = Mesh::new();
    let pod = mesh.pod("pod");
    let admin = pod.at(15_900).to_string();
    let proxy = pod.proxy(&format!("service: pod\nadmin: {{address: \"{admin}\"}}\n"));
    proxy.ready();
    let hook = |variable: &str, arguments: &[&str]| {
        let mut command = pod.command_as(PROXY, PROXY, "/usr/bin/env");
        let command = command.arg(variable).arg(binary("remora-proxy")).arg("leave").args(arguments);
        let Output { status, stderr, .. } = command.output().unwrap();
        (status.code().unwrap(), String::from_utf8(stderr).unwrap())
    };
    let left = "the pod leaves";
    let (code, said) = hook("LANG=C", &[]);
    assert!(code == 0 && said.contains("no proxy at 127.0.0.1:15000"), "{said}");
    let file = proxy.file().to_str().unwrap();
    let (code, said) = hook("LANG=C", &["--config", "/nowhere.yaml"]);
    assert!(code == 2 && said.contains("/nowhere.yaml") && said.contains("No such file"), "{said}");
    let stranger = ask(&mesh.pod("stranger"), pod.at(15_900), "POST", "/leave").unwrap();
    assert_eq!(stranger.code, 403, "{stranger:?}");
    assert!(!proxy.stderr().contains(left));
    for (variable, arguments) in [("LANG=C", &["--config", file][..]), (&format!("REMORA_CONFIG={file}"), &[])] {
        assert_eq!(hook(variable, arguments), (0, String::new()));
        let _ = proxy.said(left);
    }
    proxy.configure("service: pod\nadmin: {address: here}\n");
    let (code, said) = hook("LANG=C", &["--config", file]);
    assert!(code == 2 && said.contains("remora.yaml:2") && said.contains("admin.address"), "{said}");
    assert_eq!(hook("LANG=C", &["--config", file, "--address", &admin]), (0, String::new()));
}

#[test]
fn a_request_that_reached_no_application_finds_the_new_pod() {
    let mut service = Service::start();
    let callers = Callers::start(&service.client);
    callers.answered(&service.old.pod, 10);
    callers.finish();
    service.lead_to(&service.new.pod);
    service.old.lose_app();
    let callers = Callers::start(&service.client);
    callers.answered(&service.new.pod, 10);
    callers.finish();
    // By the pooled connection, the first time.
    let refused = [("direction", "inbound"), ("code", "503"), ("flag", "UF")];
    assert!(service.old.sidecar.metric("remora_requests_total", &refused) >= 1.0);
    assert!(service.outbound.metric("remora_upstream_retries_total", &[("cluster", "server:8080")]) >= 1.0);
    assert_eq!(service.outbound.metric("remora_requests_total", &[("code", "503")]), 0.0);
}

#[test]
fn where_there_is_no_application_at_all_the_caller_is_told() {
    let mut pair = Pair::start(Plan { both: "workers: 1\naccess_log: {filter: all}", ..Plan::default() });
    let grpc = || {
        pair.client.block_on(|| async {
            let mut h2 = client::h2(service(8080)).await.unwrap();
            client::unary(&mut h2, "server:8080", "/test.Echo/Unary", &[]).await.unwrap()
        })
    };
    assert_eq!((pair.client.curl(&[&pair.url("/name")]).code, grpc().status), (200, Some(0)));
    pair.app.signal(Signal::SIGKILL);
    pair.app.wait();
    pair.inbound.metric_until("remora_upstream_connections_active", &[("cluster", "inbound")], |n| n == 0.0);

    let told = |reason: &str| {
        assert!(reason.starts_with("UF ") && reason.contains("server:8080") && reason.contains("refused"), "{reason}");
    };
    let refused = |direction: &str| {
        let sidecar = if direction == "inbound" { &pair.inbound } else { &pair.outbound };
        sidecar.metric("remora_requests_total", &[("direction", direction), ("flag", "UF")])
    };
    let retries = || pair.outbound.metric("remora_upstream_retries_total", &[("cluster", "server:8080")]);
    let answer = pair.client.curl(&[&pair.url("/name")]);
    assert_eq!((answer.code, answer.header("x-remora-hop")), (503, None), "{answer:?}");
    told(answer.header("x-remora-reason").unwrap());
    assert_eq!((refused("inbound"), retries()), (2.0, 1.0), "once more, and no more");
    let answer = pair.client.curl(&["-d", "hi", &pair.url("/name")]);
    assert_eq!((answer.code, answer.header("x-remora-hop")), (503, None), "{answer:?}");
    told(answer.header("x-remora-reason").unwrap());
    let call = grpc();
    assert_eq!((call.http, call.status), (200, Some(14)), "UNAVAILABLE: {call:?}");
    told(&call.message);
    assert_eq!((refused("inbound"), refused("outbound"), retries()), (6.0, 3.0, 3.0), "each once more");
    // Whoever asks on finds no application by another connection either.
    let hops = || pair.outbound.metric("remora_upstream_connections_total", &[("cluster", "server:8080")]);
    let (begun, before) = (Instant::now(), hops());
    for _ in 0..20 {
        assert_eq!(pair.client.curl(&[&pair.url("/name")]).code, 503);
    }
    let (made, seconds) = (hops() - before, begun.elapsed().as_secs_f64());
    assert!(made <= 1.0 + seconds, "{made} connections in {seconds} s");
    let line = pair.outbound.printed(" 503 UF ");
    assert!(line.contains("could not deliver") && line.contains("refused"), "{line}");

    pair.app = pair.server.peer("http", 8080, &[]);
    assert_eq!(pair.client.curl(&[&pair.url("/name")]).code, 200);
}

#[test]
fn an_endpoint_without_its_application_is_asked_less_and_less() {
    let mesh = Mesh::new();
    let (mut dead, alive) = (Backend::start(mesh.pod("dead")), Backend::start(mesh.pod("alive")));
    dead.lose_app();
    let client = mesh.pod("client");
    let endpoints = [dead.pod.at(8080), alive.pod.at(8080)];
    let _outbound = client.sidecar(&format!("workers: 1\n{}", entry(8080, &endpoints, ", balance: round_robin")));
    let (begun, mut wire) = (Instant::now(), Wire::open(&client, service(8080)));
    let mut tries = || {
        assert_eq!(wire.get("/name", &[]).body, "alive");
        dead.sidecar.metric("remora_requests_total", &[("direction", "inbound"), ("flag", "UF")])
    };
    eventually("the third try", || (tries() >= 3.0).then_some(()));
    assert!(begun.elapsed() >= Duration::from_secs(3), "one second, then two: {:?}", begun.elapsed());
}

#[test]
fn no_application_can_say_that_it_was_not_reached() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let _inbound = server.sidecar("inbound: {mtls: permissive}");
    let outbound = client.sidecar(&entry(8080, &[server.at(8080)], ""));
    let listener = server.enter(|| std::net::TcpListener::bind(("0.0.0.0", 8080))).unwrap();
    let application = std::thread::spawn(move || {
        for stream in listener.incoming().take(2) {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            let head = "HTTP/1.1 503 Service Unavailable\r\nx-remora-hop: undelivered\r\ncontent-length: 0\r\n";
            write!(stream, "{head}connection: close\r\n\r\n").unwrap();
        }
    });
    for mtls in [true, false] {
        let config = client.config(&entry(8080, &[server.at(8080)], &format!(", mtls: {mtls}")));
        let applied = [("result", "applied")];
        let before = outbound.metric("remora_config_reloads_total", &applied);
        outbound.configure(&config);
        outbound.metric_until("remora_config_reloads_total", &applied, |n| n > before);
        let answer = client.curl(&["http://10.96.0.10:8080/"]);
        assert_eq!((answer.code, answer.header("x-remora-hop")), (503, None), "{answer:?}");
        assert_eq!(answer.header("x-remora-reason"), None, "it was the application that said so");
    }
    application.join().unwrap();
    assert_eq!(outbound.metric("remora_upstream_retries_total", &[]), 0.0);
}
