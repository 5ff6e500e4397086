use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::ca::fixture::{Ca, TestDir};
use crate::ca::{CaDirectory, Validity};
use crate::{Svid, TrustBundle, VerifyError, verify_chain};

const ID: &str = "spiffe://example.org/ns/shop/sa/catalog";

/// Runs the command line (words separated by blanks, DIR for `directory`).
fn remora_certs(directory: &TestDir, line: &str) -> Result<String, Error> {
    let line = line.replace("DIR", directory.path().to_str().unwrap());
    let words = std::iter::once("remora-certs").chain(line.split(' '));
    let mut out = Vec::new();
    run(Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")), &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

fn with_ca() -> TestDir {
    let directory = TestDir::new();
    let made = remora_certs(&directory, "init --dir DIR/ca --trust-domain example.org").unwrap();
    assert!(made.starts_with("Made a certificate authority for example.org in "), "{made}");
    directory
}

fn svid(directory: &TestDir, name: &str) -> Svid {
    let path = directory.path().join(name);
    Svid::load(&"example.org".parse().unwrap(), &path.join("cert.pem"), &path.join("key.pem")).unwrap()
}

fn judge(directory: &TestDir, name: &str) -> Result<crate::Peer, VerifyError> {
    let bundle = directory.path().join(name).join("bundle.pem");
    let bundle = TrustBundle::load("example.org".parse().unwrap(), &bundle).unwrap();
    let svid = svid(directory, name);
    verify_chain(svid.certificates(), crate::PeerRole::Client, &bundle.into(), &[], SystemTime::now())
}

#[test]
fn init_then_issue_then_show() {
    let directory = with_ca();
    let issued = remora_certs(&directory, &format!("issue --ca DIR/ca --id {ID} --out DIR/w")).unwrap();
    assert!(issued.starts_with(&format!("Issued {ID}\n")), "{issued}");
    let peer = judge(&directory, "w").unwrap();
    assert_eq!(peer.spiffe_id.as_str(), ID);
    assert!(issued.contains(&peer.serial), "{issued}");
    let lifetime = svid(&directory, "w").not_after().duration_since(SystemTime::now()).unwrap();
    assert!(lifetime > DAY - Duration::from_secs(600) && lifetime <= DAY, "{lifetime:?}");
    let mode = |name| std::fs::metadata(directory.path().join("w").join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("key.pem"), mode("cert.pem"), mode("bundle.pem")), (0o600, 0o644, 0o644));
    let key = std::fs::read_to_string(directory.path().join("w/key.pem")).unwrap();
    assert!(key.starts_with("-----BEGIN PRIVATE KEY-----\n"), "PKCS#8");
    let shown = remora_certs(&directory, "show DIR/w DIR/ca").unwrap();
    assert!(shown.contains(ID) && shown.contains("intermediate CA") && !shown.contains("BEGIN"), "{shown}");
}

#[test]
fn a_second_init_changes_nothing() {
    let directory = with_ca();
    let before = std::fs::read(directory.path().join("ca/root-key.pem")).unwrap();
    let again = remora_certs(&directory, "init --dir DIR/ca --trust-domain example.org");
    assert!(matches!(again, Err(Error::Exists(_))), "{again:?}");
    assert_eq!(std::fs::read(directory.path().join("ca/root-key.pem")).unwrap(), before);
}

#[test]
fn issuing_again_replaces_all_but_an_equal_bundle() {
    let directory = with_ca();
    let issue = format!("issue --ca DIR/ca --id {ID} --out DIR/w --ttl 90s");
    let inode = |name| std::fs::metadata(directory.path().join("w").join(name)).unwrap().ino();
    remora_certs(&directory, &issue).unwrap();
    let (serial, bundle) = (svid(&directory, "w").serial().to_owned(), inode("bundle.pem"));
    remora_certs(&directory, &issue).unwrap();
    assert_ne!(svid(&directory, "w").serial(), serial);
    assert_eq!(inode("bundle.pem"), bundle);
    assert_eq!(std::fs::read_dir(directory.path().join("w")).unwrap().count(), 3, "nothing temporary is left");
}

#[test]
fn files_keep_or_change_their_owner() {
    let directory = with_ca();
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return eprintln!("skipped: only root gives files away");
    }
    let issue =
        |rest: &str| remora_certs(&directory, &format!("issue --ca DIR/ca --id {ID} --out DIR/w{rest}")).unwrap();
    let owner = |name| {
        let metadata = std::fs::metadata(directory.path().join("w").join(name)).unwrap();
        (metadata.uid(), metadata.gid())
    };
    issue(" --owner 1337:7");
    assert_eq!((owner("key.pem"), owner("cert.pem"), owner("bundle.pem")), ((1337, 7), (1337, 7), (1337, 7)));
    issue("");
    assert_eq!((owner("key.pem"), owner("cert.pem")), ((1337, 7), (1337, 7)), "who reads them still can");
}

