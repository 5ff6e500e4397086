use std::path::Path;

use super::*;
use crate::ca::Validity;
use crate::ca::fixture::{CATALOG, Ca, PRICING, TestDir, current, hours, id};

/// An identity in a directory, spoilt by `spoil`, and what loading it says.
fn refusal(spoil: impl FnOnce(&Ca, &Path)) -> String {
    let (ca, directory) = (Ca::new("example.org"), TestDir::new());
    ca.write(directory.path(), &ca.issue(CATALOG));
    let files = ca.files(directory.path());
    assert_eq!(load(&ca.trust_domain, &files).unwrap().svid().spiffe_id(), &id(CATALOG));
    spoil(&ca, directory.path());
    let message = load(&ca.trust_domain, &files).unwrap_err().to_string();
    message.replace(directory.path().to_str().unwrap(), "DIR")
}

#[test]
fn errors_name_the_file_and_what_is_wrong() {
    let remove = |name| refusal(|_, dir| std::fs::remove_file(dir.join(name)).unwrap());
    assert_eq!(remove("cert.pem"), "DIR/cert.pem: No such file or directory (os error 2)");
    assert_eq!(remove("key.pem"), "DIR/key.pem: No such file or directory (os error 2)");
    assert_eq!(remove("bundle.pem"), "DIR/bundle.pem: No such file or directory (os error 2)");
    let write = |name, content: &str| refusal(|_, dir| std::fs::write(dir.join(name), content).unwrap());
    assert_eq!(write("cert.pem", ""), "DIR/cert.pem: no PEM certificate in it");
    assert_eq!(write("key.pem", "hello"), "DIR/key.pem: no PEM private key in it");
    assert_eq!(write("bundle.pem", ""), "DIR/bundle.pem: no PEM certificate in it");
    let unended = "-----BEGIN CERTIFICATE-----\nAAAA\n";
    assert_eq!(write("bundle.pem", unended), "DIR/bundle.pem: not valid PEM: a section has no END line");
    let empty = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n";
    assert_eq!(write("cert.pem", empty), "DIR/cert.pem: the certificate is malformed");
    let directory = refusal(|_, dir| {
        std::fs::remove_file(dir.join("key.pem")).unwrap();
        std::fs::create_dir(dir.join("key.pem")).unwrap();
    });
    assert_eq!(directory, "DIR/key.pem: is a directory");
}

#[test]
fn errors_name_pairs_that_do_not_match() {
    let mismatch = refusal(|ca, dir| std::fs::write(dir.join("key.pem"), ca.issue(CATALOG).key_pem).unwrap());
    assert_eq!(mismatch, "DIR/key.pem does not match the certificate in DIR/cert.pem");
    let leaf = refusal(|ca, dir| std::fs::write(dir.join("bundle.pem"), ca.issue(CATALOG).chain_pem).unwrap());
    assert_eq!(
        leaf,
        "DIR/bundle.pem: certificate 1 of the bundle is not a CA certificate: its basic constraints do not say CA"
    );
}

#[test]
fn errors_name_certificates_that_will_not_do() {
    let domain = refusal(|ca, dir| ca.write(dir, &ca.issue("spiffe://other.org/x")));
    assert_eq!(domain, "DIR/cert.pem: spiffe://other.org/x is not in the trust domain example.org");
    let now = SystemTime::now();
    let valid = |from, to| {
        refusal(|ca, dir| {
            let validity = Validity { not_before: from, not_after: to };
            ca.write(dir, &ca.intermediate.issue(&id(CATALOG), validity).unwrap());
        })
    };
    let expired = valid(now - hours(2), now - hours(1));
    assert!(expired.starts_with("DIR/cert.pem: the certificate expired at "), "{expired}");
    let early = valid(now + hours(1), now + hours(2));
    assert!(early.starts_with("DIR/cert.pem: the certificate is not valid before "), "{early}");
}

#[test]
fn no_error_quotes_the_key() {
    let (ca, directory) = (Ca::new("example.org"), TestDir::new());
    let issued = ca.issue(CATALOG);
    ca.write(directory.path(), &issued);
    let files = ca.files(directory.path());
    let secret = issued.key_pem.lines().nth(1).unwrap();
    for spoilt in [
        issued.key_pem.replace("-----END", "----END"),
        issued.key_pem.replace(secret, &format!("{secret}!")),
        issued.key_pem.replace("PRIVATE KEY-----\n", &format!("PRIVATE KEY-----{secret}\n")),
        issued.key_pem.replace(&secret[8..16], "AAAAAAAA"),
    ] {
        std::fs::write(&files.key, &spoilt).unwrap();
        let error = load(&ca.trust_domain, &files).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(&secret[20..40]), "{error:?}");
    }
    std::fs::write(&files.key, &issued.key_pem).unwrap();
    assert!(!format!("{:?}", load(&ca.trust_domain, &files).unwrap()).contains(&secret[20..40]));
}

#[test]
fn keys_of_every_encoding() {
    let (ca, directory) = (Ca::new("example.org"), TestDir::new());
    let files = ca.files(directory.path());
    ca.write(directory.path(), &ca.intermediate.issue(&id(PRICING), current()).unwrap());
    let sec1 = std::process::Command::new("openssl").args(["ec", "-in"]).arg(&files.key).output();
    let Ok(sec1) = sec1 else { return eprintln!("skipped: no openssl to convert a key") };
    assert!(String::from_utf8_lossy(&sec1.stdout).contains("BEGIN EC PRIVATE KEY"));
    std::fs::write(&files.key, sec1.stdout).unwrap();
    assert_eq!(load(&ca.trust_domain, &files).unwrap().svid().spiffe_id(), &id(PRICING));
}

#[test]
fn generations_rise() {
    let ca = Ca::new("example.org");
    let (first, second) = (ca.identity(CATALOG), ca.identity(CATALOG));
    assert!(second.generation() > first.generation());
    assert!(!first.same_certificates(&second));
    assert!(first.same_certificates(&Identity::new(first.svid().clone(), first.bundles().as_ref().clone())));
}
