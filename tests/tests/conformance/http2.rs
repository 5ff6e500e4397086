//! HTTP/2: h2spec, and the cases of httpwg. The application never speaks first, so that the proxy has to find out what it carries.

use std::collections::BTreeMap;
use std::process::Output;

use remora_test::binaries::readable;

use crate::course::{Course, Way};
use crate::peers::{peers, version};
use crate::report::Report;

#[test]
fn h2spec() {
    let Some([go]) = peers("h2spec", ["go"]) else { return };
    Way::both(|way| {
        let course = Course::peer(way);
        let file = course.file("h2spec.xml");
        // A case that awaits what does not come costs the whole of the time-out.
        let mut command = course.client.command(readable(&go.join("h2spec")));
        command.args(["--strict", "--timeout", "5", "-h", &course.to.ip().to_string()]);
        command.args(["-p", &course.to.port().to_string(), "-j"]).arg(&file);
        let output = command.output().unwrap();
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let mut report = Report::new("h2spec", version("h2spec v"), way);
        for (name, came) in junit(&text) {
            report.case(name, came);
        }
        assert_eq!(report.cases.len(), 146, "h2spec did not run whole: {output:?}");
        drop(course);
        report.conclude();
    });
}

/// The cases of h2spec's JUnit report, whose tags stand on lines of their own.
fn junit(text: &str) -> impl Iterator<Item = (String, Result<(), String>)> {
    text.split("<testcase ").skip(1).map(|case| {
        let (head, body) = case.split_once('>').unwrap();
        let attribute = |name: &str| {
            let (_, rest) = head.split_once(&format!("{name}=\"")).unwrap();
            plain(rest.split('"').next().unwrap())
        };
        let body = body.split("</testcase>").next().unwrap().trim();
        let came = if body.is_empty() { Ok(()) } else { Err(plain(body)) };
        (format!("{}: {}", attribute("package"), attribute("classname")), came)
    })
}

fn plain(text: &str) -> String {
    let text = text.replace("&#xA;", "\n").replace("&#39;", "'").replace("&#34;", "\"");
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

/// What names of httpwg's cases begin with.
const RFC: &str = "RFC 9113 :: ";

#[test]
fn httpwg() {
    let Some([folder]) = peers("httpwg", ["httpwg"]) else { return };
    Way::both(|way| {
        let course = Course::peer(way);
        // The cases whose names contain this.
        let run = |filter: &str| {
            let mut command = course.client.command(readable(&folder.join("bin/httpwg")));
            command.args(["-a", &course.to.to_string(), "--frame-timeout", "2500", "--connect-timeout", "10000"]);
            // One at a time: a case that panics does not say its name.
            command.envs([("SEQUENTIAL", "1"), ("RUST_LOG", "error"), ("RUST_BACKTRACE", "0")]);
            told(&command.args(["--verbose", "--filter", filter]).output().unwrap())
        };
        let mut report = Report::new("httpwg", version("httpwg-cli"), way);
        for (name, came) in run(RFC) {
            report.case(name.strip_prefix(RFC).unwrap_or(&name), came);
        }
        assert_eq!(report.cases.len(), 107, "httpwg did not run whole");
        report.insist(|case| {
            let again = run(case);
            assert_eq!(again.len(), 1, "{case}: {again:?}");
            again.into_values().next().unwrap()
        });
        drop(course);
        report.conclude();
    });
}

/// The cases of httpwg's standard error, with what was wrong; one that is begun and never concluded panicked.
fn told(output: &Output) -> BTreeMap<String, Result<(), String>> {
    let mut cases = BTreeMap::new();
    let mut now = String::new();
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        if let Some(name) = line.strip_prefix("🔷 Running test: ") {
            name.clone_into(&mut now);
            cases.insert(now.clone(), Err(String::new()));
        } else if line == format!("✅ Test passed: {now}") {
            cases.insert(now.clone(), Ok(()));
        } else if let Some(Err(error)) = cases.get_mut(&now)
            && (line.contains("Message: ") || line.contains("   0: "))
        {
            error.push_str(line.trim());
        }
    }
    cases
}
