//! What signs and what is trusted, changed under a running authority.

use std::path::Path;
use std::process::Command;

use remora_test::authority::{Authority, TRUST_DOMAIN, join_token, with_ca};
use remora_test::binaries::binary;
use remora_test::eventually;
use remora_test::mesh::{Folder, make_authority};
use remora_test::netns::run;
use serde_json::json;

use crate::ask::{ask, csr, verified};
use crate::lifecycle::follow;

/// A secret's volume as kubelet mounts it: files are links through `..data`, which is replaced in one step.
fn swap(volume: &Path, version: &str, files: &[(&str, Vec<u8>)]) {
    std::fs::create_dir_all(volume.join(version)).unwrap();
    for (name, content) in files {
        std::fs::write(volume.join(version).join(name), content).unwrap();
        let link = volume.join(name);
        if link.symlink_metadata().is_err() {
            std::os::unix::fs::symlink(Path::new("..data").join(name), link).unwrap();
        }
    }
    let fresh = volume.join("..fresh");
    std::os::unix::fs::symlink(version, &fresh).unwrap();
    std::fs::rename(fresh, volume.join("..data")).unwrap();
}

fn secret(signer: &Path, key_of: &Path, roots: &[&Path]) -> [(&'static str, Vec<u8>); 3] {
    let read = |path: &Path, name: &str| std::fs::read(path.join(name)).unwrap();
    let bundle: Vec<_> = roots.iter().flat_map(|ca| read(ca, "bundle.pem")).collect();
    [
        ("tls.crt", read(signer, "intermediate.pem")),
        ("tls.key", read(key_of, "intermediate-key.pem")),
        ("ca.crt", bundle),
    ]
}

#[test]
fn a_plugged_in_signer_is_swapped_while_it_serves() {
    let (folder, first) = with_ca();
    let second = folder.path().join("second");
    make_authority(&second, TRUST_DOMAIN);
    let (volume, records) = (Folder::new(), Folder::new());
    swap(volume.path(), "v1", &secret(&first, &first, &[&first]));
    let path = |name: &str| volume.path().join(name).to_str().unwrap().to_owned();
    let (certificate, key, bundle) = (path("tls.crt"), path("tls.key"), path("ca.crt"));
    // For `remora-certs token`, which is told the directory alone.
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        std::os::unix::fs::symlink(volume.path().join(name), records.path().join(name)).unwrap();
    }
    let signer = ["--signer-cert", &certificate, "--signer-key", &key, "--bundle", &bundle];
    let ids = ["--dns-name", "localhost", "--join-tokens"];
    let authority = Authority::start(folder.path(), records.path(), &[&signer[..], &ids].concat());
    let both = folder.path().join("both.pem");
    std::fs::write(&both, [&first, &second].map(|ca| std::fs::read_to_string(ca.join("bundle.pem")).unwrap()).concat())
        .unwrap();
    let (mut watcher, mut bundles) = follow(&authority, &both, 2);
    assert_eq!(bundles.next().unwrap()["roots"], std::fs::read_to_string(first.join("bundle.pem")).unwrap());

    let request = csr(folder.path());
    let tokens: Vec<_> =
        (0..3).map(|_| join_token(records.path(), "spiffe://example.org/ns/shop/sa/cart", "10m")).collect();
    let mut tokens = tokens.iter();
    let mut certificate = || {
        let token = tokens.next().unwrap();
        let answer = ask(&authority, &both, &request, Some(token), &json!({}));
        verified(folder.path(), &answer);
        let issuer = answer.chain[1].clone();
        assert!(std::fs::read_to_string(records.path().join("issued.jsonl")).unwrap().ends_with("\n"));
        issuer
    };
    let pem = |ca: &Path| std::fs::read_to_string(ca.join("intermediate.pem")).unwrap();
    assert_eq!(certificate().trim(), pem(&first).trim());

    // A key that is not the certificate's: the old signer goes on, and it is told.
    swap(volume.path(), "v2", &secret(&second, &first, &[&first, &second]));
    let reason = eventually("/ready says no", || {
        let (status, body) = authority.ask("/ready");
        (status == 503).then_some(body)
    });
    assert!(reason.contains("tls.key"), "{reason}");
    assert_eq!(certificate().trim(), pem(&first).trim());

    swap(volume.path(), "v3", &secret(&second, &second, &[&first, &second]));
    eventually("/ready says yes", || (authority.ask("/ready").0 == 200).then_some(()));
    assert_eq!(certificate().trim(), pem(&second).trim());
    // Whoever follows the bundle has both roots, without asking.
    assert_eq!(bundles.next().unwrap()["roots"], std::fs::read_to_string(&both).unwrap());
    assert!(watcher.wait().unwrap().success());
}

