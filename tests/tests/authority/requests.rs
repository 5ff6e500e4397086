//! What may be asked, and how often.

use std::path::Path;

use remora_test::authority::{Authority, join_token, with_ca};
use serde_json::json;

use crate::ask::{ask, ask_all, csr, openssl_csr, verified};

const ID: &str = "spiffe://example.org/ns/shop/sa/cart";

fn token(ca: &Path) -> String {
    join_token(ca, ID, "10m")
}

#[test]
fn keys_of_every_kind_are_certified() {
    let (folder, ca) = with_ca();
    let authority = Authority::start(folder.path(), &ca, &["--join-tokens"]);
    let kinds: [&[&str]; 3] = [&["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], &["ed25519"], &["rsa:2048"]];
    for kind in kinds {
        let request = openssl_csr(folder.path(), kind, None);
        let answer = ask(&authority, &ca.join("bundle.pem"), &request, Some(&token(&ca)), &json!({}));
        let said = verified(folder.path(), &answer);
        assert!(said.contains(&format!("URI:{ID}\n")), "{kind:?}: {said}");
    }
    let request = openssl_csr(folder.path(), &["rsa:1024"], None);
    let answer = ask(&authority, &ca.join("bundle.pem"), &request, Some(&token(&ca)), &json!({}));
    assert_eq!(answer.code, "INVALID_ARGUMENT", "{answer:?}");
}

#[test]
fn the_identity_comes_from_the_proof_and_a_foreign_name_is_refused() {
    let (folder, ca) = with_ca();
    let authority = Authority::start(folder.path(), &ca, &["--join-tokens"]);
    let p256: &[&str] = &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    // The subject says CN=x, which is nobody's name.
    let own = openssl_csr(folder.path(), p256, Some(&format!("URI:{ID}")));
    let answer = ask(&authority, &ca.join("bundle.pem"), &own, Some(&token(&ca)), &json!({}));
    let said = verified(folder.path(), &answer);
    assert!(said.contains(&format!("URI:{ID}\n")) && !said.contains("CN"), "{said}");
    for names in ["URI:spiffe://example.org/ns/shop/sa/admin", "DNS:admin.example", "IP:10.0.0.1"] {
        let foreign = openssl_csr(folder.path(), p256, Some(names));
        let answer = ask(&authority, &ca.join("bundle.pem"), &foreign, Some(&token(&ca)), &json!({}));
        assert_eq!(answer.code, "PERMISSION_DENIED", "{names}: {answer:?}");
        assert!(answer.details.starts_with("foreign_name"), "{answer:?}");
    }
    let refusal = authority.audit().into_iter().find(|line| line["reason"] == "foreign_name").unwrap();
    assert_eq!(refusal["spiffe_id"], ID, "who it was that asked is known by then");
}

#[test]
fn signing_requests_that_are_none_are_refused() {
    let (folder, ca) = with_ca();
    let authority = Authority::start(folder.path(), &ca, &["--join-tokens"]);
    let good = csr(folder.path());
    let lines: Vec<_> = good.lines().collect();
    let last = lines[lines.len() - 2];
    // The signature is what ends a request: another of its characters, and nothing holds.
    let other = if last.as_bytes()[2] == b'A' { "B" } else { "A" };
    let forged = good.replace(last, &format!("{}{other}{}", &last[..2], &last[3..]));
    let truncated = good.replace(&format!("{last}\n"), "");
    let padded = good.clone() + &"x".repeat(17 * 1024);
    let twice = good.repeat(2);
    let bad = [&forged, &truncated, &padded, &twice, "", "-----BEGIN CERTIFICATE REQUEST-----", "\u{0}"];
    for request in bad {
        let answer = ask(&authority, &ca.join("bundle.pem"), request, Some(&token(&ca)), &json!({}));
        assert_eq!(answer.code, "INVALID_ARGUMENT", "{answer:?}: {request:.200}");
        assert!(answer.details.starts_with("bad_csr"), "{answer:?}");
    }
    // Beyond the bound of a message it is not even read.
    let huge = "x".repeat(4 << 20);
    let answer = ask(&authority, &ca.join("bundle.pem"), &huge, Some(&token(&ca)), &json!({}));
    assert!(["OUT_OF_RANGE", "RESOURCE_EXHAUSTED"].contains(&&*answer.code), "{answer:?}");
    let answer = ask(&authority, &ca.join("bundle.pem"), &good, Some(&token(&ca)), &json!({}));
    assert_eq!(answer.code, "OK", "{answer:?}");
}

#[test]
fn a_wished_life_is_granted_up_to_the_bound() {
    let (folder, ca) = with_ca();
    let authority = Authority::start(folder.path(), &ca, &["--join-tokens", "--max-ttl", "2h"]);
    let request = csr(folder.path());
    let mut ends = Vec::new();
    for ttl in [600, 0, 1_000_000_000] {
        let more = json!({"ttl": ttl});
        let answer = ask(&authority, &ca.join("bundle.pem"), &request, Some(&token(&ca)), &more);
        assert_eq!(answer.code, "OK", "{answer:?}");
        let journal = std::fs::read_to_string(ca.join("issued.jsonl")).unwrap();
        let record: serde_json::Value = serde_json::from_str(journal.lines().last().unwrap()).unwrap();
        ends.push(record["not_after"].as_u64().unwrap() - record["issued_at"].as_u64().unwrap());
    }
    assert_eq!(ends, [600, 7200, 7200]);
    let answer = ask(&authority, &ca.join("bundle.pem"), &request, Some(&token(&ca)), &json!({"ttl": -1}));
    assert!(answer.details.starts_with("bad_request"), "{answer:?}");
    let more = json!({"metadata": {"remora.instance": "a\nb"}});
    let answer = ask(&authority, &ca.join("bundle.pem"), &request, Some(&token(&ca)), &more);
    assert!(answer.details.starts_with("bad_request"), "{answer:?}");
}

#[test]
fn every_certificate_is_on_record_with_its_audit_line() {
    let (folder, ca) = with_ca();
    let authority = Authority::start(folder.path(), &ca, &["--join-tokens"]);
    let request = csr(folder.path());
    let more = json!({"metadata": {"remora.instance": "cart-1", "remora.replaces": "0a0b"}});
    let answer = ask(&authority, &ca.join("bundle.pem"), &request, Some(&token(&ca)), &more);
    let said = verified(folder.path(), &answer).to_lowercase();
    let audit = authority.audit().pop().unwrap();
    let serial = audit["serial"].as_str().unwrap();
    assert!(said.contains(&format!("serial={serial}\n")), "{said} {audit}");
    for (field, value) in [("spiffe_id", ID), ("proof", "join_token"), ("instance", "cart-1"), ("level", "INFO")] {
        assert_eq!(audit[field], value, "{audit}");
    }
    assert!(audit["peer"].as_str().unwrap().starts_with("127.0.0.1:") && audit["not_after"].is_string(), "{audit}");
    let journal = std::fs::read_to_string(ca.join("issued.jsonl")).unwrap();
    let record: serde_json::Value = serde_json::from_str(journal.lines().last().unwrap()).unwrap();
    assert_eq!(record["serial"], serial);
    assert_eq!(record["replaces"], "0a0b");
    assert_eq!(record["anchor"], audit["anchor"]);
}

#[test]
fn a_caller_that_asks_too_often_is_told_so() {
    let (folder, ca) = with_ca();
    let authority = Authority::start(folder.path(), &ca, &["--join-tokens", "--rate", "2"]);
    let (request, roots) = (csr(folder.path()), ca.join("bundle.pem"));
    let codes: Vec<_> = (0..4).map(|_| ask(&authority, &roots, &request, Some(&token(&ca)), &json!({})).code).collect();
    assert_eq!(codes[..2], ["OK", "OK"]);
    assert!(codes[2..].iter().any(|code| code == "RESOURCE_EXHAUSTED"), "{codes:?}");
    let tokens = std::fs::read_dir(ca.join("tokens")).unwrap().map(|entry| entry.unwrap().path());
    let used = tokens.filter(|path| path.extension().is_some_and(|end| end == "used")).count();
    assert_eq!(used, codes.iter().filter(|code| *code == "OK").count(), "a refused caller keeps its token");
    let other = join_token(&ca, "spiffe://example.org/ns/shop/sa/other", "10m");
    assert_eq!(ask(&authority, &roots, &request, Some(&other), &json!({})).code, "OK");
}

#[test]
fn an_address_that_keeps_guessing_is_not_listened_to() {
    let (folder, ca) = with_ca();
    let authority = Authority::start(folder.path(), &ca, &["--join-tokens"]);
    let request = csr(folder.path());
    let answers =
        ask_all(&authority, &ca.join("bundle.pem"), &request, Some("remora-join-guess"), &json!({"times": 2000}));
    assert!(answers.iter().any(|answer| answer.details.starts_with("peer_rate")), "{:?}", answers.last());
    assert!(answers.iter().all(|answer| answer.code != "OK"));
    let log = authority.audit();
    let said = log.iter().filter(|line| line["reason"] == "peer_rate").count();
    assert_eq!(said, 1, "once a minute, of all that were refused so");
}
