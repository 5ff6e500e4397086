//! A proxy's own life: ready, reloaded, drained.

use nix::sys::signal::Signal;
use remora_test::eventually;
use remora_test::mesh::Mesh;

use crate::pair::{Pair, Plan, entry};
use crate::wire::Wire;

#[test]
fn one_of_three_replicas_leaves_under_load_and_nobody_notices() {
    let mesh = Mesh::new();
    let mut replicas = Vec::new();
    for name in ["a", "b", "c"] {
        let pod = mesh.pod(name);
        let app = pod.peer("http", 8080, &["--delay", "2"]);
        // The drain alone, without callers being given time to learn of it.
        let sidecar = pod.sidecar("lame_duck: 0\ninbound: {mtls: strict}");
        replicas.push((pod, app, sidecar));
    }
    let client = mesh.pod("client");
    let endpoints: Vec<_> = replicas.iter().map(|(pod, ..)| pod.at(8080)).collect();
    let outbound = client.sidecar(&entry(8080, &endpoints, ", balance: round_robin"));
    let load = client.start_h2load(&["-n", "6000", "-c", "4", "-m", "10", "http://10.96.0.10:8080/name"]);
    let h1 = client.start_h2load(&["--h1", "-n", "3000", "-c", "10", "http://10.96.0.10:8080/name"]);
    let (_, _, leaving) = &mut replicas[1];
    let inbound = [("direction", "inbound"), ("code", "200")];
    leaving.metric_until("remora_requests_total", &inbound, |n| n >= 200.0);
    leaving.terminate();
    assert_eq!(leaving.wait().code(), Some(0), "a clean drain");
    load.finish().assert_clean(6_000);
    h1.finish().assert_clean(3_000);
    assert_eq!(outbound.metric("remora_requests_total", &[("code", "200")]), 9_000.0);
}

#[test]
fn what_is_in_flight_ends_well() {
    let mut pair = Pair::start(Plan { both: "lame_duck: 0", ..Plan::default() });
    let mut requests: Vec<_> = ["--http1.1", "--http2-prior-knowledge"]
        .map(|flag| {
            let mut command = pair.client.user(remora_test::netns::tool("curl"));
            command.args(["-sS", "-w", " %{http_code}", flag, &pair.url("/delay/1500")]);
            pair.client.process("curl", &mut command)
        })
        .into();
    let active = [("direction", "inbound")];
    pair.inbound.metric_until("remora_requests_active", &active, |n| n == 2.0);
    pair.inbound.terminate();
    eventually("readiness is withdrawn", || (!pair.inbound.is_ready()).then_some(()));
    assert!(pair.inbound.ended().is_none(), "it waits for what is in flight");
    let open = pair.inbound.admin("/connections?format=json").json();
    let waited_for =
        open.as_array().unwrap().iter().filter(|open| open["peer"] == "spiffe://example.org/ns/test/sa/client");
    assert_eq!(waited_for.map(|open| open["active"].as_u64().unwrap()).sum::<u64>(), 2, "and says for whom: {open}");
    for request in &mut requests {
        assert!(request.wait().success());
        assert_eq!(request.stdout(), "server 200");
    }
    assert_eq!(pair.inbound.wait().code(), Some(0));
}

#[test]
fn a_drain_has_an_end_and_a_second_signal_ends_it_now() {
    for (timeout, second) in [("300ms", false), ("10m", true)] {
        let mut pair =
            Pair::start(Plan { both: &format!("drain_timeout: {timeout}\nlame_duck: 0"), ..Plan::default() });
        let mut command = pair.client.user(remora_test::netns::tool("curl"));
        let _request = pair.client.process("curl", command.args(["-sS", &pair.url("/silent")]));
        pair.inbound.metric_until("remora_requests_active", &[("direction", "inbound")], |n| n == 1.0);
        pair.inbound.terminate();
        if second {
            eventually("the drain begins", || (!pair.inbound.is_ready()).then_some(()));
            pair.inbound.signal(Signal::SIGINT);
        }
        pair.inbound.wait();
    }
}

#[test]
fn who_has_not_heard_of_the_end_is_still_served() {
    let plan = Plan { inbound: "{mtls: permissive}", both: "lame_duck: 10m\ndrain_timeout: 20m", ..Plan::default() };
    let mut pair = Pair::start(plan);
    let stranger = pair.mesh.pod("stranger");
    // Of every worker, and more than one of each.
    let mut kept: Vec<_> = (0..32).map(|_| Wire::open(&stranger, pair.server.at(8080))).collect();
    for wire in &mut kept {
        assert_eq!(wire.get("/name", &[]).header("connection"), None);
    }
    pair.inbound.terminate();
    eventually("readiness is withdrawn", || (!pair.inbound.is_ready()).then_some(()));
    // One after the other: the last asks again only when all the others have ended.
    for wire in &mut kept {
        let last = eventually("an answer that says that it is the last", || {
            let answer = wire.get("/name", &[]);
            assert_eq!((answer.code, answer.body.as_str()), (200, "server"));
            answer.header("connection").map(str::to_owned)
        });
        assert_eq!((last.as_str(), wire.rest()), ("close", Vec::new()), "it ends with an answer, not between two");
    }
    for _ in 0..3 {
        let answer = Wire::open(&stranger, pair.server.at(8080)).get("/name", &[]);
        assert_eq!((answer.code, answer.body.as_str()), (200, "server"));
    }
    assert_eq!(pair.client.curl(&[&pair.url("/name")]).code, 200);
    assert!(pair.inbound.ended().is_none());
    pair.inbound.signal(Signal::SIGINT);
    assert_eq!(pair.inbound.wait().code(), Some(0), "a second signal does not wait for the others' ignorance");
}

