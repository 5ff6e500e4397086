//! `remora check`: looks at a machine, at a pod from inside or at a cluster, and says what to do about what is wrong.
//!
//! Each place gathers what there is to see once, into a value of its own; each line is one [`Check`], a pure judgement of
//! that value. The lists of checks are also the table in the documentation. Nothing that is looked at is changed.

mod ask;
mod beside;
mod clock;
pub mod cluster;
mod configuration;
pub mod machine;
pub mod pod;
mod redirection;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::Serialize;

pub use self::beside::is_pod;
pub use self::redirection::arguments;

/// What this binary is, and what everything else should be.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Where a proxy's admin interface is unless its configuration says otherwise.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15_000);

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// This machine, in this network namespace.
    Machine,
    /// An injected pod, from inside.
    Pod,
    /// A cluster, through its API server.
    Cluster,
}

/// How a line ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, or could not be looked at; somebody should look.
    Warning,
    /// It does not work.
    Failure,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How it is.
    pub result: Verdict,
    /// What was looked at, and what was found.
    pub says: String,
    /// What to do; none where all is well.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(says: impl Into<String>) -> Self {
        Self { result: Verdict::Ok, says: one_line(&says.into()), remedy: None }
    }

    fn warning(says: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { result: Verdict::Warning, ..Self::failure(says, remedy) }
    }

    fn failure(says: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { result: Verdict::Failure, says: one_line(&says.into()), remedy: Some(remedy.into()) }
    }
}

/// Others' words may have several lines, or control characters for the terminal.
fn one_line(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// One line of a place, judged from what `Seen` holds.
pub struct Check<Seen> {
    /// What it is called.
    pub name: &'static str,
    /// What is looked at; Markdown.
    pub about: &'static str,
    /// What is not fine about it; Markdown.
    pub otherwise: &'static str,
    judge: fn(&Seen) -> Finding,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Where.
    pub place: Place,
    /// Which [`Check`].
    pub check: &'static str,
    /// What it found.
    #[serde(flatten)]
    pub finding: Finding,
}

fn judged<Seen>(place: Place, checks: &[Check<Seen>], seen: &Seen) -> Vec<Line> {
    checks.iter().map(|check| Line { place, check: check.name, finding: (check.judge)(seen) }).collect()
}

/// What a machine or a pod is looked at by, besides what is found there.
#[derive(Clone, Debug, Default)]
pub struct Local {
    /// A proxy's configuration; otherwise the one of the proxy that runs here.
    pub config: Option<PathBuf>,
    /// What `remora-init` was told, where that is neither its defaults nor what injection says.
    pub init: Vec<String>,
}

/// The lines for people: result, check, what was found, and what to do.
#[must_use]
pub fn text(lines: &[Line]) -> String {
    let width = lines.iter().map(|line| line.check.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Line { check, finding, .. } in lines {
        let result = match finding.result {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failure => "failure",
        };
        let remedy = finding.remedy.as_ref().map(|remedy| format!("; to do: {remedy}")).unwrap_or_default();
        let _ = writeln!(text, "{result:<8} {check:<width$}  {}{remedy}", finding.says);
    }
    text
}

/// The documentation's table of one place's checks, in Markdown.
fn table<Seen>(checks: &[Check<Seen>]) -> String {
    let mut text = String::from("| line | looks at | warning or failure |\n|---|---|---|\n");
    for Check { name, about, otherwise, .. } in checks {
        let _ = writeln!(text, "| `{name}` | {about} | {otherwise} |");
    }
    text
}

/// The documentation's tables: a place's name, and its table in Markdown.
#[must_use]
pub fn tables() -> [(&'static str, String); 3] {
    [("machine", table(&machine::CHECKS)), ("pod", table(&pod::CHECKS)), ("cluster", table(&cluster::CHECKS))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_one_line_whatever_it_repeats() {
        let bad = Finding::failure("a\nb\x1b[31m\tc", "do it");
        let lines = [
            Line { place: Place::Pod, check: "proxy", finding: Finding::ok("ready") },
            Line { place: Place::Pod, check: "authority", finding: bad },
        ];
        assert_eq!(text(&lines), "ok       proxy      ready\nfailure  authority  a b\u{fffd}[31m c; to do: do it\n");
        let json = serde_json::to_value(&lines[0]).unwrap();
        let expected =
            serde_json::json!({"place": "pod", "check": "proxy", "result": "ok", "says": "ready", "remedy": null});
        assert_eq!(json, expected);
    }
}
