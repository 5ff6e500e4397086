//! Network namespaces as pods: a bridge in a namespace of its own, one veth pair into each pod, IPv4 and IPv6.
//!
//! ```no_run
//! # fn main() -> Result<(), remora_test::netns::Error> {
//! use remora_test::netns::Bridge;
//! let bridge = Bridge::new()?;
//! let client = bridge.pod("client")?;
//! let server = bridge.pod("server")?;
//! let listener = server.enter(|| std::net::TcpListener::bind((server.v4(), 0)))?;
//! let address = listener.local_addr()?;
//! client.enter(|| std::net::TcpStream::connect(address))?;
//! client.output("iptables-save", &["-t", "nat"])?;
//! # Ok(()) }
//! ```
//!
//! Names are `rm-<pid>-<n>-<pod>`, so parallel test processes never meet, and addresses stay inside the bridge's namespace, so
//! nothing is seen by the host. [`Netns`] and [`Bridge`] kill the processes that live in them and delete themselves on drop.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where `ip netns` mounts its names.
const RUN: &str = "/run/netns";

/// Why a namespace could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Starting a command, opening the namespace's file, or what a closure inside did.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A command ended with a code other than 0.
    #[error("`{command}` failed ({status}): {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// `setns` refused.
    #[error("cannot enter {name}: {source}")]
    Enter {
        /// The namespace.
        name: String,
        /// What the kernel said.
        source: nix::Error,
    },
}

/// The path of a system tool, also where PATH has no `/usr/sbin` (`su` without `-`); the bare name if it is nowhere.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| name.into())
}

/// A bridge in its own namespace: the wire between the pods of one mesh.
#[derive(Clone, Debug)]
pub struct Bridge(Arc<Wire>);

#[derive(Debug)]
struct Wire {
    namespace: Namespace,
    /// `rm-<pid>-<n>`
    prefix: String,
    /// The third byte of 10.77.x.0/24 and the last of fd77:0:0:x::/64.
    subnet: u8,
    pods: AtomicU16,
}

impl Bridge {
    /// Makes the namespace and the bridge `br0` in it, as the gateway .1 of a fresh subnet.
    ///
    /// # Errors
    /// `ip` is missing or refuses (not root, no NET_ADMIN).
    pub fn new() -> Result<Self, Error> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        sweep();
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let subnet = u8::try_from((pid.wrapping_add(n)) % 250 + 1).unwrap_or(1);
        let prefix = format!("rm-{pid}-{n}");
        let namespace = Namespace::new(format!("{prefix}-br"))?;
        // Without multicast snooping neighbour discovery works at once; without a forward delay so does everything else.
        batch(
            &namespace.name,
            &format!(
                "link set lo up\n\
                 link add br0 type bridge forward_delay 0 mcast_snooping 0\n\
                 link set br0 up\n\
                 addr add 10.77.{subnet}.1/24 dev br0\n\
                 addr add fd77:0:0:{subnet:x}::1/64 dev br0 nodad\n"
            ),
        )?;
        Ok(Self(Arc::new(Wire { namespace, prefix, subnet, pods: AtomicU16::new(1) })))
    }

    /// Makes a pod: a namespace with `lo` up and `eth0` on this bridge, an IPv4 and an IPv6 address, default routes.
    ///
    /// # Errors
    /// `ip` is missing or refuses.
    pub fn pod(&self, name: &str) -> Result<Netns, Error> {
        let wire = &self.0;
        let host = wire.pods.fetch_add(1, Ordering::Relaxed) + 1;
        let (byte, x) = (u8::try_from(host).map_err(io::Error::other)?, wire.subnet);
        let v4 = Ipv4Addr::new(10, 77, x, byte);
        let v6 = Ipv6Addr::new(0xfd77, 0, 0, x.into(), 0, 0, 0, host);
        let namespace = Namespace::new(format!("{}-{name}", wire.prefix))?;
        // The pair is born in the bridge's namespace, so that no interface name ever exists on the host.
        batch(
            &wire.namespace.name,
            &format!(
                "link add p{host} type veth peer name eth0 netns {}\nlink set p{host} master br0 up\n",
                namespace.name
            ),
        )?;
        batch(
            &namespace.name,
            &format!(
                "link set lo up\nlink set eth0 up\n\
                 addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\n\
                 route add default via 10.77.{x}.1\nroute add default via fd77:0:0:{x:x}::1\n"
            ),
        )?;
        let pod = Netns { v4, v6, namespace, bridge: self.clone() };
        pod.hosts(&[])?;
        // No name server: a look-up fails at once instead of waiting for one that cannot be reached.
        std::fs::write(
            pod.namespace.etc().join("resolv.conf"),
            "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
        )?;
        Ok(pod)
    }

    /// The namespace that holds the bridge: the place to capture what passes between all pods (`br0`).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.namespace.name
    }

    /// A command in the bridge's namespace.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.0.namespace.command(program)
    }
}

