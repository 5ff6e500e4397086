//! Asking for a certificate.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use remora_test::authority::{Authority, script};
use remora_test::netns::run;
use serde_json::{Value, json};

/// What came back from one call.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: String,
    pub(crate) details: String,
    pub(crate) chain: Vec<String>,
}

/// Asks once by the Python client; `more` overrides or adds to the question.
pub(crate) fn ask(authority: &Authority, roots: &Path, csr: &str, token: Option<&str>, more: &Value) -> Answer {
    let mut answers = ask_all(authority, roots, csr, token, more);
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

/// As [`ask`], for `times` in `more`.
pub(crate) fn ask_all(
    authority: &Authority,
    roots: &Path,
    csr: &str,
    token: Option<&str>,
    more: &Value,
) -> Vec<Answer> {
    let output = run_client(&question(authority, roots, csr, token, more));
    let answers: Vec<Value> = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let answer = |value: &Value| Answer {
        code: text(&value["code"]),
        details: text(&value["details"]),
        chain: value["chain"].as_array().unwrap().iter().map(text).collect(),
    };
    answers.iter().map(answer).collect()
}

/// What the client reads.
pub(crate) fn question(authority: &Authority, roots: &Path, csr: &str, token: Option<&str>, more: &Value) -> Value {
    let mut question = json!({
        "address": format!("localhost:{}", authority.grpc.port()),
        "roots": roots,
        "csr": csr,
        "token": token,
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        question[key] = value.clone();
    }
    question
}

fn run_client(question: &Value) -> String {
    let mut client = script("authority.py", &[]);
    let mut child = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(question.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A key and a signing request by OpenSSL: `kind` as `openssl req -newkey` has it; `names` as in subjectAltName, or none.
pub(crate) fn openssl_csr(folder: &Path, kind: &[&str], names: Option<&str>) -> String {
    let mut command = Command::new("openssl");
    command.args(["req", "-new", "-nodes", "-subj", "/CN=x", "-newkey"]).args(kind);
    command.arg("-keyout").arg(folder.join("key.pem"));
    if let Some(names) = names {
        command.args(["-addext", &format!("subjectAltName={names}")]);
    }
    String::from_utf8(run(&mut command).unwrap().stdout).unwrap()
}

/// A P-256 request without names.
pub(crate) fn csr(folder: &Path) -> String {
    openssl_csr(folder, &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], None)
}

/// Writes the answer's parts and has OpenSSL verify them for both roles; returns what OpenSSL says of the leaf.
pub(crate) fn verified(folder: &Path, answer: &Answer) -> String {
    assert_eq!(answer.code, "OK", "{answer:?}");
    let (roots, rest) = answer.chain.split_last().unwrap();
    let (leaf, intermediates) = rest.split_first().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let (leaf, roots) = (file("leaf.pem", leaf), file("roots.pem", roots));
    let intermediates = file("intermediates.pem", &intermediates.concat());
    for purpose in ["sslclient", "sslserver"] {
        let mut command = Command::new("openssl");
        command.args(["verify", "-x509_strict", "-purpose", purpose, "-CAfile"]).arg(&roots);
        command.arg("-untrusted").arg(&intermediates).arg(&leaf);
        run(&mut command).unwrap();
    }
    let mut command = Command::new("openssl");
    command.args(["x509", "-noout", "-serial", "-enddate", "-ext", "subjectAltName", "-pubkey", "-in"]).arg(&leaf);
    String::from_utf8(run(&mut command).unwrap().stdout).unwrap()
}
