//! What `remora check` answers, and how two answers differ.

use std::process::Command;

use serde_json::Value;

/// All that it said.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    /// The lines, in their order, as JSON.
    pub(crate) lines: Vec<Value>,
}

impl Answer {
    /// Runs a command that ends with `check … -o json`.
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let lines: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"));
        let answer = Self { code: output.status.code(), lines: lines.as_array().unwrap().clone() };
        let failed = answer.lines.iter().any(|line| line["result"] == "failure");
        assert_eq!(answer.code, Some(i32::from(failed)), "{answer:#?}");
        for line in &answer.lines {
            let mut keys: Vec<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
            keys.sort_unstable();
            assert_eq!(keys, ["check", "place", "remedy", "result", "says"]);
            assert_eq!(line["remedy"].is_null(), line["result"] == "ok", "what is not well has a remedy: {line}");
        }
        answer
    }

    /// The names of its lines.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.lines.iter().map(|line| line["check"].as_str().unwrap()).collect()
    }

    /// Every line is ok.
    #[track_caller]
    pub(crate) fn is_well(&self) {
        let bad: Vec<_> = self.lines.iter().filter(|line| line["result"] != "ok").collect();
        assert!(bad.is_empty(), "{bad:#?}");
    }

    /// What it says in a line.
    pub(crate) fn says(&self, check: &str) -> &str {
        let line = self.lines.iter().find(|line| line["check"] == check).unwrap_or_else(|| panic!("no line {check}"));
        line["says"].as_str().unwrap()
    }

    /// This answer but for the line `check`, which is that of `other`.
    fn with(&self, check: &str, other: &Self) -> Vec<Value> {
        let both = self.lines.iter().zip(&other.lines);
        both.map(|(own, other)| if own["check"] == check { other } else { own }.clone()).collect()
    }

    /// Compared with `before` only the line `check` differs; it has this result, and says `part`.
    #[track_caller]
    pub(crate) fn differs_in(&self, before: &Self, check: &str, result: &str, part: &str) {
        assert_eq!(self.lines, before.with(check, self), "more than {check} changed");
        let line = self.lines.iter().find(|line| line["check"] == check).unwrap();
        assert_eq!(line["result"], result, "{line}");
        assert!(line["says"].as_str().unwrap().contains(part), "{line}");
    }
}

/// The variables under which a program, and all it starts, lives so much later (`+60s`); it begins with `env`.
pub(crate) fn later(by: &str) -> Vec<String> {
    let folders = std::fs::read_dir("/usr/lib").unwrap().filter_map(Result::ok);
    let mut libraries = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let library = libraries.find(|library| library.exists()).expect("the Debian package faketime");
    let preload = format!("LD_PRELOAD={}", library.display());
    ["/usr/bin/env", &preload, &format!("FAKETIME={by}"), "FAKETIME_DONT_FAKE_MONOTONIC=1"].map(str::to_owned).to_vec()
}
