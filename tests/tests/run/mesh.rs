//! Two runs: mTLS between them, by name.

use remora_test::eventually;
use remora_test::netns::tool;

use crate::host::{Host, path, printed};

#[test]
fn two_runs_talk_mtls_by_name() {
    let host = Host::new();
    let _api = host.serve("api", &["--port", "8080", "--mtls", "strict"]);
    let capture = host.mesh.folder().join("capture");
    let mut tcpdump = host.command(tool("tcpdump"));
    tcpdump
        .args(["-i", "remora0", "-s0", "-U", "--immediate-mode", "-Z", "root", "-w"])
        .arg(&capture)
        .arg("tcp port 8080");
    let dump = host.pod.process("tcpdump", &mut tcpdump);
    let _ = dump.said("listening on");

    let curl = path("curl");
    let output = host.run(&[], &[&curl, "-sS", "--fail", "-H", "x-open: plain-to-see", "http://api:8080/name"]);
    assert_eq!(printed(&output), "api");

    let metrics = host.metrics("api");
    assert_eq!(metrics.sum("remora_tls_handshakes_total", &[("side", "server")]), 1.0);
    assert_eq!(metrics.sum("remora_requests_total", &[("direction", "inbound")]), 1.0);
    // What is plaintext is seen; and once this is, all that came before it has been.
    assert!(host.get((host.address("api"), 8080).into(), "/the-end").is_none());
    let holds = |wire: &[u8], text: &str| wire.windows(text.len()).any(|window| window == text.as_bytes());
    let wire = eventually("the last words on the wire", || {
        std::fs::read(&capture).ok().filter(|wire| holds(wire, "/the-end"))
    });
    assert!(holds(&wire, "remora-h2"), "the handshake was not captured");
    assert!(!holds(&wire, "plain-to-see") && !holds(&wire, "/name"), "plaintext on the wire");
}

#[test]
fn strict_takes_nothing_from_without() {
    let host = Host::new();
    let _api = host.serve("api", &["--port", "8080", "--mtls", "strict"]);
    let answer = host.get((host.address("api"), 8080).into(), "/name");
    assert!(answer.is_none(), "{answer:?}");
    let refused = host.metrics("api").sum("remora_connections_refused_total", &[("reason", "plaintext")]);
    assert_eq!(refused, 1.0);
}

#[test]
fn who_comes_later_is_known_at_once_and_who_goes_is_forgotten() {
    let host = Host::new();
    let script = "until curl -sf http://api:8080/name; do sleep 0.1; done; echo; while getent hosts api >/dev/null; do sleep 0.1; done; echo gone";
    let mut caller = host.start(&["--name", "caller"], &["sh", "-c", script]);
    // Strict: the caller's sidecar must have learnt of it while it ran.
    let mut api = host.serve("api", &["--port", "8080", "--mtls", "strict"]);
    let _ = caller.printed("api");
    // Killed, so that it cannot say goodbye.
    api.signal(nix::sys::signal::Signal::SIGKILL);
    api.wait();
    let _ = caller.printed("gone");
    assert_eq!(caller.wait().code(), Some(0), "{}", caller.stderr());
}

#[test]
fn the_file_of_config_goes_into_the_sidecars_configuration() {
    let host = Host::new();
    let _api = host.serve("api", &["--port", "8080"]);
    let (file, address) = (host.mesh.folder().join("more.yaml"), host.address("api"));
    let text =
        format!("outbound:\n  - host: shop:80\n    addresses: [192.0.2.1]\n    endpoints: [\"{address}:8080\"]\n");
    std::fs::write(&file, text).unwrap();
    let output =
        host.run(&["--config", file.to_str().unwrap()], &[&path("curl"), "-sS", "--fail", "http://192.0.2.1/name"]);
    assert_eq!(printed(&output), "api");
}
