//! How it starts, says what is wrong, is watched, and ends.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use remora_test::authority::{Authority, join_token, script, with_ca};
use remora_test::binaries::binary;
use remora_test::eventually;
use remora_test::mesh::Folder;
use remora_test::netns::{run, tool};
use serde_json::{Value, json};

use crate::ask::{ask, ask_all, csr, question};

/// A client that follows the trust bundle.
pub(crate) fn follow(
    authority: &Authority,
    roots: &std::path::Path,
    count: usize,
) -> (Child, impl Iterator<Item = Value> + use<>) {
    let mut client = script("authority.py", &[]);
    let mut child = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let more = json!({"watch": true, "count": count});
    let ask = question(authority, roots, "", None, &more);
    child.stdin.take().unwrap().write_all(ask.to_string().as_bytes()).unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()))
}

#[test]
fn it_says_which_file_and_why_when_it_cannot_start() {
    let (folder, ca) = with_ca();
    let empty = Folder::new();
    let fails = |ca: &std::path::Path, arguments: &[&str], part: &str| {
        let (mut process, _) = Authority::launch(folder.path(), ca, arguments);
        assert_eq!(process.wait().code(), Some(1), "{part}");
        assert!(process.stderr().contains(part), "{part}: {}", process.stderr());
    };
    fails(empty.path(), &["--join-tokens"], empty.path().to_str().unwrap());
    fails(&empty.path().join("none"), &["--join-tokens"], "none");
    fails(&ca, &[], "--join-tokens");
    let oidc = ["--oidc-issuer", "https://issuer.example", "--oidc-jwks"];
    fails(&ca, &[&oidc[..], &["/nowhere/jwks.json"]].concat(), "/nowhere/jwks.json");
    fails(&ca, &[&oidc[..], &["http://192.0.2.1/keys"]].concat(), "loopback");
    let broken = folder.path().join("broken.json");
    std::fs::write(&broken, "{").unwrap();
    fails(&ca, &[&oidc[..], &[broken.to_str().unwrap()]].concat(), "broken.json");
    fails(&ca, &["--kubernetes", "--kubeconfig", "/nowhere/config"], "/nowhere/config");
    fails(&ca, &["--join-tokens", "--dns-name", "a b"], "a b");
    fails(&ca, &["--join-tokens", "--trust-domain", "other.example"], "other.example");

    let authority = Authority::start(folder.path(), &ca, &["--join-tokens"]);
    let taken = authority.grpc.to_string();
    fails(&ca, &["--join-tokens", "--listen", &taken], &taken);

    std::fs::write(ca.join("state.json"), "{").unwrap();
    fails(&ca, &["--join-tokens"], "state.json");
    std::fs::remove_file(ca.join("state.json")).unwrap();
    std::fs::write(ca.join("intermediate-key.pem"), "nonsense").unwrap();
    fails(&ca, &["--join-tokens"], ca.to_str().unwrap());
}