#[test]
fn after_the_lame_duck_only_the_application_may_call_and_the_last_connection_ends_it() {
    let plan = Plan { inbound: "{mtls: permissive}", both: "lame_duck: 500ms\ndrain_timeout: 10m", ..Plan::default() };
    let mut pair = Pair::start(plan);
    let _callee = pair.client.peer("http", 9_090, &[]);
    let stranger = pair.mesh.pod("stranger");
    let mut wire = Wire::open(&stranger, pair.server.at(8080));
    wire.send("POST /work HTTP/1.1\r\nhost: server:8080\r\ncontent-length: 5\r\n\r\n");
    pair.inbound.metric_until("remora_requests_active", &[("direction", "inbound")], |n| n == 1.0);
    pair.inbound.terminate();
    eventually("the inbound listener closes", || (!pair.server.listens(15_006)).then_some(()));
    assert!(
        remora_test::sidecar::ask(&stranger, pair.server.at(8080), "GET", "/name").is_none(),
        "nobody new comes in"
    );
    // The application finishes its work, and may need others for it.
    let late = pair.server.curl(&[&format!("http://{}/name", pair.client.at(9_090))]);
    // And not be told to close what it keeps for itself.
    assert_eq!((late.code, late.body.as_str(), late.header("connection")), (200, "client", None));
    assert!(pair.inbound.ended().is_none(), "a request is under way");
    wire.send("hello");
    let answer = wire.answer();
    assert_eq!((answer.code, answer.header("connection")), (200, Some("close")), "{answer:?}");
    assert_eq!(pair.inbound.wait().code(), Some(0), "long before the drain's timeout");
}

#[test]
fn the_application_may_end_its_sidecar() {
    let mesh = Mesh::new();
    let pod = mesh.pod("pod");
    let mut proxy = pod.proxy("service: pod\nlame_duck: 0\n");
    proxy.ready();
    assert_eq!(proxy.ask("GET", 15_000, "/quitquitquit").unwrap().code, 405);
    assert_eq!(proxy.ask("POST", 15_000, "/quitquitquit").unwrap().code, 200);
    assert_eq!(proxy.wait().code(), Some(0));
    let _ = proxy.said("/quitquitquit");
}

#[test]
fn a_hook_waits_until_the_sidecar_is_ready() {
    let mesh = Mesh::new();
    let pod = mesh.pod("pod");
    let wait = |timeout: &str| {
        let mut command = pod.command_as(1337, 1337, "/usr/bin/env");
        // As in a container, whose variables are the sidecar's own.
        command.args(["REMORA_CONFIG=/nowhere", "REMORA_LOG=info"]).arg(remora_test::binaries::binary("remora-proxy"));
        command.args(["wait", "--timeout", timeout]).output().unwrap()
    };
    let nobody = wait("200ms");
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert_eq!(nobody.status.code(), Some(1), "{said}");
    assert!(said.contains("not ready within 200ms") && said.contains("refused"), "{said}");

    // It cannot be ready: its files are not there yet.
    let proxy = pod.proxy(&pod.config(""));
    let _ = proxy.said("waiting for identity");
    let waiting = wait("200ms");
    let said = String::from_utf8_lossy(&waiting.stderr).into_owned();
    assert_eq!(waiting.status.code(), Some(1), "{said}");
    assert!(said.contains("waiting for identity") && said.contains("cert.pem"), "{said}");

    let hook = std::thread::scope(|scope| {
        let hook = scope.spawn(|| wait("60s"));
        pod.identity();
        hook.join().unwrap()
    });
    assert_eq!((hook.status.code(), hook.stderr.as_slice()), (Some(0), &[][..]));
    assert!(proxy.is_ready());
}

#[test]
fn readiness_is_said_once_and_asked_of_three_places() {
    let pair = Pair::usual();
    for (port, path) in [(15_021, "/healthz/ready"), (15_020, "/healthz/ready"), (15_000, "/ready")] {
        let answer = pair.inbound.ask("GET", port, path).unwrap();
        assert_eq!((answer.code, answer.body.trim()), (200, "ready"), "{port}{path}");
    }
    let lines = pair.inbound.stderr().lines().filter(|line| line.contains(" ready")).count();
    assert_eq!(lines, 1, "{}", pair.inbound.stderr());
}