#[test]
fn a_root_is_rotated_under_a_running_authority() {
    let (folder, ca) = with_ca();
    let authority = Authority::start(folder.path(), &ca, &["--join-tokens"]);
    let first = std::fs::read_to_string(ca.join("bundle.pem")).unwrap();
    let roots = folder.path().join("first.pem");
    std::fs::write(&roots, &first).unwrap();
    let (mut watcher, mut bundles) = follow(&authority, &roots, 3);
    assert_eq!(bundles.next().unwrap()["roots"], first);

    let request = csr(folder.path());
    let mut held = None;
    let mut certificate = |roots: &Path| {
        let token = join_token(&ca, "spiffe://example.org/ns/shop/sa/cart", "10m");
        let more =
            json!({"metadata": {"remora.instance": "cart-1", "remora.replaces": held.take().unwrap_or_default()}});
        let answer = ask(&authority, roots, &request, Some(&token), &more);
        verified(folder.path(), &answer);
        let audit = authority.audit().pop().unwrap();
        held = Some(audit["serial"].as_str().unwrap().to_owned());
        audit["anchor"].as_str().unwrap().to_owned()
    };
    let rotate = |step: &str, more: &[&str]| {
        let mut command = Command::new(binary("remora-certs"));
        command.args(["rotate", "root", "--step", step]).args(more).arg("--dir").arg(&ca);
        run(&mut command)
    };
    let old = certificate(&roots);
    rotate("start", &[]).unwrap();
    // Told to whoever follows, and before that nobody is signed for by the new root.
    let both = bundles.next().unwrap();
    assert!(both["roots"].as_str().unwrap().len() > first.len() && both["version"] == 2, "{both}");
    std::fs::write(&roots, both["roots"].as_str().unwrap()).unwrap();
    let refused = rotate("issue", &[]).unwrap_err().to_string();
    assert!(refused.contains("cart-1"), "{refused}");
    assert_eq!(certificate(&roots), old);
    // A new certificate counts once its holder renews by it, and by itself after a while.
    let unsettled = rotate("issue", &[]).unwrap_err().to_string();
    assert!(unsettled.contains("cart-1"), "{unsettled}");
    assert_eq!(certificate(&roots), old);
    rotate("issue", &[]).unwrap();
    // However soon somebody asks: what was signed by the old state is not handed out.
    let new = certificate(&roots);
    assert_ne!(new, old);
    assert_eq!(certificate(&roots), new);
    rotate("drop", &[]).unwrap();
    let last = bundles.next().unwrap();
    assert!(!last["roots"].as_str().unwrap().contains(first.trim()) && last["version"] == 3, "{last}");
    std::fs::write(&roots, last["roots"].as_str().unwrap()).unwrap();
    assert_eq!(certificate(&roots), new);
    assert_eq!(authority.ask("/ready").0, 200);
    assert!(watcher.wait().unwrap().success());
}

#[test]
fn a_revoked_certificate_does_not_renew() {
    let (folder, ca) = with_ca();
    let authority = Authority::start(folder.path(), &ca, &["--join-tokens"]);
    let (request, roots) = (csr(folder.path()), ca.join("bundle.pem"));
    let id = "spiffe://example.org/ns/shop/sa/vm";
    let first = ask(&authority, &roots, &request, Some(&join_token(&ca, id, "10m")), &json!({}));
    verified(folder.path(), &first);
    let certificate = folder.path().join("cert.pem");
    std::fs::write(&certificate, first.chain.split_last().unwrap().1.concat()).unwrap();
    let more = json!({"cert": certificate, "key": folder.path().join("key.pem")});
    assert_eq!(ask(&authority, &roots, &request, None, &more).code, "OK");
    run(Command::new(binary("remora-certs")).args(["revoke", "--id", id, "--dir"]).arg(&ca)).unwrap();
    let refused = eventually("the revocation is known", || {
        let answer = ask(&authority, &roots, &request, None, &more);
        (answer.code != "OK").then_some(answer)
    });
    // Refused in the handshake: to the client the server is not there.
    assert_eq!(refused.code, "UNAVAILABLE", "{refused:?}");
    assert!(authority.metrics().sum("remora_ca_tls_handshake_failures_total", &[]) >= 1.0);
}
