//! WebSocket: kosoku runs Autobahn's cases against an echo on `websockets`.

use crate::course::{Course, Way};
use crate::peers::{OURS, peers, version};
use crate::report::Report;

#[test]
fn kosoku() {
    let Some([python]) = peers("kosoku", ["python"]) else { return };
    Way::both(|way| {
        let course = Course::start(way, 8080, |server| {
            let mut command = server.command(python.join("bin/python"));
            command.args([&format!("{OURS}/apps/echo.py"), "8080"]);
            command
        });
        let folder = course.file("kosoku");
        let mut command = course.client.command(python.join("bin/kosoku"));
        command.args(["-m", "fuzzingclient", &course.to.to_string()]);
        // Left out: 9 is about speed, and 12 and 13 are the same with compression; both take hours.
        command.args(["-x", "9.*", "-x", "12.*", "-x", "13.*", "-o"]).arg(&folder);
        let output = command.output().unwrap();
        let index = std::fs::read_to_string(folder.join("index.json"));
        let index: serde_json::Value =
            serde_json::from_str(&index.unwrap_or_else(|error| panic!("{error}: {output:?}"))).unwrap();
        let mut report = Report::new("kosoku", version("kosoku"), way);
        for (case, result) in index.as_object().unwrap().values().flat_map(|agent| agent.as_object().unwrap()) {
            let told = |field: &str| result[field].as_str().unwrap_or_default().to_owned();
            let good = ["OK", "NON-STRICT", "INFORMATIONAL"];
            let both = [told("behavior"), told("behaviorClose")];
            let came = if both.iter().all(|one| good.contains(&one.as_str())) { Ok(()) } else { Err(both.join(", ")) };
            report.case(case, came);
        }
        assert_eq!(report.cases.len(), 247, "kosoku did not run whole: {output:?}");
        drop(course);
        report.conclude();
    });
}
