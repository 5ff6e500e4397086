//! The drill, in its short form: what it must survive and what it must not. Root; the binaries of the workspace are beside
//! its own (`make build`).
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn drill(more: &[&str]) -> Output {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/drill");
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora-drill"));
    command.args(["--short", "--config", config]).args(more).output().unwrap()
}

fn last_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().last().unwrap_or_default().trim().to_owned()
}

fn everything(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn every_certificate_is_replaced_without_one_failure() {
    let output = drill(&[]);
    assert_eq!(
        last_line(&output),
        "failed requests: 0, handshake errors: 0, broken streams: 0",
        "{}",
        everything(&output)
    );
    assert_eq!(output.status.code(), Some(0), "{}", everything(&output));
}

#[test]
fn dropping_the_old_root_early_fails_the_drill() {
    let output = drill(&["--drop-early"]);
    let last = last_line(&output);
    let numbers: Vec<u64> = last.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
    let [requests, handshakes, _] = numbers[..] else { panic!("no counts: {}", everything(&output)) };
    assert!(requests > 0 && handshakes > 0, "{}", everything(&output));
    assert_eq!(output.status.code(), Some(1), "{}", everything(&output));
}
