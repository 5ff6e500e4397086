//! Who may ask: tokens of an OIDC issuer, made by pyjwt, and join tokens.

use std::path::PathBuf;

use remora_test::authority::{Authority, join_token, script, with_ca};
use remora_test::mesh::Folder;
use remora_test::netns::run;
use serde_json::{Value, json};

use crate::ask::{ask, ask_all, csr, verified};

struct Room {
    folder: Folder,
    roots: PathBuf,
    ca: PathBuf,
    tokens: Value,
    authority: Authority,
}

/// An authority that knows pyjwt's keys, from a file.
fn room(more: &[&str]) -> Room {
    let (folder, ca) = with_ca();
    let output = run(&mut script("tokens.py", &[folder.path().to_str().unwrap()])).unwrap();
    let tokens = serde_json::from_slice(&output.stdout).unwrap();
    let jwks = folder.path().join("jwks.json");
    let oidc = ["--oidc-issuer", "https://issuer.example", "--oidc-jwks", jwks.to_str().unwrap(), "--join-tokens"];
    let authority = Authority::start(folder.path(), &ca, &[&oidc, more].concat());
    Room { roots: ca.join("bundle.pem"), folder, ca, tokens, authority }
}

impl Room {
    fn token(&self, name: &str) -> &str {
        self.tokens[name].as_str().unwrap_or_else(|| panic!("{name}"))
    }

    fn ask(&self, token: Option<&str>, more: &Value) -> crate::ask::Answer {
        ask(&self.authority, &self.roots, &csr(self.folder.path()), token, more)
    }
}

#[test]
fn good_tokens_of_every_allowed_algorithm_get_a_certificate() {
    let room = room(&[]);
    for name in ["es256", "rs256", "ps256", "eddsa", "within_leeway", "kubernetes"] {
        let answer = room.ask(Some(room.token(name)), &json!({}));
        let said = verified(room.folder.path(), &answer);
        let account = if name == "kubernetes" { "pay" } else { "cart" };
        assert!(said.contains(&format!("URI:spiffe://example.org/ns/shop/sa/{account}\n")), "{name}: {said}");
    }
    assert_eq!(room.authority.metrics().sum("remora_ca_certificates_issued_total", &[("by", "oidc")]), 6.0);
}

#[test]
fn bad_tokens_are_refused_each_for_its_reason() {
    let room = room(&[]);
    let expected = [
        ("expired", "token_expired"),
        ("no_exp", "token_expired"),
        ("not_yet", "token_not_yet_valid"),
        ("wrong_audience", "wrong_audience"),
        ("no_audience", "wrong_audience"),
        ("wrong_issuer", "wrong_issuer"),
        ("none", "bad_signature"),
        ("none_with_kid", "bad_signature"),
        ("hs256_confusion", "bad_signature"),
        ("rs384", "bad_signature"),
        ("other_key", "bad_signature"),
        ("other_keys_kid", "bad_signature"),
        ("tampered", "bad_signature"),
        ("unknown_kid", "unknown_key"),
        ("no_kid", "unknown_key"),
        ("crit", "token_malformed"),
    ];
    for (name, reason) in expected {
        let answer = room.ask(Some(room.token(name)), &json!({}));
        assert_eq!(answer.code, "UNAUTHENTICATED", "{name}: {answer:?}");
        assert!(answer.details.starts_with(&format!("{reason}:")), "{name}: {answer:?}");
        assert!(room.authority.metrics().sum("remora_ca_requests_refused_total", &[("reason", reason)]) >= 1.0);
    }
    for name in ["no_account", "slash", "traversal"] {
        let answer = room.ask(Some(room.token(name)), &json!({}));
        assert_eq!(answer.code, "PERMISSION_DENIED", "{name}: {answer:?}");
    }
    let huge = "x".repeat(17 * 1024);
    for (token, reason) in [(None, "no_credentials"), (Some("nonsense"), "join_token_unknown"), (Some(&*huge), "")] {
        let answer = room.ask(token, &json!({}));
        assert!(answer.code == "UNAUTHENTICATED" || reason.is_empty() && answer.code != "OK", "{answer:?}");
        assert!(answer.details.starts_with(reason), "{answer:?}");
    }
    assert_eq!(room.authority.metrics().sum("remora_ca_certificates_issued_total", &[]), 0.0);

    // One audit line each, and no token in any line of the log.
    let log = room.authority.process.stderr();
    let refusals = room.authority.audit();
    assert!(refusals.len() >= expected.len() + 4, "{log}");
    assert!(refusals.iter().all(|line| line["message"] == "request refused" && line["peer"].is_string()));
    for (name, token) in room.tokens.as_object().unwrap() {
        for part in token.as_str().unwrap().split('.').filter(|part| part.len() > 20) {
            assert!(!log.contains(part), "the token {name} is in the log");
        }
    }
}