#[test]
fn operators_see_its_state() {
    let (folder, ca) = with_ca();
    let authority = Authority::start(folder.path(), &ca, &["--join-tokens"]);
    assert_eq!(authority.ask("/ready"), (200, "ready\n".to_owned()));
    assert_eq!(authority.ask("/healthz").0, 200);
    assert_eq!(authority.ask("/nothing").0, 404);
    let metrics = authority.metrics();
    assert!(metrics.sum("remora_ca_signer_expiry_timestamp_seconds", &[]) > 1.7e9);
    assert!(metrics.sum("remora_ca_bundle_version", &[]) >= 1.0);
    let promtool = tool("promtool");
    if !promtool.is_absolute() {
        println!("SKIPPED promtool: not installed (Debian: prometheus)");
        return;
    }
    let mut promtool = Command::new(promtool);
    let mut child = promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(authority.ask("/metrics").1.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_state_that_cannot_be_used_is_reported_while_the_old_one_serves_on() {
    let (folder, ca) = with_ca();
    let authority = Authority::start(folder.path(), &ca, &["--join-tokens"]);
    let token = join_token(&ca, "spiffe://example.org/ns/shop/sa/cart", "10m");
    let good = std::fs::read(ca.join("intermediate.pem")).unwrap();
    std::fs::write(ca.join("intermediate.pem"), "half").unwrap();
    let reason = eventually("/ready says no", || {
        let (status, body) = authority.ask("/ready");
        (status == 503).then_some(body)
    });
    assert!(reason.contains("intermediate.pem"), "{reason}");
    assert_eq!(authority.metrics().sum("remora_ca_reload_failures_total", &[]), 1.0);
    let answer = ask(&authority, &ca.join("bundle.pem"), &csr(folder.path()), Some(&token), &json!({}));
    assert_eq!(answer.code, "OK", "{answer:?}");
    std::fs::write(ca.join("intermediate.pem"), good).unwrap();
    eventually("/ready says yes", || (authority.ask("/ready").0 == 200).then_some(()));
}

#[test]
fn calls_under_way_are_finished_when_it_is_told_to_end() {
    let folder = Folder::new();
    let output = run(&mut script("tokens.py", &[folder.path().to_str().unwrap()])).unwrap();
    let tokens: Value = serde_json::from_slice(&output.stdout).unwrap();
    let jwks = folder.path().join("jwks.json");
    let (_ca_folder, ca) = with_ca();
    let oidc = ["--oidc-issuer", "https://issuer.example", "--oidc-jwks", jwks.to_str().unwrap()];
    let mut authority = Authority::start(folder.path(), &ca, &[&oidc[..], &["--rate", "1000000"]].concat());
    let (request, roots) = (csr(folder.path()), ca.join("bundle.pem"));
    let (watcher, mut bundles) = follow(&authority, &roots, 2);
    assert_eq!(bundles.next().unwrap()["trust_domain"], "example.org");

    let answers = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let token = tokens["es256"].as_str();
            ask_all(&authority, &roots, &request, token, &json!({"times": 3000}))
        });
        let issued = || authority.metrics().sum("remora_ca_certificates_issued_total", &[]);
        eventually("the first certificates", || (issued() >= 1.0).then_some(()));
        authority.process.signal(Signal::SIGTERM);
        asking.join().unwrap()
    });
    assert!(authority.process.wait().success(), "{}", authority.process.stderr());
    assert!(!authority.process.stderr().contains("they are cut"));
    let good = answers.iter().filter(|answer| answer.code == "OK").count();
    let journal = std::fs::read_to_string(ca.join("issued.jsonl")).unwrap();
    // The HTTP/2 library ends the connection of a client that, before it has read the last GOAWAY, opens a stream and widens
    // its window: answers on the way are lost then, those of one connection at most. Nothing is handed out unrecorded.
    let recorded = journal.lines().count();
    assert!((good..=good + 64).contains(&recorded), "{recorded} recorded, {good} handed out");
    assert!((1..3000).contains(&good), "{good} of 3000: it ended in the middle");
    assert!(answers.iter().all(|answer| ["OK", "UNAVAILABLE"].contains(&&*answer.code)));
    let output = watcher.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("the authority is restarting"));
}

#[test]
fn a_new_process_may_start_before_the_old_one_ends() {
    let (folder, ca) = with_ca();
    let mut old = Authority::start(folder.path(), &ca, &["--join-tokens", "--reuse-port"]);
    let (grpc, admin) = (old.grpc.to_string(), old.admin.to_string());
    let arguments = ["--join-tokens", "--reuse-port", "--listen", &grpc, "--admin", &admin];
    let new = Authority::start(folder.path(), &ca, &arguments);
    assert_eq!(new.grpc, old.grpc);
    old.stop();
    let token = join_token(&ca, "spiffe://example.org/ns/shop/sa/cart", "10m");
    let answer = ask(&new, &ca.join("bundle.pem"), &csr(folder.path()), Some(&token), &json!({}));
    assert_eq!(answer.code, "OK", "{answer:?}");
    new.process.signal(Signal::SIGINT);
    let Authority { mut process, .. } = new;
    assert!(process.wait().success());
}

