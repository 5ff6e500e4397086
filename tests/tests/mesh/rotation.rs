//! Certificates that change under load: files swapped as Kubernetes does, no request lost, new handshakes with the new leaf.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use remora_test::eventually;
use remora_test::mesh::{Mesh, issue, make_authority};
use remora_test::pod::{PROXY, Pod};
use remora_test::sidecar::Sidecar;

use crate::pair::{entry, service};

/// A volume as kubelet writes one: the files are links into `..data`, which is itself a link that is replaced at once.
struct Volume<'a> {
    mesh: &'a Mesh,
    pod: &'a Pod,
    generation: u32,
}

impl<'a> Volume<'a> {
    fn new(mesh: &'a Mesh, pod: &'a Pod) -> Self {
        std::fs::create_dir(pod.tls()).unwrap();
        let mut volume = Self { mesh, pod, generation: 0 };
        volume.swap();
        for name in ["cert.pem", "key.pem", "bundle.pem"] {
            symlink(format!("..data/{name}"), pod.tls().join(name)).unwrap();
        }
        volume
    }

    /// Issues a new SVID and swaps it in.
    fn swap(&mut self) {
        self.generation += 1;
        let name = format!("..generation-{}", self.generation);
        let folder: PathBuf = self.pod.tls().join(&name);
        issue(self.mesh.authority(), &self.pod.id(), &folder, &[]);
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
        chown(&folder, Some(PROXY), Some(PROXY)).unwrap();
        let fresh = self.pod.tls().join("..data_tmp");
        symlink(&name, &fresh).unwrap();
        std::fs::rename(&fresh, self.pod.tls().join("..data")).unwrap();
    }

    /// The serial number of the leaf that is in place, in lower-case hexadecimal without leading zeros or colons.
    fn serial(&self) -> String {
        let file = self.pod.tls().join("cert.pem");
        let output =
            std::process::Command::new("openssl").args(["x509", "-noout", "-serial", "-in"]).arg(file).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        plain(text.trim().trim_start_matches("serial="))
    }
}

/// A serial number without what different tools put around it.
fn plain(serial: &str) -> String {
    serial.replace(':', "").to_lowercase().trim_start_matches('0').to_owned()
}

/// Waits until the sidecar's admin page shows this serial.
fn shows(sidecar: &Sidecar, serial: &str) {
    eventually(&format!("serial {serial} in /certs"), || {
        plain(&sidecar.admin("/certs").body).contains(serial).then_some(())
    });
}

fn echo_once(pod: &Pod) -> std::io::Result<Vec<u8>> {
    let mut stream = pod.enter(|| TcpStream::connect(service(7000)))?;
    stream.write_all(b"\x01ping")?;
    stream.shutdown(Shutdown::Write)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[test]
fn leaves_rotate_under_load_without_a_failed_request() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let (_http, _echo) = (server.peer("http", 8080, &[]), server.peer("echo", 7000, &[]));
    let (mut left, mut right) = (Volume::new(&mesh, &client), Volume::new(&mesh, &server));
    server.redirect();
    client.redirect();
    let inbound = server.proxy(&server.config("inbound: {mtls: strict}"));
    let entries = format!(
        "{}\n{}",
        entry(8080, &[server.at(8080)], ""),
        entry(7000, &[server.at(7000)], "").trim_start_matches("outbound:\n")
    );
    let outbound = client.proxy(&client.config(&entries));
    inbound.ready();
    outbound.ready();

    let mut load = client.start_h2load(&["--h1", "-c", "8", "-D", "600", "http://10.96.0.10:8080/name"]);
    let stop = AtomicBool::new(false);
    let (echoed, lost) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        // Each of these is a connection, and so a handshake, of its own.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                match echo_once(&client) {
                    Ok(bytes) if bytes == b"\x01pingbye from server\n" => echoed.fetch_add(1, Ordering::Relaxed),
                    _ => lost.fetch_add(1, Ordering::Relaxed),
                };
            }
        });
        for _ in 0..6 {
            left.swap();
            right.swap();
            shows(&outbound, &left.serial());
            shows(&inbound, &right.serial());
            let handshakes = || inbound.metric("remora_tls_handshakes_total", &[("side", "server")]);
            let before = handshakes();
            eventually("a handshake with the new leaves", || (handshakes() >= before + 2.0).then_some(()));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(load.running(), "the load lasted through all rotations");
    load.stop();
    let requests = inbound.metric("remora_requests_total", &[("direction", "inbound"), ("code", "200")]);
    let all = inbound.metric("remora_requests_total", &[("direction", "inbound")]);
    assert!(requests >= 1_000.0, "{requests} requests during the rotations");
    assert_eq!(outbound.metric("remora_requests_total", &[("code", "503")]), 0.0);
    // h2load was stopped in the middle of its last eight requests.
    assert!(all - requests <= 8.0, "{requests} of {all} good");
    assert_eq!(lost.into_inner(), 0, "of {} connections", echoed.into_inner());
    for sidecar in [&inbound, &outbound] {
        // A client that hesitated makes the proxy dial twice and drop one: `closed`, which is nobody's loss.
        let metrics = sidecar.metrics();
        let failures = metrics.sum("remora_tls_handshake_failures_total", &[]);
        assert_eq!(failures, metrics.sum("remora_tls_handshake_failures_total", &[("reason", "closed")]));
    }
}