#[test]
fn logs_are_json_when_asked_for() {
    let mesh = Mesh::new();
    let pod = mesh.pod("pod");
    let proxy = pod.proxy_with("service: pod\n", &[("REMORA_LOG_FORMAT", "json"), ("REMORA_LOG", "debug")]);
    proxy.ready();
    let _ = proxy.said("ready");
    let log = proxy.stderr();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["level"] == "INFO"), "{log}");
}

#[test]
fn a_bad_reload_keeps_the_last_good_configuration_and_says_so() {
    let pair = Pair::usual();
    let good = std::fs::read_to_string(pair.outbound.file()).unwrap();
    let failed = [("result", "failed")];
    // The file is seen while it is written: half of it, or nothing yet.
    for cut in [good.find("endpoints:").unwrap() + 14, 0] {
        let before = pair.outbound.metric("remora_config_reloads_total", &failed);
        pair.outbound.configure(&good[..cut]);
        pair.outbound.metric_until("remora_config_reloads_total", &failed, |n| n > before);
        assert_eq!(pair.client.curl(&[&pair.url("/name")]).code, 200);
    }
    let before = pair.outbound.metric("remora_config_reloads_total", &failed);
    pair.outbound.configure(&good.replace("endpoints:", "endpionts:"));
    pair.outbound.metric_until("remora_config_reloads_total", &failed, |n| n > before);
    let line = pair.outbound.said("endpionts");
    assert!(line.contains("endpoints"), "with a suggestion: {line}");
    let info = pair.outbound.admin("/server_info").json();
    assert!(info["configuration_rejected"].as_str().is_some_and(|told| told.contains("endpionts")), "{info}");
    assert_eq!(pair.client.curl(&[&pair.url("/name")]).code, 200, "the last good one serves");
    assert!(pair.outbound.admin("/config_dump").body.contains("server:8080"));
    // Asked by a signal it reads the same once more.
    let before = pair.outbound.metric("remora_config_reloads_total", &failed);
    pair.outbound.signal(Signal::SIGHUP);
    pair.outbound.metric_until("remora_config_reloads_total", &failed, |n| n > before);
    assert_eq!(pair.client.curl(&[&pair.url("/name")]).code, 200);

    let other = pair.mesh.pod("other");
    let _app = other.peer("http", 8080, &[]);
    let _inbound = other.sidecar("inbound: {mtls: strict}");
    let applied = pair.outbound.metric("remora_config_reloads_total", &[("result", "applied")]);
    let moved = good.replace(&pair.server.v4().to_string(), &other.v4().to_string());
    assert_ne!(moved, good);
    pair.outbound.configure(&moved);
    pair.outbound.metric_until("remora_config_reloads_total", &[("result", "applied")], |n| n > applied);
    assert!(pair.outbound.admin("/server_info").json()["configuration_rejected"].is_null());
    eventually("the new endpoint answers", || (pair.client.curl(&[&pair.url("/name")]).body == "other").then_some(()));
}

#[test]
fn a_sidecar_that_is_killed_starts_again_on_its_ports() {
    let mut pair = Pair::usual();
    for _ in 0..2 {
        for inbound in [true, false] {
            let (pod, killed) = match inbound {
                true => (&pair.server, &mut pair.inbound),
                false => (&pair.client, &mut pair.outbound),
            };
            let config = std::fs::read_to_string(killed.file()).unwrap();
            killed.signal(Signal::SIGKILL);
            killed.wait();
            *killed = pod.proxy(&config);
            killed.ready();
            eventually("it serves again", || (pair.client.curl(&[&pair.url("/name")]).code == 200).then_some(()));
            for _ in 0..10 {
                assert_eq!(pair.client.curl(&[&pair.url("/name")]).code, 200, "and goes on to");
            }
        }
    }
}

#[test]
fn a_reload_under_load_loses_no_request() {
    let pair = Pair::usual();
    let sidecars =
        [&pair.outbound, &pair.inbound].map(|sidecar| (sidecar, std::fs::read_to_string(sidecar.file()).unwrap()));
    let url = pair.url("/name");
    let mut http1 = pair.client.start_h2load(&["--h1", "-n", "4000", "-c", "10", &url]);
    let mut http2 = pair.client.start_h2load(&["-n", "4000", "-c", "5", "-m", "4", &url]);
    let mut rounds = 0;
    while http1.running() || http2.running() {
        rounds += 1;
        // A cluster comes and goes, and bounds change.
        let clusters = if rounds % 2 == 0 { "" } else { "clusters: {beside: {endpoints: [\"127.0.0.1:9\"]}}\n" };
        for (sidecar, good) in &sidecars {
            let reloaded = [("result", "applied")];
            let before = sidecar.metric("remora_config_reloads_total", &reloaded);
            let bounds = format!("drain_timeout: {rounds}s\nlimits: {{headers: {}}}\n", 100 + rounds);
            sidecar.configure(&format!("{good}\n{bounds}{clusters}"));
            sidecar.metric_until("remora_config_reloads_total", &reloaded, |n| n > before);
        }
    }
    http1.finish().assert_clean(4_000);
    http2.finish().assert_clean(4_000);
    assert!(rounds >= 1);
}
