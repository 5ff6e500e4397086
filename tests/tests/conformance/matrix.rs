//! Clients and servers of several languages: what they tell of each other must be the same with sidecars and without.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use remora_test::binaries::readable;
use remora_test::pod::Pod;
use serde_json::Value;

use crate::course::{Course, Way};
use crate::peers::{OURS, peers, version};
use crate::report::same;

const CLIENTS: [&str; 10] =
    ["curl1", "http.client", "httpx1", "undici", "java", "java-h2c", "go1", "curl2", "httpx2", "go2"];
/// The servers, and whether they know HTTP/2 besides.
const SERVERS: [(&str, bool); 4] = [("go", true), ("node", true), ("python", false), ("java", false)];
/// What belongs to a hop or to the moment.
const UNCOMPARED: [&str; 4] = ["connection", "keep-alive", "transfer-encoding", "date"];

struct Peers {
    go: PathBuf,
    python: PathBuf,
    node: PathBuf,
    java: PathBuf,
}

/// The clients that can speak to a server.
fn clients(http2: bool) -> impl Iterator<Item = &'static str> {
    CLIENTS.into_iter().filter(move |client| http2 || !client.ends_with('2'))
}

impl Peers {
    fn server(&self, name: &str, pod: &Pod) -> Command {
        let mut command;
        match name {
            "go" => {
                command = pod.command(readable(&self.go.join("answer")));
                command.arg("[::]:8080");
            }
            "node" => {
                command = pod.command("node");
                command.args([&format!("{OURS}/apps/answer.cjs"), "8080"]);
            }
            "java" => {
                command = pod.command("java");
                command.arg("-cp").arg(self.java.join("lib/*")).args([&format!("{OURS}/apps/Answer.java"), "8080"]);
            }
            _ => {
                command = pod.command(self.python.join("bin/python"));
                command.args([&format!("{OURS}/apps/answer.py"), "8080"]);
            }
        }
        command
    }

    fn client(&self, name: &str, pod: &Pod) -> Command {
        let mut command;
        if let Some(http) = name.strip_prefix("go") {
            command = pod.command(readable(&self.go.join("ask")));
            command.arg(http);
        } else if name.starts_with("java") {
            command = pod.command("java");
            command.arg("-cp").arg(self.java.join("lib/*")).arg(format!("{OURS}/apps/Ask.java"));
            command.arg(if name == "java" { "HTTP_1_1" } else { "HTTP_2" });
        } else if name == "undici" {
            command = pod.command("node");
            command.arg(format!("{OURS}/apps/ask.cjs")).arg(self.node.join("node_modules"));
        } else {
            command = pod.command(self.python.join("bin/python"));
            command.args([&format!("{OURS}/apps/ask.py"), name]);
        }
        command.args(["http://server:8080", &format!("{OURS}/scenarios.json")]);
        command
    }

    /// What each client tells of each scenario, by `client to server: scenario`.
    fn tell(&self, server: &str, http2: bool, way: Way) -> BTreeMap<String, Value> {
        let course = Course::start(way, 8080, |pod| self.server(server, pod));
        let mut told = BTreeMap::new();
        for client in clients(http2) {
            let output = self.client(client, &course.client).output().unwrap();
            assert!(output.status.success(), "{client}: {output:?}");
            for line in String::from_utf8(output.stdout).unwrap().lines() {
                let mut one: Value = serde_json::from_str(line).unwrap();
                if let Some(headers) = one["headers"].as_object_mut() {
                    headers.retain(|name, _| !UNCOMPARED.contains(&name.as_str()));
                }
                if client == "java-h2c" {
                    forget_offer(&mut one);
                }
                told.insert(format!("{client} to {server}: {}", one["name"].as_str().unwrap()), one);
            }
        }
        told
    }
}

/// An offer of HTTP/2 is for whom it reaches first (RFC 9110 section 7.8): of a request that is told back, without sidecars, it is left out,
/// and so is how long that makes it.
fn forget_offer(told: &mut Value) {
    let echoed = told["text"].as_str().and_then(|text| serde_json::from_str(text).ok());
    if let Some(mut request) = echoed.filter(|request: &Value| request["headers"].is_object()) {
        request["headers"]
            .as_object_mut()
            .unwrap()
            .retain(|name, _| !["upgrade", "http2-settings"].contains(&name.as_str()));
        told["text"] = request;
        told["length"] = Value::Null;
        told["headers"]["content-length"] = Value::Null;
    }
}

#[test]
fn languages() {
    let Some([go, python, node, java]) = peers("matrix", ["go", "python", "node", "java"]) else { return };
    let peers = Peers { go, python, node, java };
    let scenarios = std::fs::read_to_string(Path::new(OURS).join("scenarios.json")).unwrap();
    let scenarios: Vec<Value> = serde_json::from_str(&scenarios).unwrap();
    let tell = |way| SERVERS.iter().flat_map(|(server, http2)| peers.tell(server, *http2, way)).collect();
    let versions = format!("httpx {}, undici {}", version("httpx[http2]"), version("undici"));
    let pairs: usize = SERVERS.iter().map(|(_, http2)| clients(*http2).count()).sum();
    same("clients and servers", &versions, scenarios.len() * pairs, tell);
}