#[test]
fn a_key_that_does_not_fit_changes_nothing() {
    let pair = crate::pair::Pair::usual();
    let applied = pair.inbound.metric("remora_identity_reloads_total", &[("result", "applied")]);
    let other = pair.mesh.folder().join("other");
    issue(pair.mesh.authority(), &pair.server.id(), &other, &[]);
    std::fs::rename(other.join("key.pem"), pair.server.tls().join("key.pem")).unwrap();
    pair.inbound.metric_until("remora_identity_reloads_total", &[("result", "failed")], |n| n >= 1.0);
    let stranger = pair.mesh.pod("second");
    let _second = stranger.sidecar(&entry(8080, &[pair.server.at(8080)], ""));
    assert_eq!(stranger.curl(&["http://10.96.0.10:8080/name"]).code, 200, "a new handshake with the old pair");
    pair.server.identity();
    pair.inbound.metric_until("remora_identity_reloads_total", &[("result", "applied")], |n| n > applied);
}

#[test]
fn a_ticket_does_not_outlive_the_trust_it_was_given_for() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let _echo = server.peer("echo", 7000, &[]);
    let inbound = server.sidecar("inbound: {mtls: strict}");
    let _outbound = client.sidecar(&entry(7000, &[server.at(7000)], ""));
    eventually("a resumed handshake", || {
        assert_eq!(echo_once(&client).unwrap(), b"\x01pingbye from server\n");
        let resumed = [("side", "server"), ("resumed", "true")];
        (inbound.metric("remora_tls_handshakes_total", &resumed) >= 1.0).then_some(())
    });
    // From now on the server trusts another root, and so no longer its client; who has a ticket is asked again, too.
    let other = mesh.folder().join("other-ca");
    make_authority(&other, "example.org");
    let text = std::fs::read_to_string(other.join("root.pem")).unwrap();
    server.write(&server.tls().join("bundle.pem"), &text);
    eventually("the new bundle", || {
        let served = echo_once(&client).is_ok_and(|bytes| !bytes.is_empty());
        (!served).then_some(())
    });
    for _ in 0..5 {
        assert!(!echo_once(&client).is_ok_and(|bytes| !bytes.is_empty()), "served with an old ticket");
    }
    // Whichever was turned away first may have shaken hands before the change, and been drained.
    let failures =
        inbound.metric("remora_tls_handshake_failures_total", &[("side", "server"), ("reason", "unknown_ca")]);
    assert!(failures >= 5.0, "{failures}");
}

#[test]
fn the_root_rotates_by_way_of_a_bundle_with_both() {
    let pair = crate::pair::Pair::usual();
    let other = pair.mesh.folder().join("other-ca");
    make_authority(&other, "example.org");
    let read = |folder: &std::path::Path| std::fs::read_to_string(folder.join("root.pem")).unwrap();
    let (old, new) = (read(pair.mesh.authority()), read(&other));
    let bundle = |text: &str| {
        for (pod, sidecar) in [(&pair.client, &pair.outbound), (&pair.server, &pair.inbound)] {
            let applied = sidecar.metric("remora_identity_reloads_total", &[("result", "bundle")]);
            pod.write(&pod.tls().join("bundle.pem"), text);
            sidecar.metric_until("remora_identity_reloads_total", &[("result", "bundle")], |n| n > applied);
        }
    };
    let mut load = pair.client.start_h2load(&["--h1", "-c", "4", "-D", "600", &pair.url("/name")]);
    bundle(&format!("{old}{new}"));
    for (pod, sidecar) in [(&pair.server, &pair.inbound), (&pair.client, &pair.outbound)] {
        let fresh = pair.mesh.folder().join(format!("fresh-{}", pod.name()));
        issue(&other, &pod.id(), &fresh, &[]);
        let applied = sidecar.metric("remora_identity_reloads_total", &[("result", "applied")]);
        // The key first: a certificate that does not fit yet is looked at again when the other half comes.
        for name in ["key.pem", "cert.pem"] {
            std::fs::rename(fresh.join(name), pod.tls().join(name)).unwrap();
        }
        sidecar.metric_until("remora_identity_reloads_total", &[("result", "applied")], |n| n > applied);
        assert_eq!(pair.client.curl(&[&pair.url("/name")]).code, 200);
    }
    bundle(&new);
    assert_eq!(pair.client.curl(&[&pair.url("/name")]).code, 200);
    assert!(load.running());
    load.stop();
    assert_eq!(pair.outbound.metric("remora_requests_total", &[("code", "503")]), 0.0);
    assert_eq!(pair.inbound.metric("remora_tls_handshake_failures_total", &[("reason", "unknown_ca")]), 0.0);
}
