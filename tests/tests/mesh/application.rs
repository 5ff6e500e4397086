//! A classic sidecar that shares its pod's process namespace: it ends with the application, and not before.

use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use remora_test::binaries::binary;
use remora_test::eventually;
use remora_test::mesh::Mesh;
use remora_test::netns::tool;
use remora_test::pod::Pod;
use remora_test::process::Process;
use remora_test::sidecar::{Answer, ask};

/// A pod with a process namespace: a shell as the sandbox, the proxy, and an application that runs until it is told to end.
struct Room {
    sandbox: Process,
    told: PathBuf,
    pod: Pod,
}

impl Room {
    fn start(pod: Pod, config: &str) -> Self {
        let file = pod.folder().join("remora.yaml");
        pod.write(&file, config);
        let told = pod.folder().join("told");
        nix::unistd::mkfifo(&told, Mode::from_bits_truncate(0o666)).unwrap();
        nix::sys::stat::fchmodat(
            nix::fcntl::AT_FDCWD,
            &told,
            Mode::from_bits_truncate(0o666),
            nix::sys::stat::FchmodatFlags::FollowSymlink,
        )
        .unwrap();
        let user = |id: u32| format!("{} --reuid {id} --regid {id} --clear-groups --", tool("setpriv").display());
        let (proxy, file) = (binary("remora-proxy"), file.display().to_string());
        let script = format!(
            "{} env REMORA_EXIT_WITH_APPLICATION=true {} --config {file} & proxy=$!\n{} sh -c 'read word < {}' &\nwait $proxy",
            user(1337),
            proxy.display(),
            user(2000),
            told.display()
        );
        let mut command = pod.command(tool("unshare"));
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &script]);
        let sandbox = pod.process("sandbox", &mut command);
        let room = Self { sandbox, told, pod };
        eventually("readiness", || room.ask("GET", 15_021, "/ready").filter(|answer| answer.code == 200));
        let _ = room.sandbox.said("the application is there");
        room
    }

    fn ask(&self, method: &str, port: u16, path: &str) -> Option<Answer> {
        ask(&self.pod, ([127, 0, 0, 1], port).into(), method, path)
    }

    /// The application ends.
    fn finish(told: &Path) {
        std::fs::write(told, "end\n").unwrap();
    }
}

#[test]
fn the_proxy_ends_with_the_application() {
    let mesh = Mesh::new();
    // A lame duck would serve nobody.
    let mut room = Room::start(mesh.pod("job"), "service: job\nlame_duck: 10m\ndrain_timeout: 20m\n");
    assert!(room.sandbox.ended().is_none());
    Room::finish(&room.told);
    assert_eq!(room.sandbox.wait().code(), Some(0), "{}", room.sandbox.stderr());
    let _ = room.sandbox.said("the application is gone");
    let _ = room.sandbox.said("drained");
}

#[test]
fn a_drain_waits_for_the_application_even_without_a_connection() {
    let mesh = Mesh::new();
    let (job, other) = (mesh.pod("job"), mesh.pod("other"));
    let _callee = other.peer("http", 8080, &[]);
    job.redirect();
    let mut room = Room::start(job, "service: job\nlame_duck: 0\ndrain_timeout: 20m\n");
    assert_eq!(room.ask("POST", 15_000, "/quitquitquit").unwrap().code, 200);
    eventually("the inbound listener closes", || (!room.pod.listens(15_006)).then_some(()));
    let late = room.pod.curl(&[&format!("http://{}/name", other.at(8080))]);
    assert_eq!((late.code, late.body.as_str()), (200, "other"), "it still calls");
    assert!(room.sandbox.ended().is_none());
    Room::finish(&room.told);
    assert_eq!(room.sandbox.wait().code(), Some(0), "{}", room.sandbox.stderr());
}
