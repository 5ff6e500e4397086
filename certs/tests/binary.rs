//! The binary as a user runs it, judged by a certificate checker of another make: OpenSSL.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // a test binary as a whole, its helpers too

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ID: &str = "spiffe://example.org/ns/shop/sa/catalog";

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn remora_certs(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_remora-certs")).current_dir(&self.0).args(arguments).output().unwrap()
    }

    fn done(&self, arguments: &[&str]) {
        let output = self.remora_certs(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn with_svid(name: &str) -> Self {
        let scratch = Self::new(name);
        scratch.done(&["init", "--dir", "ca", "--trust-domain", "example.org"]);
        scratch.done(&["issue", "--ca", "ca", "--id", ID, "--out", "w"]);
        scratch
    }

    /// OpenSSL's output; none where there is no OpenSSL.
    fn openssl(&self, arguments: &[&str]) -> Option<(bool, String)> {
        let output = Command::new("openssl").current_dir(&self.0).args(arguments).output();
        let Ok(output) = output else {
            eprintln!("skipped: no openssl on this machine");
            return None;
        };
        let text = [output.stdout, output.stderr].concat();
        Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn openssl_accepts_the_chain_in_both_roles() {
    let scratch = Scratch::with_svid("verify");
    let verify = ["verify", "-x509_strict", "-check_ss_sig", "-CAfile", "w/bundle.pem", "-untrusted", "w/cert.pem"];
    for purpose in ["sslserver", "sslclient"] {
        let Some((ok, text)) = scratch.openssl(&[&verify[..], &["-purpose", purpose, "w/cert.pem"]].concat()) else {
            return;
        };
        assert!(ok, "{text}");
    }
    let (ok, text) = scratch.openssl(&[&verify[..], &["ca/root.pem"]].concat()).unwrap();
    assert!(ok, "{text}");
    // A leaf signs nobody, a foreign root vouches for nobody: the check itself can fail.
    let foreign = Scratch::with_svid("foreign");
    let theirs = foreign.0.join("w/bundle.pem");
    let (ok, text) = scratch.openssl(&["verify", "-CAfile", theirs.to_str().unwrap(), "w/cert.pem"]).unwrap();
    assert!(!ok, "{text}");
}

#[test]
fn openssl_reads_the_same_from_them() {
    let scratch = Scratch::with_svid("read");
    let Some((ok, text)) = scratch.openssl(&["x509", "-in", "w/cert.pem", "-noout", "-text"]) else { return };
    assert!(ok, "{text}");
    for line in ["critical\n                URI:spiffe://example.org/ns/shop/sa/catalog", "prime256v1", "CA:FALSE"] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
    let (ok, text) = scratch.openssl(&["pkey", "-in", "w/key.pem", "-noout", "-check"]).unwrap();
    assert!(ok, "{text}");
}

#[test]
fn failures_are_one_line_and_an_exit_code() {
    let scratch = Scratch::with_svid("failures");
    for (arguments, code, line) in [
        (&["init", "--dir", "ca", "--trust-domain", "example.org"][..], 1, "exists; a CA is never overwritten"),
        (&["issue", "--ca", "nowhere", "--id", ID], 1, "nowhere: no certificate authority here"),
        (&["show", "nowhere"], 1, "nowhere: No such file or directory"),
    ] {
        let output = scratch.remora_certs(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.starts_with("remora-certs: ") && stderr.contains(line), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    assert_eq!(scratch.remora_certs(&["issue", "--ca", "ca", "--id", "x"]).status.code(), Some(2));
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let scratch = Scratch::with_svid("unwritable");
    std::fs::write(scratch.0.join("file"), "").unwrap();
    let output = scratch.remora_certs(&["issue", "--ca", "ca", "--id", ID, "--out", "file/w"]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("remora-certs: cannot write file/w: "), "{stderr}");
}
