//! Nothing is left: interfaces, rules, forwarding, records and processes are what they were.

use nix::sys::signal::Signal;
use remora_test::eventually;

use crate::host::Host;

#[test]
fn nothing_is_left_when_the_command_ends() {
    let host = Host::new();
    let before = host.left();
    // One of its processes would go on.
    let output = host.run(&["--publish", "9000:8080"], &["sh", "-c", "sleep 4242 & setsid sleep 4243 & exit 3"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(host.left(), before);
}

#[test]
fn nothing_is_left_after_sigterm() {
    let host = Host::new();
    let before = host.left();
    let web = host.serve("web", &[]);
    let there = host.left();
    for made in ["remora0", "remora-2", "-A FORWARD -i remora0", "MASQUERADE", "network.json", "remora-proxy"] {
        assert!(there.iter().any(|line| line.contains(made)), "{made} was to be there: {there:#?}");
    }
    host.end(web);
    assert_eq!(host.left(), before);
}

#[test]
fn nothing_is_left_after_sigkill_and_the_next_run() {
    let host = Host::new();
    let before = host.left();
    let mut web = host.serve("web", &[]);
    web.signal(Signal::SIGKILL);
    web.wait();
    // The kernel ends them without our help.
    eventually("the end of all its processes", || host.processes().is_empty().then_some(()));
    // It takes the same name and address.
    let next = host.run(&["--name", "web"], &["true"]);
    assert_eq!(next.status.code(), Some(0), "{next:?}");
    assert_eq!(host.left(), before);
}

#[test]
fn the_last_run_takes_the_network_down_and_no_earlier_one() {
    let host = Host::new();
    let before = host.left();
    let web = host.serve("web", &["--port", "8080"]);
    assert_eq!(host.run(&[], &["true"]).status.code(), Some(0));
    assert_eq!(host.get((host.address("web"), 8080).into(), "/name").unwrap().body, "web");
    host.end(web);
    assert_eq!(host.left(), before);
}
