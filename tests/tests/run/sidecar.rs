//! The sidecar beside the command: without privileges, with an identity that is renewed.

use std::os::unix::fs::MetadataExt;

use remora_test::eventually;

use crate::host::{Host, said};

#[test]
fn it_has_no_privileges() {
    let host = Host::new();
    let _web = host.serve("web", &[]);
    let [sidecar] = host.sidecars()[..] else { panic!("{:?}", host.processes()) };
    let status = std::fs::read_to_string(format!("/proc/{sidecar}/status")).unwrap();
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!((value("Uid"), value("Gid"), value("Groups")), (vec!["1337"; 4], vec!["1337"; 4], vec![]));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(value(set), ["0000000000000000"], "{set}");
    }
    assert_eq!(value("NoNewPrivs"), ["1"]);
}

#[test]
fn its_key_is_its_own_and_the_authoritys_is_roots() {
    let host = Host::new();
    let _web = host.serve("web", &[]);
    let key = host.state.join("runs/web/sidecar/key.pem").metadata().unwrap();
    assert_eq!((key.mode() & 0o777, key.uid(), key.gid()), (0o600, 1337, 1337));
    assert_eq!(host.state.metadata().unwrap().mode() & 0o777, 0o700);
    // What root writes into the sidecar's folder goes there: the sidecar can put no link in its way.
    let folder = host.state.join("runs/web/sidecar").metadata().unwrap();
    assert_eq!((folder.mode() & 0o777, folder.uid(), folder.gid()), (0o750, 0, 1337));
    // In the run the sidecar's own folder lies over all of it.
    let state = host.state.display().to_string();
    let listed = host.run(&[], &["ls", &state]);
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "bundle.pem\ncert.pem\nkey.pem\nremora-proxy\nremora.yaml\n");
    let refused = host.run(&["--user", "daemon"], &["cat", &format!("{state}/key.pem")]);
    assert!(said(&refused).contains("Permission denied"), "{refused:?}");
}

#[test]
fn its_identity_is_renewed_while_it_runs() {
    let host = Host::new();
    let _web = host.serve("web", &["--identity-life", "6s"]);
    let certificate = host.state.join("runs/web/sidecar/cert.pem");
    let first = std::fs::read(&certificate).unwrap();
    eventually("another certificate", || (std::fs::read(&certificate).ok()? != first).then_some(()));
    eventually("the sidecar takes it", || {
        let taken = host.metrics("web").sum("remora_identity_reloads_total", &[("result", "applied")]);
        (taken >= 1.0).then_some(())
    });
}

#[test]
fn its_end_is_the_runs() {
    let host = Host::new();
    let before = host.left();
    let mut web = host.serve("web", &[]);
    let [sidecar] = host.sidecars()[..] else { panic!("{:?}", host.processes()) };
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(sidecar.cast_signed()), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    assert_eq!(web.wait().code(), Some(125));
    assert!(
        web.stderr().contains("error: the sidecar ended (signal: 9 (SIGKILL)), and with it the command"),
        "{}",
        web.stderr()
    );
    assert_eq!(host.left(), before);
}
