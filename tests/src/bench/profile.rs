//! Samples both sidecars while a scenario's load runs, with `perf` and its clock: machines without hardware counters have that, too.

use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use super::flame::{Stacks, folded};
use super::{Chain, Kind, Scenario};
use crate::eventually;
use crate::mesh::Folder;
use crate::netns::{run, tool};
use crate::process::Process;

/// Stacks of both sidecars of Remora under a scenario's load.
///
/// # Panics
/// When a request fails, or perf samples nothing.
#[must_use]
pub fn profile(scenario: Scenario, seconds: f64) -> Stacks {
    let folder = Folder::new();
    let data = folder.path().join("perf.data");
    // Envoy is not started.
    let mut chain = Chain::start(Kind::Remora, scenario, Path::new(""));
    // Warm: what is looked at is not the start.
    let _ = chain.round(1.0);
    let pids = chain.pids().expect("sidecars that are up").map(|pid| pid.to_string()).join(",");
    let mut command = Command::new(tool("perf"));
    command.args(["record", "-q", "-e", "cpu-clock", "-F", "499", "--call-graph", "dwarf,8192", "-p", &pids, "-o"]);
    let mut perf = Process::start("perf", &folder.path().join("perf"), command.arg(&data));
    eventually("perf records", || {
        assert!(perf.ended().is_none(), "perf ended: {}", perf.stderr());
        data.exists().then_some(())
    });
    let _ = chain.again(seconds);
    perf.signal(Signal::SIGINT);
    perf.wait();
    let mut script = Command::new(tool("perf"));
    script.args(["script", "--no-inline", "-F", "comm,tid,event,ip,sym,dso", "-i"]).arg(&data);
    let stacks = folded(&String::from_utf8_lossy(&run(&mut script).unwrap().stdout));
    assert!(!stacks.is_empty(), "no samples: {}", perf.stderr());
    stacks
}
