//! iptables itself reads every golden.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use remora_test::netns::{Bridge, tool};

use crate::pod::{BACKENDS, ready};

#[test]
fn every_golden_is_accepted_by_both_backends() {
    if !ready() {
        return;
    }
    let pod = Bridge::new().unwrap().pod("goldens").unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../init/tests/goldens");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let family = if path.extension().is_some_and(|ending| ending == "v6") { "ip6tables" } else { "iptables" };
        let rules = std::fs::read(&path).unwrap();
        for backend in BACKENDS {
            let mut restore = pod.command(tool(&format!("{family}-{backend}-restore")));
            restore.args(["--noflush", "--test", "-w", "5"]).stdin(Stdio::piped()).stderr(Stdio::piped());
            let mut child = restore.spawn().unwrap();
            child.stdin.take().unwrap().write_all(&rules).unwrap();
            let output = child.wait_with_output().unwrap();
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{} ({backend}): {told}", path.display());
        }
        count += 1;
    }
    assert!(count >= 50, "only {count} goldens found");
}
