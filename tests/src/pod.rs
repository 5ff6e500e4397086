//! One pod: a namespace, a folder, an identity, and what is started in it.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::binaries::binary;
use crate::eventually;
use crate::mesh::{Folder, TRUST_DOMAIN, issue};
use crate::netns::{Netns, run, tool};
use crate::process::Process;
use crate::sidecar::Sidecar;

/// The proxy's user and group.
pub const PROXY: u32 = 1337;

/// Enters a control group and goes on as the rest of the arguments say. Where `ip netns exec` puts processes there is a bare
/// `/sys`, so the groups are mounted first.
const IN_GROUP: &str = "set -e\n\
    case \"$0\" in\n\
    */memory/*) mount -t tmpfs none /sys/fs/cgroup && mkdir /sys/fs/cgroup/memory\n\
        mount -t cgroup -o memory none /sys/fs/cgroup/memory ;;\n\
    *) mount -t cgroup2 none /sys/fs/cgroup ;;\n\
    esac\n\
    echo $$ >\"$0\"\n\
    exec \"$@\"";

/// One pod; a [`Netns`] and more. Clones are the same pod; it ends with its last one.
#[derive(Clone, Debug)]
pub struct Pod(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    name: String,
    /// The user of its applications.
    uid: u32,
    net: Netns,
    folder: PathBuf,
    started: AtomicU32,
    mesh: Arc<Folder>,
}

impl Deref for Pod {
    type Target = Netns;

    fn deref(&self) -> &Netns {
        &self.0.net
    }
}

impl Pod {
    pub(crate) fn new(name: &str, uid: u32, net: Netns, mesh: Arc<Folder>) -> Self {
        let folder = mesh.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        Self(Arc::new(Parts { name: name.to_owned(), uid, net, folder, started: AtomicU32::new(0), mesh }))
    }

    /// Its name within the mesh.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The pod's folder: configuration, `tls/`, logs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// `v4:port`.
    #[must_use]
    pub fn at(&self, port: u16) -> SocketAddr {
        (self.v4(), port).into()
    }

    /// `[v6]:port`.
    #[must_use]
    pub fn at6(&self, port: u16) -> SocketAddr {
        (self.v6(), port).into()
    }

    /// The SPIFFE ID that [`Pod::identity`] gives: account = the pod's name.
    #[must_use]
    pub fn id(&self) -> String {
        format!("spiffe://{TRUST_DOMAIN}/ns/test/sa/{}", self.0.name)
    }

    /// Where its certificate, key and bundle are.
    #[must_use]
    pub fn tls(&self) -> PathBuf {
        self.0.folder.join("tls")
    }

    /// Issues (again) its SVID from the mesh's authority.
    ///
    /// # Panics
    /// When `remora-certs` fails.
    pub fn identity(&self) {
        issue(self.0.mesh.authority(), &self.id(), &self.tls(), &[]);
    }

    /// Runs `remora-init apply` with its defaults.
    ///
    /// # Panics
    /// When it fails.
    pub fn redirect(&self) {
        self.redirect_with(&[]);
    }

    /// Runs `remora-init apply` with more arguments.
    ///
    /// # Panics
    /// When it fails.
    pub fn redirect_with(&self, arguments: &[&str]) {
        run(self.command(binary("remora-init")).arg("apply").args(arguments)).unwrap();
    }

    /// A configuration with this pod's name and identity, and `rest`.
    #[must_use]
    pub fn config(&self, rest: &str) -> String {
        let tls = self.tls();
        let tls = tls.display();
        format!(
            "service: {{name: {}, namespace: test}}\n\
             mtls:\n  trust_domain: {TRUST_DOMAIN}\n  certificate: {tls}/cert.pem\n  key: {tls}/key.pem\n  \
             trust_bundle: {tls}/bundle.pem\n{rest}\n",
            self.0.name
        )
    }

    /// All that makes a meshed pod: identity, redirection, a sidecar with [`Pod::config`] of `rest`, and its readiness.
    ///
    /// # Panics
    /// When any of it fails.
    #[must_use]
    pub fn sidecar(&self, rest: &str) -> Sidecar {
        self.identity();
        self.redirect();
        let sidecar = self.proxy(&self.config(rest));
        sidecar.ready();
        sidecar
    }

    /// A meshed pod without mTLS: redirection and a sidecar that has no identity.
    ///
    /// # Panics
    /// When any of it fails.
    #[must_use]
    pub fn plain_sidecar(&self, rest: &str) -> Sidecar {
        self.redirect();
        let sidecar = self.proxy(&format!("service: {}\n{rest}\n", self.0.name));
        sidecar.ready();
        sidecar
    }