#[test]
fn new_keys_of_the_issuer_are_taken_from_the_file_when_it_changes() {
    let room = room(&[]);
    let old = room.token("es256").to_owned();
    let fresh = Folder::new();
    let output = run(&mut script("tokens.py", &[fresh.path().to_str().unwrap()])).unwrap();
    let tokens: Value = serde_json::from_slice(&output.stdout).unwrap();
    std::fs::rename(fresh.path().join("jwks.json"), room.folder.path().join("jwks.json")).unwrap();
    let _ = room.authority.process.said("the issuer's keys changed");
    assert_eq!(room.ask(tokens["es256"].as_str(), &json!({})).code, "OK");
    assert!(room.ask(Some(&old), &json!({})).details.starts_with("bad_signature"));
}

#[test]
fn a_join_token_is_good_once() {
    let room = room(&[]);
    let token = join_token(&room.ca, "spiffe://example.org/ns/shop/sa/vm", "10m");
    let first = room.ask(Some(&token), &json!({"metadata": {"remora.instance": "vm-1"}}));
    let said = verified(room.folder.path(), &first);
    assert!(said.contains("URI:spiffe://example.org/ns/shop/sa/vm\n"), "{said}");
    let again = room.ask(Some(&token), &json!({}));
    assert_eq!(again.code, "UNAUTHENTICATED");
    assert!(again.details.starts_with("join_token_used"), "{again:?}");
    let audit = room.authority.audit();
    assert_eq!(audit[0]["proof"], "join_token");
    assert_eq!(audit[0]["instance"], "vm-1");
    assert!(!room.authority.process.stderr().contains(&token));

    // Of many at once one wins.
    let token = join_token(&room.ca, "spiffe://example.org/ns/shop/sa/vm", "10m");
    let request = csr(room.folder.path());
    let answers = ask_all(&room.authority, &room.roots, &request, Some(&token), &json!({"times": 20}));
    assert_eq!(answers.iter().filter(|answer| answer.code == "OK").count(), 1, "{answers:?}");
}

#[test]
fn a_join_token_that_ended_is_refused() {
    let room = room(&[]);
    let token = join_token(&room.ca, "spiffe://example.org/ns/shop/sa/vm", "0s");
    let reason = remora_test::eventually("the token's end", || {
        let answer = room.ask(Some(&token), &json!({}));
        (answer.code != "OK").then_some(answer.details)
    });
    assert!(reason.starts_with("join_token_expired") || reason.starts_with("join_token_used"), "{reason}");
}

#[test]
fn a_bad_request_does_not_spend_a_join_token() {
    let room = room(&[]);
    let token = join_token(&room.ca, "spiffe://example.org/ns/shop/sa/vm", "10m");
    let bad = ask(&room.authority, &room.roots, "nonsense", Some(&token), &json!({}));
    assert_eq!(bad.code, "INVALID_ARGUMENT", "{bad:?}");
    assert_eq!(room.ask(Some(&token), &json!({})).code, "OK");
}

#[test]
fn what_began_with_a_join_token_renews_by_its_certificate_and_nothing_else_does() {
    let room = room(&[]);
    let folder = room.folder.path();
    let renew = |answer: &crate::ask::Answer| {
        let chain = answer.chain.split_last().unwrap().1.concat();
        std::fs::write(folder.join("cert.pem"), chain).unwrap();
        std::fs::copy(folder.join("key.pem"), folder.join("used-key.pem")).unwrap();
        let more = json!({"cert": folder.join("cert.pem"), "key": folder.join("used-key.pem")});
        room.ask(None, &more)
    };
    let token = join_token(&room.ca, "spiffe://example.org/ns/shop/sa/vm", "10m");
    let first = room.ask(Some(&token), &json!({}));
    let second = renew(&first);
    assert!(verified(folder, &second).contains("URI:spiffe://example.org/ns/shop/sa/vm\n"));
    let third = renew(&second);
    assert_eq!(third.code, "OK", "{third:?}");
    assert_eq!(room.authority.metrics().sum("remora_ca_certificates_issued_total", &[("by", "certificate")]), 2.0);

    let by_token = room.ask(Some(room.token("es256")), &json!({}));
    let refused = renew(&by_token);
    assert_eq!(refused.code, "PERMISSION_DENIED", "{refused:?}");
    assert!(refused.details.starts_with("not_renewable"), "{refused:?}");
}

#[test]
fn a_template_makes_identities_of_claims() {
    let room = room(&["--oidc-subject-template", "/ci/{iat_class}"]);
    let answer = room.ask(Some(room.token("es256")), &json!({}));
    assert_eq!(answer.code, "PERMISSION_DENIED");
    assert!(answer.details.starts_with("no_identity"), "{answer:?}");
}