#[test]
fn wrong_certificates_on_purpose() {
    let directory = with_ca();
    let issue =
        |id: &str, rest: &str| remora_certs(&directory, &format!("issue --ca DIR/ca --id {id} --out DIR/w {rest}"));
    let reason = || judge(&directory, "w").unwrap_err().reason();
    issue(ID, "--not-before 2020-01-01T00:00:00Z --not-after 2020-01-02T00:00:00Z").unwrap();
    assert_eq!(reason(), "expired");
    issue(ID, "--not-before-offset +1h").unwrap();
    assert_eq!(reason(), "not_yet_valid");
    issue(ID, "--not-before-offset -5m").unwrap();
    assert!(judge(&directory, "w").is_ok());
    let foreign = issue("spiffe://other.org/x", "--any-trust-domain").unwrap();
    assert!(foreign.contains("spiffe://other.org/x"));
    assert!(matches!(issue("spiffe://other.org/x", "--ttl 1h"), Err(Error::ForeignId { .. })));
    let backwards = issue(ID, "--not-before 2020-01-02T00:00:00Z --not-after 2020-01-01T00:00:00Z");
    assert!(matches!(backwards, Err(Error::EmptyValidity { .. })), "{backwards:?}");
}

#[test]
fn a_long_life_is_cut_and_said() {
    let directory = with_ca();
    let issued = remora_certs(&directory, &format!("issue --ca DIR/ca --id {ID} --out DIR/w --ttl 36500d")).unwrap();
    assert!(issued.contains("cut to the CA's own end"), "{issued}");
    let ca = CaDirectory::open(&directory.path().join("ca")).unwrap();
    assert_eq!(svid(&directory, "w").not_after(), ca.authority().validity().not_after);
}

#[test]
fn an_expired_ca_says_so() {
    let directory = TestDir::new();
    let now = SystemTime::now();
    let old = Validity { not_before: now - 9 * DAY, not_after: now - DAY };
    let ca = Ca::new("example.org").with_intermediate(old, |_| {});
    let path = |name: &str| directory.path().join("ca").join(name);
    std::fs::create_dir(directory.path().join("ca")).unwrap();
    std::fs::write(path("bundle.pem"), ca.root.certificate_pem()).unwrap();
    std::fs::write(path("intermediate.pem"), ca.intermediate.certificate_pem()).unwrap();
    std::fs::write(path("intermediate-key.pem"), ca.intermediate.key_pem()).unwrap();
    let error = remora_certs(&directory, &format!("issue --ca DIR/ca --id {ID} --out DIR/w")).unwrap_err();
    assert!(error.to_string().starts_with("the CA certificate is valid from "), "{error}");
    assert!(!directory.path().join("w").exists());
}

#[test]
fn bad_values_are_refused_by_name() {
    for line in [
        "init --dir x --trust-domain Example.org",
        "init --dir x --trust-domain example.org --root-days 0",
        "issue --ca x --id https://example.org/x",
        "issue --ca x --id spiffe://example.org/x --ttl forever",
        "issue --ca x --id spiffe://example.org/x --ttl 1h --not-after 2030-01-01T00:00:00Z",
        "issue --ca x --id spiffe://example.org/x --owner root",
        "show",
    ] {
        assert!(Cli::try_parse_from(std::iter::once("remora-certs").chain(line.split(' '))).is_err(), "{line}");
    }
}

#[test]
fn a_rotation_is_walked_and_its_status_told() {
    let directory = with_ca();
    let issue = |to: &str| remora_certs(&directory, &format!("issue --ca DIR/ca --id {ID} --out DIR/{to}")).unwrap();
    let rotate = |rest: &str| remora_certs(&directory, &format!("rotate {rest} --dir DIR/ca"));
    let status = || serde_json::from_str::<serde_json::Value>(&rotate("status --json").unwrap()).unwrap();
    issue("w");
    assert_eq!((&status()["phase"], &status()["next"]["step"]), (&"stable".into(), &"start".into()));
    rotate("root").unwrap();
    let refused = rotate("root").unwrap_err().to_string();
    assert!(refused.contains(&format!("{ID} (")) && refused.contains("/w) may not know the new root yet"), "{refused}");
    let waited = rotate("root --wait 0s").unwrap_err().to_string();
    assert_eq!(waited, refused);
    let next = &status()["next"];
    assert_eq!((&next["safe"], &next["needed_by"][0]["why"]), (&false.into(), &"old_bundle".into()));
    assert_eq!(next["needed_by"][0]["serial"], svid(&directory, "w").serial());
    issue("w");
    let text = rotate("status").unwrap();
    assert!(text.contains("phase distribute, bundle version 2") && text.contains("next step: issue (safe)"), "{text}");
    rotate("root --step issue").unwrap();
    let drop = rotate("root --step drop").unwrap_err().to_string();
    assert!(drop.contains("holds a certificate of the old root"), "{drop}");
    let broken = rotate("root --step drop --force").unwrap();
    assert!(broken.starts_with(&format!("broken: {ID}")), "{broken}");
    assert!(judge(&directory, "w").is_ok(), "by the bundle it has");
    issue("other");
    let other = directory.path().join("other/bundle.pem");
    std::fs::copy(&other, directory.path().join("w/bundle.pem")).unwrap();
    assert_eq!(judge(&directory, "w").unwrap_err().reason(), "unknown_ca", "dropping early breaks");
    assert!(judge(&directory, "other").is_ok());
}

