//! What goes wrong, in one line and with an exit code of its own.

use std::fs::File;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};
use remora_test::binaries::binary;
use remora_test::netns::{Netns, tool};

use crate::pod::{BACKENDS, Ran, World, init, init_command, ready, saved};

/// A folder that is removed again.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("remora-init-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn link(&self, name: &str) {
        symlink(tool(name), self.0.join(name)).unwrap();
    }

    fn script(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn with_capabilities(pod: &Netns, capabilities: &str, flags: &[&str]) -> Command {
    let mut command = pod.command(tool("setpriv"));
    let bounding = format!("--bounding-set=-all{capabilities}");
    let (inherited, ambient) = (format!("--inh-caps=-all{capabilities}"), format!("--ambient-caps=-all{capabilities}"));
    command.args(["--reuid", "1000", "--regid", "1000", "--clear-groups", "--no-new-privs"]);
    command
        .args([inherited.as_str(), ambient.as_str(), bounding.as_str(), "--"])
        .arg(binary("remora-init"))
        .args(flags);
    command
}

fn nothing_is_there(pod: &Netns) {
    for backend in BACKENDS {
        assert_eq!(saved(pod, backend), Vec::<String>::new());
    }
}

#[test]
fn bad_arguments_are_2() {
    if !ready() {
        return;
    }
    let world = World::new();
    init(&world.pod, &["--exclude-inbound-ports", "http"]).failed(2, "--exclude-inbound-ports http");
    assert_eq!(init(&world.pod, &["--frobnicate"]).code, Some(2));
    nothing_is_there(&world.pod);
}

#[test]
fn a_missing_capability_is_3_and_named() {
    if !ready() {
        return;
    }
    let world = World::new();
    let run = |capabilities, flags: &[&str]| Ran::of(&mut with_capabilities(&world.pod, capabilities, flags));
    run("", &[]).failed(3, "NET_ADMIN");
    run("", &["cleanup"]).failed(3, "NET_ADMIN");
    run(",+net_admin", &["--backend", "legacy"]).failed(3, "NET_RAW");
    nothing_is_there(&world.pod);
    run(",+net_admin", &["--backend", "nft"]).succeeded();
    init(&world.pod, &["verify"]).succeeded();
    init(&world.pod, &["cleanup"]).succeeded();
    // Another uid cannot open root's lock file; the namespace's own lock is enough.
    run(",+net_admin,+net_raw", &["--backend", "legacy"]).succeeded();
    init(&world.pod, &["verify", "--backend", "legacy"]).succeeded();
}

#[test]
fn missing_programs_are_4() {
    if !ready() {
        return;
    }
    let world = World::new();
    let empty = Folder::new("empty");
    init(&world.pod, &["--iptables-path", empty.path()]).failed(4, "iptables-nft-restore or iptables-legacy-restore");
    init(&world.pod, &["--iptables-path", empty.path(), "--backend", "legacy"]).failed(4, "iptables-legacy-save");
    init(&world.pod, &["--iptables-path", empty.path(), "cleanup"]).failed(4, "no ");
    nothing_is_there(&world.pod);
    let mut lost = init_command(&world.pod, &[]);
    Ran::of(lost.env("PATH", "/nowhere")).succeeded();
}

#[test]
fn a_multi_call_binary_or_a_plain_name_will_do() {
    if !ready() {
        return;
    }
    for backend in BACKENDS {
        let world = World::new();
        let multi = Folder::new(&format!("multi-{backend}"));
        multi.link(&format!("xtables-{backend}-multi"));
        let found = init(&world.pod, &["--iptables-path", multi.path()]).succeeded();
        assert_eq!(found.stdout.matches(&format!("iptables-{backend}")).count(), 2, "{found:?}");

        let plain = Folder::new(&format!("plain-{backend}"));
        for family in ["iptables", "ip6tables"] {
            for verb in ["save", "restore"] {
                let program = tool(&format!("{family}-{backend}-{verb}"));
                plain.script(&format!("{family}-{verb}"), &format!("exec {} \"$@\"", program.display()));
            }
        }
        let again = init(&world.pod, &["--iptables-path", plain.path()]).succeeded();
        assert_eq!(again.stdout.matches(&format!("nothing changed (iptables-{backend})")).count(), 2, "{again:?}");
    }
}

#[test]
fn a_lock_held_too_long_is_5() {
    if !ready() {
        return;
    }
    let world = World::new();
    let folder = Folder::new("lock");
    let path = Path::new(folder.path()).join("xtables.lock");
    let held = Flock::lock(File::create(&path).unwrap(), FlockArg::LockExclusive).map_err(|(_, errno)| errno).unwrap();
    let mut command = init_command(&world.pod, &["--backend", "legacy", "--wait", "1"]);
    Ran::of(command.env("XTABLES_LOCKFILE", &path)).failed(5, "xtables lock is still locked after 1 s");
    nothing_is_there(&world.pod);
    drop(held);
    Ran::of(&mut command).succeeded();

    let other = World::new();
    let name = SocketAddr::from_abstract_name("remora-init").unwrap();
    let held = other.pod.enter(|| UnixListener::bind_addr(&name)).unwrap();
    init(&other.pod, &["--wait", "0"]).failed(5, "another remora-init");
    nothing_is_there(&other.pod);
    drop(held);
    init(&other.pod, &["--wait", "0"]).succeeded();
}

#[test]
fn refused_rules_are_6() {
    if !ready() {
        return;
    }
    let world = World::new();
    let folder = Folder::new("refuse");
    folder.link("iptables-nft-save");
    folder.script(
        "iptables-nft-restore",
        "case \"$*\" in *--test*) exit 0;; esac; echo 'unknown option \"--dports\"' >&2; exit 1",
    );
    init(&world.pod, &["--iptables-path", folder.path()]).failed(6, "unknown option");
    folder.script("iptables-nft-restore", "exit 0");
    init(&world.pod, &["--iptables-path", folder.path()]).failed(6, "not there: nat: missing rule");
    nothing_is_there(&world.pod);
}

#[test]
fn ipv6_that_nothing_redirects_is_refused_unless_it_is_off() {
    if !ready() {
        return;
    }
    let world = World::new();
    let folder = Folder::new("v4-only");
    ["iptables-nft-save", "iptables-nft-restore"].iter().for_each(|name| folder.link(name));
    let path = ["--iptables-path", folder.path()];
    init(&world.pod, &path).failed(4, &format!("has the IPv6 address {}", world.pod.v6()));
    let told = init(&world.pod, &[&path[..], &["--ipv6", "off"]].concat()).succeeded();
    assert!(told.stdout.contains("IPv6: no rules: IPv6 is left alone"), "{told:?}");

    let off = || std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
    world.pod.enter(off).unwrap();
    let told = init(&world.pod, &path).succeeded();
    assert!(told.stdout.contains("IPv6: no rules: IPv6 is off in this namespace"), "{told:?}");
    init(&world.pod, &[]).succeeded();
    let verified = init(&world.pod, &["verify"]).succeeded();
    assert!(verified.stdout.contains("untried  IPv6: off"), "{verified:?}");
    init(&world.pod, &["cleanup"]).succeeded();
    nothing_is_there(&world.pod);
}

#[test]
fn initialisers_at_the_same_time_all_succeed_and_add_nothing_twice() {
    if !ready() {
        return;
    }
    for backend in BACKENDS {
        let world = World::new();
        let flags = ["--backend", backend, "--wait", "30"];
        let run = || init_command(&world.pod, &flags).stdout(std::process::Stdio::null()).spawn().unwrap();
        let children: Vec<_> = (0..6).map(|_| run()).collect();
        for mut child in children {
            assert_eq!(child.wait().unwrap().code(), Some(0));
        }
        let together = saved(&world.pod, backend);
        init(&world.pod, &["cleanup"]).succeeded();
        init(&world.pod, &flags).succeeded();
        assert_eq!(together, saved(&world.pod, backend), "as if one had run");
    }
}

#[test]
fn a_dry_run_needs_nothing_and_changes_nothing() {
    if !ready() {
        return;
    }
    let world = World::new();
    let mut command = with_capabilities(&world.pod, "", &["--dry-run", "--iptables-path", "/nowhere"]);
    let printed = Ran::of(&mut command).succeeded();
    assert!(printed.stdout.contains("-A REMORA_OUT_REDIRECT -p tcp -j REDIRECT --to-ports 15001"), "{printed:?}");
    nothing_is_there(&world.pod);
}
