//! The command line of `remora check`, and what the documentation says of its lines.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

fn check(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_remora")).arg("check").args(arguments).output().unwrap()
}

#[test]
fn a_wrong_command_line_is_2_and_looks_at_nothing() {
    for (arguments, part) in [
        (&["everything"][..], "invalid value 'everything'"),
        (&["cluster", "--config", "a.yaml"], "--config and arguments for remora-init are for"),
        (&["cluster", "--", "--wait=1"], "--config and arguments for remora-init are for"),
        (&["machine", "--kubeconfig", "a"], "--kubeconfig and --context are for"),
        (&["pod", "--context", "a"], "--kubeconfig and --context are for"),
        (&["machine", "--", "--exclude-inbound-ports=http"], "--exclude-inbound-ports http"),
        (&["machine", "-o", "yaml"], "invalid value 'yaml'"),
    ] {
        let output = check(arguments);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(2), true), "{arguments:?}: {told}");
        assert!(told.contains(part), "{arguments:?}: {told}");
    }
}

#[test]
fn help_tells_the_exit_codes() {
    let output = check(&["--help"]);
    let text = String::from_utf8(output.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        text.contains("0 where nothing failed (warnings alone are 0, too), 1 where something did, and 2 for"),
        "{text}"
    );
}

/// The tables in the documentation are made by the code that looks.
#[test]
fn the_documentation_has_every_line() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/check.md");
    let mut text = std::fs::read_to_string(&path).unwrap();
    for (place, table) in remora_control::check::tables() {
        let (begin, end) = (format!("<!-- {place} -->\n\n"), format!("\n<!-- end of {place} -->"));
        let start = text.find(&begin).unwrap() + begin.len();
        let stop = text.find(&end).unwrap();
        if std::env::var_os("REMORA_BLESS").is_some() {
            text.replace_range(start..stop, &table);
        } else {
            assert_eq!(&text[start..stop], table, "REMORA_BLESS=1 writes it anew");
        }
    }
    if std::env::var_os("REMORA_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
}