/// An admin interface that answers with `metrics`, as often as it is asked.
fn proxy(metrics: String) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/metrics", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = std::io::Read::read(&mut stream, &mut [0; 4096]).unwrap();
            stream.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{metrics}").as_bytes()).unwrap();
        }
    });
    url
}

#[test]
fn a_proxy_that_holds_the_old_root_or_cannot_be_asked_is_in_the_way_of_drop() {
    let directory = with_ca();
    let rotate = |rest: &str| remora_certs(&directory, &format!("rotate {rest} --dir DIR/ca")).unwrap();
    let anchor = |n: usize, status: &serde_json::Value| status["anchors"][n]["anchor"].as_str().unwrap().to_owned();
    rotate("root");
    rotate("root");
    let status = |urls: &[&str]| -> serde_json::Value {
        serde_json::from_str(&rotate(&format!("status --json --metrics {}", urls.join(" ")))).unwrap()
    };
    let alone: serde_json::Value = serde_json::from_str(&rotate("status --json")).unwrap();
    assert_eq!(alone["next"]["safe"], true);
    let own = |anchor: &str| format!("remora_identity_anchor{{anchor=\"{anchor}\",serial=\"01\"}} 1\n");
    let (old, new) = (proxy(own(&anchor(0, &alone))), proxy(own(&anchor(1, &alone))));
    assert_eq!(status(&[&new])["next"]["safe"], true);
    let held = &status(&[&new, &old])["next"];
    assert_eq!((&held["safe"], &held["needed_by"]), (&false.into(), &serde_json::json!([])));
    assert_eq!(held["needed_by_proxies"], serde_json::json!([{"url": old, "why": "old_anchor"}]));

    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = format!("http://{closed}/metrics");
    let unknown = &status(&[&new, &silent])["next"];
    assert_eq!(unknown["safe"], false);
    assert_eq!(unknown["needed_by_proxies"], serde_json::json!([{"url": silent, "why": "not_asked"}]));
    let text = rotate(&format!("status --metrics {old} {silent}"));
    assert!(text.contains("next step: drop (not safe)"), "{text}");
    assert!(
        text.contains(&format!("  {old} has a certificate of the old root\n  {silent} cannot be asked\n")),
        "{text}"
    );
}

#[test]
fn one_command_walks_all_of_a_rotation() {
    let directory = with_ca();
    let walked = remora_certs(&directory, "rotate root --dir DIR/ca --wait 30s").unwrap();
    for step in ["start: done", "issue: done", "drop: done"] {
        assert!(walked.contains(step), "{walked}");
    }
    let again = remora_certs(&directory, "rotate root --dir DIR/ca --step drop --wait 30s").unwrap_err().to_string();
    assert!(again.contains("the phase is stable: the next step is start"), "{again}");
}

#[test]
fn each_kind_of_key_signs_and_is_signed() {
    for kind in ["p256", "ed25519", "rsa-2048"] {
        let directory = TestDir::new();
        remora_certs(&directory, &format!("init --dir DIR/ca --trust-domain example.org --key {kind}")).unwrap();
        for leaf in ["p256", "ed25519", "rsa-2048"] {
            remora_certs(&directory, &format!("issue --ca DIR/ca --id {ID} --out DIR/{leaf} --key {leaf}")).unwrap();
            judge(&directory, leaf).unwrap_or_else(|error| panic!("{leaf} by {kind}: {error}"));
        }
    }
}

#[test]
fn a_token_is_printed_alone_and_a_certificate_revoked() {
    let directory = with_ca();
    let token = remora_certs(&directory, &format!("token --dir DIR/ca --id {ID} --ttl 30s")).unwrap();
    let ca = CaDirectory::open(&directory.path().join("ca")).unwrap();
    assert_eq!(ca.redeem_token(token.trim_end(), SystemTime::now()).unwrap().as_str(), ID);
    remora_certs(&directory, &format!("issue --ca DIR/ca --id {ID} --out DIR/w")).unwrap();
    let serial = svid(&directory, "w").serial().to_owned();
    let revoked = remora_certs(&directory, &format!("revoke --dir DIR/ca --serial {serial}")).unwrap();
    assert!(revoked.starts_with(&format!("Revoked {serial} of {ID}")), "{revoked}");
    assert!(remora_certs(&directory, "revoke --dir DIR/ca --serial 00").is_err());
}
