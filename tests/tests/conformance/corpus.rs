//! HTTP/1.1: gunicorn's corpus of requests before a strict origin on h11, judged by what Envoy, HAProxy and nginx do.

use serde_json::Value;

use crate::course::{Course, Way};
use crate::peers::{OURS, peers, version};
use crate::report::Report;

/// What three proxies made of each case, and the requests that a strict origin must read of it (`set case envoy haproxy nginx verdict
/// requests`).
const ORACLE: &str = include_str!("../../conformance/h1-oracle.tsv");

#[test]
fn corpus() {
    let Some([python, corpus]) = peers("gunicorn's corpus", ["python", "corpus"]) else { return };
    Way::both(|way| {
        // To a port that finds out what it carries, much of the corpus is another protocol's.
        let course = Course::declared(way, 8080, "http", "", |server| {
            let mut command = server.command(python.join("bin/python"));
            command.args([format!("{OURS}/apps/h1_origin.py"), "8080".into()]).arg(server.folder().join("seen"));
            command
        });
        let mut command = course.client.command(python.join("bin/python"));
        command.args([format!("{OURS}/apps/h1_client.py"), course.to.ip().to_string(), course.to.port().to_string()]);
        let output = command.arg(&corpus).arg(course.file("server/seen")).output().unwrap();
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let mut report = Report::new("gunicorn's corpus", version("gunicorn"), way);
        for line in ORACLE.lines().skip(1) {
            let fields: Vec<_> = line.split('\t').collect();
            let [set, case, _, _, _, verdict, requests] = fields[..] else { panic!("h1-oracle.tsv: {line:?}") };
            let came = &told[format!("{set} {case}")];
            let judged = judge(set, verdict, &statuses(came), came["closed"] == true);
            report.case(format!("{set} {case}"), judged.and_then(|()| exactly(requests, came)));
        }
        let seen = std::fs::read_to_string(course.file("server/seen")).unwrap();
        let broken: Vec<_> = seen.lines().filter(|line| line.starts_with("broken")).collect();
        report.case("origin: nothing malformed", if broken.is_empty() { Ok(()) } else { Err(broken.join("; ")) });
        // Every request that was read is an answer that somebody got, of all cases at once and of each alone.
        let answers =
            |came| statuses(came).iter().filter(|status| **status == 200).count() as u64 + number(came, "answers");
        let answers: u64 = told.as_object().unwrap().values().map(answers).sum();
        let requests = seen.lines().filter(|line| line.starts_with("request")).count() as u64;
        let extra = format!("{requests} requests for {answers} answers: {seen}");
        report.case("origin: nothing extra", if requests == answers { Ok(()) } else { Err(extra) });
        drop(course);
        report.conclude();
    });
}

/// The statuses that came for a case.
fn statuses(came: &Value) -> Vec<u64> {
    came["statuses"].as_array().unwrap().iter().map(|status| status.as_u64().unwrap()).collect()
}

fn number(came: &Value, name: &str) -> u64 {
    came[name].as_u64().unwrap()
}

/// Sent alone, so many requests were read at the origin, and each was answered.
fn exactly(wanted: &str, came: &Value) -> Result<(), String> {
    let (requests, answers) = (number(came, "requests"), number(came, "answers"));
    let good = requests == answers && wanted.parse() == Ok(requests);
    if good { Ok(()) } else { Err(format!("the origin read {requests} requests for {answers} answers, not {wanted}")) }
}

/// What all three reject is rejected; what is right and all three accept is answered. In between we may choose.
fn judge(set: &str, verdict: &str, statuses: &[u64], closed: bool) -> Result<(), String> {
    let answered = statuses.iter().any(|status| *status < 400);
    let good = match (set, verdict) {
        (_, "all-reject") => !answered && (closed || !statuses.is_empty()),
        ("val", "all-accept") => answered,
        _ => answered || closed || !statuses.is_empty() || verdict == "wait",
    };
    if good { Ok(()) } else { Err(format!("{verdict} elsewhere; here {statuses:?}, closed: {closed}")) }
}