#[test]
fn clients_that_do_not_shake_hands_hold_nobody_up() {
    let (folder, ca) = with_ca();
    let authority = Authority::start(folder.path(), &ca, &["--join-tokens", "--max-connections", "3"]);
    let idle: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(authority.grpc).unwrap()).collect();
    let connections = || authority.metrics().sum("remora_ca_connections", &[]);
    eventually("all slots are taken", || (connections() >= 3.0).then_some(()));
    let mut refused = std::net::TcpStream::connect(authority.grpc).unwrap();
    refused.set_read_timeout(Some(remora_test::PATIENCE)).unwrap();
    assert_eq!(std::io::Read::read(&mut refused, &mut [0; 1]).unwrap(), 0, "beyond the bound it is closed at once");
    let token = join_token(&ca, "spiffe://example.org/ns/shop/sa/cart", "10m");
    // They are let go after the handshake's bound, whatever they do.
    eventually("the slots are free again", || (connections() == 0.0).then_some(()));
    let answer = ask(&authority, &ca.join("bundle.pem"), &csr(folder.path()), Some(&token), &json!({}));
    assert_eq!(answer.code, "OK", "{answer:?}");
    drop(idle);
}

#[test]
fn a_client_that_says_nothing_is_let_go_and_one_that_watches_is_not() {
    let (folder, ca) = with_ca();
    let authority = Authority::start(folder.path(), &ca, &["--join-tokens"]);
    let (mut watcher, mut bundles) = follow(&authority, &ca.join("bundle.pem"), 2);
    assert_eq!(bundles.next().unwrap()["version"], 1);
    let mut silent = Command::new("openssl")
        .args(["s_client", "-quiet", "-alpn", "h2", "-connect", &authority.grpc.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let connections = || authority.metrics().sum("remora_ca_connections", &[]);
    eventually("both are connected", || (connections() == 2.0).then_some(()));
    // After the handshake, without any HTTP/2.
    eventually("the silent one is let go", || (connections() == 1.0).then_some(()));
    silent.wait().unwrap();
    let mut rotate = Command::new(binary("remora-certs"));
    run(rotate.args(["rotate", "root", "--step", "start", "--dir"]).arg(&ca)).unwrap();
    assert_eq!(bundles.next().unwrap()["version"], 2, "on the same connection");
    assert!(watcher.wait().unwrap().success());
}

#[test]
fn a_certificate_that_ended_a_moment_ago_renews_whatever_was_restarted_meanwhile() {
    let (folder, ca) = with_ca();
    let arguments = ["--join-tokens", "--max-ttl", "1s"];
    let authority = Authority::start(folder.path(), &ca, &arguments);
    let token = join_token(&ca, "spiffe://example.org/ns/shop/sa/cart", "10m");
    let roots = ca.join("bundle.pem");
    let first = ask(&authority, &roots, &csr(folder.path()), Some(&token), &json!({}));
    assert_eq!(first.code, "OK", "{first:?}");
    drop(authority);

    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("used-key.pem"));
    std::fs::write(&cert, first.chain.split_last().unwrap().1.concat()).unwrap();
    std::fs::rename(folder.path().join("key.pem"), &key).unwrap();
    eventually("the certificate has ended", || {
        let ends = Command::new("openssl").args(["x509", "-checkend", "0", "-noout", "-in"]).arg(&cert).output();
        (!ends.unwrap().status.success()).then_some(())
    });
    let authority = Authority::start(folder.path(), &ca, &arguments);
    let second = ask(&authority, &roots, &csr(folder.path()), None, &json!({"cert": cert, "key": key}));
    assert_eq!(second.code, "OK", "{second:?}");
}
