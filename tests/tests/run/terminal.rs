//! At a terminal.

use std::io::Write;
use std::process::Stdio;

use remora_test::eventually;
use remora_test::netns::tool;

use crate::host::Host;

/// What is typed reaches the command once: from the terminal, and not again from us.
#[test]
fn an_interrupt_that_is_typed_comes_once() {
    let host = Host::new();
    let ready = host.mesh.folder().join("ready");
    let script =
        format!("n=0; trap 'n=$((n+1))' INT; : > {}; read line; read line; echo interrupts=$n", ready.display());
    let line = format!("{} run -- bash -c \"{}\"", host.programs.join("remora").display(), script.replace('$', "\\$"));
    let mut terminal = host.command(tool("script"));
    terminal.args(["-qefc", &line, "/dev/null"]);
    let mut child = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut keys = child.stdin.take().unwrap();
    eventually("the command runs", || ready.exists().then_some(()));
    // bash's `read` ends by the trap or with the line: two lines are enough for both.
    keys.write_all(b"\x03").unwrap();
    keys.write_all(b"one\ntwo\nthree\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("interrupts=1"), "{told:?}");
}
