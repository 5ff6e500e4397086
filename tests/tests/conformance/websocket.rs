//! WebSocket: kosoku runs Autobahn's cases against an echo on `websockets`; and Node's `ws` and Python's `websockets`, as clients and
//! as servers, tell the same with sidecars and without.

use std::collections::BTreeMap;
use std::process::Command;

use remora_test::pod::Pod;
use serde_json::Value;

use crate::course::{Course, Way};
use crate::peers::{OURS, peers, version};
use crate::report::{Report, same};

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
        let index: Value = serde_json::from_str(&index.unwrap_or_else(|error| panic!("{error}: {output:?}"))).unwrap();
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

#[test]
fn websockets() {
    let Some([python, node]) = peers("websockets", ["python", "node"]) else { return };
    let program = |name: &str, pod: &Pod| {
        let mut command: Command;
        if name == "ws" {
            command = pod.command("node");
            command.arg(format!("{OURS}/apps/ws.cjs")).arg(node.join("node_modules"));
        } else {
            command = pod.command(python.join("bin/python"));
            command.arg(format!("{OURS}/apps/ws.py"));
        }
        command
    };
    let tell = |way| {
        let mut told = BTreeMap::new();
        for server in ["ws", "websockets"] {
            let course = Course::start(way, 8080, |pod| {
                let mut command = program(server, pod);
                command.args(["serve", "8080"]);
                command
            });
            for client in ["ws", "websockets"] {
                let output = program(client, &course.client).args(["ask", "ws://server:8080"]).output().unwrap();
                assert!(output.status.success(), "{client}: {output:?}");
                for line in String::from_utf8(output.stdout).unwrap().lines() {
                    let one: Value = serde_json::from_str(line).unwrap();
                    told.insert(format!("{client} to {server}: {}", one["name"].as_str().unwrap()), one);
                }
            }
        }
        told
    };
    let versions = format!("ws {}, websockets {}", version("\"ws\""), version("websockets"));
    same("WebSocket clients and servers", &versions, 7 * 4, tell);
}
