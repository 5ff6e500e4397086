//! The command: its exit code, its surroundings, its end.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::host::{Host, path, printed, said};

#[test]
fn the_exit_code_is_the_commands() {
    let host = Host::new();
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137), ("kill -TERM $$", 143)] {
        let output = host.run(&[], &["sh", "-c", script]);
        assert_eq!(output.status.code(), Some(code), "{script}: {output:?}");
        assert_eq!(said(&output), "", "{script}");
    }
}

#[test]
fn a_command_that_cannot_be_run_is_what_a_shell_calls_it() {
    let host = Host::new();
    let nowhere = host.run(&[], &["no-such-program"]);
    assert_eq!(nowhere.status.code(), Some(127), "{nowhere:?}");
    assert!(said(&nowhere).contains("no-such-program: No such file"), "{nowhere:?}");
    let folder = host.run(&[], &["/tmp"]);
    assert_eq!(folder.status.code(), Some(126), "{folder:?}");
}

#[test]
fn folder_variables_and_streams_are_the_callers() {
    let host = Host::new();
    let script = "pwd; echo $COLOUR; cat; echo aside >&2; echo $(ps -e -o comm= | sort -u)";
    let mut command = host.remora(&[], &["sh", "-c", script]);
    command.current_dir("/usr/share").env("COLOUR", "green");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"typed\n").unwrap();
    let output = child.wait_with_output().unwrap();
    // It sees the processes of its own run, and no others.
    assert_eq!(printed(&output), "/usr/share\ngreen\ntyped\nps remora-inside sh sort\n", "{output:?}");
    assert_eq!(said(&output), "aside\n");
}

#[test]
fn signals_are_handed_on() {
    let host = Host::new();
    let script = "trap 'exit 9' TERM; trap 'echo again' HUP; echo ready; while :; do sleep 0.05; done";
    let mut run = host.start(&[], &["sh", "-c", script]);
    let _ = run.printed("ready");
    run.signal(Signal::SIGHUP);
    let _ = run.printed("again");
    run.signal(Signal::SIGTERM);
    assert_eq!(run.wait().code(), Some(9), "{}", run.stderr());
}

/// Says each signal at once; SIGTERM ends it.
const SIGNALS: &str = "
import signal, sys
signals = {signal.SIGHUP, signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
print('ready', flush=True)
while True:
    came = signal.Signals(signal.sigwait(signals))
    print(came.name, flush=True)
    if came == signal.SIGTERM: sys.exit(9)
";

#[test]
fn a_signal_to_the_whole_process_group_comes_once() {
    let host = Host::new();
    let mut command = host.remora(&[], &[&path("python3"), "-c", SIGNALS]);
    let mut run = host.pod.process("run", command.process_group(0));
    let _ = run.printed("ready");
    killpg(Pid::from_raw(run.pid().cast_signed()), Signal::SIGHUP).unwrap();
    let _ = run.printed("SIGHUP");
    // To `remora run` alone: it is handed on, after whatever would be of the first.
    run.signal(Signal::SIGTERM);
    assert_eq!(run.wait().code(), Some(9), "{}", run.stderr());
    assert_eq!(run.stdout(), "ready\nSIGHUP\nSIGTERM\n");
}

#[test]
fn whoever_sends_to_us_by_name_reaches_the_command() {
    let host = Host::new();
    let mut run = host.start(&[], &[&path("python3"), "-c", SIGNALS]);
    let _ = run.printed("ready");
    let named: Vec<u32> =
        host.processes().into_iter().map(|(pid, _)| pid).filter(|pid| name(*pid) == "remora").collect();
    assert_eq!(named, [run.pid()], "`pkill remora` reaches nobody else");
    run.signal(Signal::SIGTERM);
    assert_eq!(run.wait().code(), Some(9), "{}", run.stderr());
}

fn name(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

#[test]
fn a_command_that_knows_no_signals_ends_by_them() {
    let host = Host::new();
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGHUP, 129)] {
        let mut run = host.start(&[], &["sh", "-c", "echo ready; exec sleep 1000"]);
        let _ = run.printed("ready");
        run.signal(signal);
        assert_eq!(run.wait().code(), Some(code), "{signal}: {}", run.stderr());
    }
}

#[test]
fn a_user_is_taken_with_groups_and_home() {
    let host = Host::new();
    let output = host.run(&["--user", "daemon"], &["sh", "-c", "id; echo $HOME $USER"]);
    let told = printed(&output);
    assert!(told.starts_with("uid=1(daemon) gid=1(daemon)") && told.ends_with("/usr/sbin daemon\n"), "{told}");
    let refused = host.run(&["--user", "no-such-user"], &["true"]);
    assert_eq!(
        (refused.status.code(), said(&refused).as_str()),
        (Some(125), "error: --user no-such-user: there is no such user\n")
    );
}
