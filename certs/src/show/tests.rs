use super::*;
use crate::ca::fixture::{CATALOG, Ca, TestDir, current, hours, id};
use crate::ca::{Authority, Validity};

fn text(paths: &[PathBuf], now: SystemTime) -> String {
    let mut out = Vec::new();
    Report::of(paths, now).unwrap().write_text(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_workload_s_directory() {
    let directory = TestDir::new();
    let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000);
    let domain = "example.org".parse().unwrap();
    let root = Authority::root(&domain, Validity::around(now, hours(1), hours(24 * 365))).unwrap();
    let intermediate = root.intermediate(&domain, Validity::around(now, hours(1), hours(24 * 30))).unwrap();
    let ca = Ca { trust_domain: domain, root, intermediate };
    let issued = ca.intermediate.issue(&id(CATALOG), Validity::around(now, hours(1), hours(24))).unwrap();
    ca.write(directory.path(), &issued);
    std::fs::write(directory.path().join(".hidden.pem"), &issued.key_pem).unwrap();
    std::fs::write(directory.path().join("notes.txt"), "not PEM").unwrap();

    let shown = text(&[directory.path().to_owned()], now);
    let blocks: Vec<_> = shown.split("\n\n").collect();
    assert_eq!(blocks.len(), 4, "{shown}");
    assert!(blocks[0].contains("bundle.pem\n  root CA\n    SPIFFE ID   spiffe://example.org\n"), "{shown}");
    assert!(blocks[0].contains("    chain       a trusted root, in bundle.pem"), "{shown}");
    assert!(blocks[1].contains(&format!("cert.pem\n  SVID\n    SPIFFE ID   {CATALOG}\n")), "{shown}");
    assert!(blocks[1].contains(&format!("    serial      {}\n", issued.serial)), "{shown}");
    assert!(
        blocks[1].contains("    valid       2027-01-15T07:00:00Z to 2027-01-16T08:00:00Z (expires in 1 d)\n"),
        "{shown}"
    );
    assert!(blocks[1].contains("    key         ECDSA P-256\n"), "{shown}");
    assert!(blocks[1].contains("    chain       valid, to O=example.org, CN=root "), "{shown}");
    assert!(blocks[2].starts_with("  intermediate CA\n"), "{shown}");
    assert!(blocks[2].contains("    chain       valid, to O=example.org, CN=root "), "{shown}");
    assert!(blocks[3].contains("key.pem\n  private key (not shown)\n    key         ECDSA P-256\n"), "{shown}");
    assert!(blocks[3].contains("    matches     the certificate in cert.pem"), "{shown}");
    let secret = issued.key_pem.lines().nth(1).unwrap();
    assert!(!shown.contains(&secret[..16]), "the key is shown");

    let late = text(&[directory.path().join("cert.pem")], now + hours(25));
    assert!(late.contains("(EXPIRED 1 h ago)"), "{late}");
    assert!(late.contains("    chain       NOT VALID (expired): the certificate expired at "), "{late}");
    let early = text(&[directory.path().join("cert.pem")], now - hours(2));
    assert!(early.contains("(begins in 1 h)"), "{early}");
}

#[test]
fn json_has_the_same() {
    let (ca, directory) = (Ca::new("example.org"), TestDir::new());
    let issued = ca.issue(CATALOG);
    ca.write(directory.path(), &issued);
    let mut out = Vec::new();
    let paths = [directory.path().join("cert.pem"), directory.path().join("key.pem")];
    Report::of(&paths, SystemTime::now()).unwrap().write_json(&mut out).unwrap();
    let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let leaf = &value["files"][0]["certificates"][0];
    assert_eq!(leaf["kind"], "svid");
    assert_eq!(leaf["spiffe_id"], CATALOG);
    assert_eq!(leaf["serial"], issued.serial);
    assert_eq!(leaf["chain"]["status"], "valid");
    assert_eq!(value["files"][1]["keys"][0]["certificate_in"][0], "cert.pem");
    assert!(!String::from_utf8(out).unwrap().contains(&issued.key_pem.lines().nth(1).unwrap()[..16]));
}

#[test]
fn what_is_wrong_is_said() {
    let (ca, directory) = (Ca::new("example.org"), TestDir::new());
    ca.write(directory.path(), &ca.issue(CATALOG));
    let certificate = directory.path().join("cert.pem");
    std::fs::write(directory.path().join("bundle.pem"), Ca::new("example.org").root.certificate_pem()).unwrap();
    let foreign = text(std::slice::from_ref(&certificate), SystemTime::now());
    assert_eq!(foreign.matches("NOT VALID (unknown_ca)").count(), 2, "{foreign}");
    std::fs::remove_file(directory.path().join("bundle.pem")).unwrap();
    let alone = text(std::slice::from_ref(&certificate), SystemTime::now());
    assert!(alone.contains("not judged: no bundle.pem beside it"), "{alone}");

    let two = ca.intermediate.issue(&id("spiffe://other.org/x"), current()).unwrap();
    std::fs::write(&certificate, &two.chain_pem[..200]).unwrap();
    let broken = Report::of(std::slice::from_ref(&certificate), SystemTime::now()).unwrap_err().to_string();
    assert!(broken.ends_with("cert.pem: not valid PEM: a section has no END line"), "{broken}");
    let listed = text(&[directory.path().to_owned()], SystemTime::now());
    assert!(listed.contains("cannot be explained: "), "{listed}");
    assert!(listed.contains("no certificate beside it"), "{listed}");

    let empty = TestDir::new();
    let nothing = Report::of(&[empty.path().to_owned()], SystemTime::now()).unwrap_err();
    assert!(matches!(nothing, Error::NothingToShow(_)));
}

#[test]
fn hostile_names_cannot_write_to_the_terminal() {
    let (ca, directory) = (Ca::new("example.org"), TestDir::new());
    let chain = ca.amended(|params| {
        let uri = "spiffe://example.org/\u{1b}[2J".try_into().unwrap();
        params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
        params.distinguished_name.push(rcgen::DnType::CommonName, "\u{1b}[31m\nfake");
    });
    let file = directory.path().join("cert.pem");
    std::fs::write(&file, pem_of(&chain[0])).unwrap();
    let shown = text(&[file], SystemTime::now());
    assert!(shown.contains("certificate (not an SVID)"), "{shown:?}");
    assert!(!shown.contains('\u{1b}') && !shown.contains("\nfake"), "{shown:?}");
}

fn pem_of(der: &CertificateDer<'_>) -> String {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for chunk in der.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = alphabet[(bits >> (18 - 6 * place) & 63) as usize] as char;
            text.push(if place <= chunk.len() { digit } else { '=' });
        }
    }
    text + "\n-----END CERTIFICATE-----\n"
}