    /// Only starts `remora-proxy` with exactly this configuration, under its own user; does not wait.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn proxy(&self, config: &str) -> Sidecar {
        self.proxy_with(config, &[])
    }

    /// As [`Pod::proxy`], with environment variables.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn proxy_with(&self, config: &str, environment: &[(&str, &str)]) -> Sidecar {
        let environment: Vec<_> = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        self.proxy_under(config, &environment)
    }

    /// As [`Pod::proxy`], started by `env` with these arguments: variables, or a program to run it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn proxy_under(&self, config: &str, arguments: &[String]) -> Sidecar {
        let file = self.0.folder.join("remora.yaml");
        self.write(&file, config);
        // Set by `env`, last in the chain: what enters the namespace as root must not be preloaded with a library.
        let mut command = self.command_as(PROXY, PROXY, "/usr/bin/env");
        command.args(arguments).arg(binary("remora-proxy")).arg("--config").arg(&file);
        Sidecar::new(self.clone(), file, self.process("proxy", &mut command))
    }

    /// As [`Pod::proxy`], in a control group from its beginning: the group's folder.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn proxy_in_group(&self, config: &str, group: &Path) -> Sidecar {
        let file = self.0.folder.join("remora.yaml");
        self.write(&file, config);
        let mut command = self.command("/bin/sh");
        command.arg("-c").arg(IN_GROUP).arg(group.join("cgroup.procs"));
        let id = PROXY.to_string();
        command.arg(tool("setpriv")).args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
        command.args(["--bounding-set=-all", "--no-new-privs", "--"]);
        command.arg(binary("remora-proxy")).arg("--config").arg(&file);
        Sidecar::new(self.clone(), file, self.process("proxy", &mut command))
    }

    /// Replaces a file at once: written beside, then renamed.
    ///
    /// # Panics
    /// When it cannot.
    pub fn write(&self, file: &Path, text: &str) {
        let fresh = file.with_extension("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(&fresh, file).unwrap();
    }

    /// Starts a command as a guarded process with logs in the pod's folder.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn process(&self, what: &str, command: &mut Command) -> Process {
        let n = self.0.started.fetch_add(1, Ordering::Relaxed);
        Process::start(&format!("{}/{what}", self.0.name), &self.0.folder.join(format!("{n}-{what}")), command)
    }

    /// A command as the pod's application user.
    #[must_use]
    pub fn user(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.command_as(self.0.uid, self.0.uid, program)
    }

    /// Starts an application as the application user, and waits until it listens on `port`.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn app(&self, port: u16, command: &mut Command) -> Process {
        let mut process = self.process(&format!("app-{port}"), command);
        eventually(&format!("{} listens on {port}", self.0.name), || {
            assert!(process.ended().is_none(), "{} ended: {}", self.0.name, process.stderr());
            self.listens(port).then_some(())
        });
        process
    }

    /// Starts `remora-peer KIND` on `port` of every address.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn peer(&self, kind: &str, port: u16, arguments: &[&str]) -> Process {
        let mut command = self.user(binary("remora-peer"));
        command.args([kind, "--listen", &format!("[::]:{port}"), "--name", &self.0.name]).args(arguments);
        self.app(port, &mut command)
    }

    /// Whether anything listens on a TCP port, read from the kernel's tables so that no connection is made.
    #[must_use]
    pub fn listens(&self, port: u16) -> bool {
        let wanted = format!(":{port:04X}");
        let tables = self.enter(|| {
            ["tcp", "tcp6"]
                .map(|family| std::fs::read_to_string(format!("/proc/thread-self/net/{family}")).unwrap_or_default())
        });
        tables.iter().flat_map(|table| table.lines().skip(1)).any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let local = words.next().unwrap_or_default();
            local.ends_with(&wanted) && words.nth(1) == Some("0A")
        })
    }

    /// Runs a command as the application user to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = self.user(tool(program));
        command.args(arguments).stdin(std::process::Stdio::null()).output().unwrap()
    }

    /// Runs a future inside, on a thread and a runtime of its own.
    ///
    /// # Panics
    /// When the future does.
    pub fn block_on<F: Future>(&self, future: impl FnOnce() -> F + Send) -> F::Output
    where
        F::Output: Send,
    {
        self.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(future())
        })
    }
}