/// One pod's network namespace. Dropping it kills every process inside and deletes it.
#[derive(Debug)]
pub struct Netns {
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    namespace: Namespace,
    bridge: Bridge,
}

impl Netns {
    /// The name that `ip netns exec` takes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.namespace.name
    }

    /// The pod's IPv4 address, in 10.77.x.0/24.
    #[must_use]
    pub fn v4(&self) -> Ipv4Addr {
        self.v4
    }

    /// The pod's IPv6 address, in fd77:0:0:x::/64.
    #[must_use]
    pub fn v6(&self) -> Ipv6Addr {
        self.v6
    }

    /// The bridge this pod hangs on.
    #[must_use]
    pub fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    /// A command inside, as the caller's user.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.namespace.command(program)
    }

    /// A command inside, as `uid`:`gid`, with no capabilities, no groups and no way to regain either.
    #[must_use]
    pub fn command_as(&self, uid: u32, gid: u32, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.command(tool("setpriv"));
        command.args(["--reuid", &uid.to_string(), "--regid", &gid.to_string(), "--clear-groups"]);
        command.args(["--bounding-set=-all", "--no-new-privs", "--"]).arg(program);
        command
    }

    /// Runs a command inside to its end, as the caller's user; its code and output are the caller's to judge.
    ///
    /// # Errors
    /// It could not be started.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<Output, Error> {
        Ok(self.command(tool(program)).args(arguments).stdin(Stdio::null()).output()?)
    }

    /// Runs a closure inside on a thread of its own; sockets it makes stay in this namespace wherever they are used later.
    ///
    /// # Panics
    /// When the closure does, or the namespace cannot be entered.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.namespace.set().unwrap_or_else(|error| panic!("{error}"));
                inside()
            });
            thread.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
        })
    }

    /// Starts a thread inside that may outlive the caller, for servers and clients within the test process.
    pub fn spawn<T: Send + 'static>(&self, inside: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
        let handle = self.namespace.open();
        let name = self.name().to_owned();
        std::thread::spawn(move || {
            let file = handle.unwrap_or_else(|error| panic!("{name}: {error}"));
            setns(&file, CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("{name}: {error}"));
            inside()
        })
    }

    /// Writes this pod's own `/etc/hosts`, seen by every command started inside from now on (`ip netns exec` mounts it).
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn hosts(&self, lines: &[(String, &str)]) -> Result<(), Error> {
        let folder = self.namespace.etc();
        std::fs::create_dir_all(&folder)?;
        let mut text = String::from("127.0.0.1 localhost\n::1 localhost\n");
        for (address, name) in lines {
            text.push_str(&format!("{address} {name}\n"));
        }
        // Written in place: a rename would leave running processes, which hold the old file mounted, behind.
        Ok(std::fs::write(folder.join("hosts"), text)?)
    }

    /// Kills every process inside and waits until they are gone.
    pub fn kill_all(&self) {
        self.namespace.kill_all();
    }

    /// Takes the pod's cable out (`false`) or plugs it in again (`true`): packets vanish, nobody is told.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn link(&self, up: bool) -> Result<(), Error> {
        let port = self.v4.octets()[3];
        let state = if up { "up" } else { "down" };
        batch(self.bridge.name(), &format!("link set p{port} {state}\n"))
    }
}

/// A namespace by name; the guard.
#[derive(Debug)]
struct Namespace {
    name: String,
}

impl Namespace {
    fn new(name: String) -> Result<Self, Error> {
        run(Command::new(tool("ip")).args(["netns", "add", &name]))?;
        let namespace = Self { name };
        // Link-local addresses, too, are usable at once. /proc/sys/net shows the reading thread's namespace.
        std::thread::scope(|scope| {
            scope
                .spawn(|| -> Result<(), Error> {
                    namespace.set()?;
                    for scope in ["all", "default"] {
                        std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/accept_dad"), "0")?;
                    }
                    Ok(())
                })
                .join()
                .unwrap_or_else(|payload| std::panic::resume_unwind(payload))
        })?;
        Ok(namespace)
    }

    fn open(&self) -> io::Result<File> {
        File::open(Path::new(RUN).join(&self.name))
    }

    /// Where `ip netns exec` looks for files to mount over /etc.
    fn etc(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.name)
    }

    /// Moves the calling thread in.
    fn set(&self) -> Result<(), Error> {
        setns(self.open()?, CloneFlags::CLONE_NEWNET).map_err(|source| Error::Enter { name: self.name.clone(), source })
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(tool("ip"));
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    fn processes(&self) -> Vec<Pid> {
        let output = Command::new(tool("ip")).args(["netns", "pids", &self.name]).output();
        let Ok(output) = output else { return Vec::new() };
        let own = Pid::this();
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| line.trim().parse().ok().map(Pid::from_raw))
            .filter(|pid| *pid != own)
            .collect()
    }

    fn kill_all(&self) {
        // A process killed while it forks leaves a child behind: look again until none is left.
        for _ in 0..50 {
            let alive: Vec<Pid> = self.processes().into_iter().filter(|pid| !zombie(*pid)).collect();
            if alive.is_empty() {
                return;
            }
            for pid in alive {
                let _ = kill(pid, Signal::SIGKILL);
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.kill_all();
        let _ = Command::new(tool("ip")).args(["netns", "delete", &self.name]).stderr(Stdio::null()).status();
        let _ = std::fs::remove_dir_all(self.etc());
    }
}

/// Whether a killed process only waits for its parent to look.
fn zombie(pid: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit(')').next().map(|rest| rest.trim_start().starts_with('Z')))
        .unwrap_or(true)
}

/// Removes, once per process, the namespaces of test processes that were killed before they could.
fn sweep() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let Ok(entries) = std::fs::read_dir(RUN) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name.strip_prefix("rm-").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
            if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                drop(Namespace { name });
            }
        }
    });
}

/// Runs `ip` commands inside a namespace, all in one process.
fn batch(namespace: &str, lines: &str) -> Result<(), Error> {
    let mut command = Command::new(tool("ip"));
    command.args(["-n", namespace, "-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(lines.as_bytes())?;
    }
    checked(&command, child.wait_with_output()?).map(drop)
}

/// Runs a command to its end.
///
/// # Errors
/// It cannot be started, or ends with a code other than 0: then the error holds its standard error.
pub fn run(command: &mut Command) -> Result<Output, Error> {
    let output = command.stdin(Stdio::null()).output()?;
    checked(command, output)
}

fn checked(command: &Command, output: Output) -> Result<Output, Error> {
    if output.status.success() {
        return Ok(output);
    }
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Command { command: line, status: output.status, stderr })
}
