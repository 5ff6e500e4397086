//! The running cluster: kubectl, `remora`, images, and commands in the network of a pod.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use remora_test::binaries::binary;
use remora_test::netns::run;
use serde_json::Value;

/// A node that `tests/cluster/run.sh` started.
pub(crate) struct Cluster {
    folder: PathBuf,
    kubectl: PathBuf,
}

impl Cluster {
    /// Loads the images and installs the control plane.
    pub(crate) fn prepare(folder: &Path, mesh: &Path) -> Self {
        let cluster = Self::found(folder);
        let images = PathBuf::from(std::env::var_os("REMORA_IMAGES").expect("REMORA_IMAGES names target/images"));
        let archives = ["init", "proxy", "control", "shop"].map(|name| images.join(format!("{name}.tar")));
        run(Command::new(tool("run.sh")).arg("load").arg(folder).args(archives)).unwrap();
        if cluster.before().exists() {
            // An earlier run's pods have restarted, and its authority has two roots.
            cluster.remora(&["uninstall"]);
            cluster.delete_namespaces();
        } else {
            std::fs::write(cluster.before(), cluster.everything()).unwrap();
        }
        cluster.remora(&["install", "--mesh-config", mesh.to_str().unwrap()]);
        cluster
    }

    /// The cluster as it is.
    pub(crate) fn found(folder: &Path) -> Self {
        let bin = run(Command::new(tool("build.sh")).args(["node", "--cached"])).unwrap().stdout;
        let bin = PathBuf::from(String::from_utf8(bin).unwrap().trim());
        Self { folder: folder.to_owned(), kubectl: bin.join("kubectl") }
    }

    /// Where all objects are listed that were there before the control plane.
    pub(crate) fn before(&self) -> PathBuf {
        self.folder.join("before.txt")
    }

    /// Takes away the tests' namespaces with all that is in them, and waits for that.
    pub(crate) fn delete_namespaces(&self) {
        self.kubectl(&["delete", "namespace", "--ignore-not-found", "shop", "observe", "plain", "team"]);
    }

    /// A folder for what a test writes.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let folder = self.folder.join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// All objects of every kind, a line each, but for what comes and goes by itself.
    pub(crate) fn everything(&self) -> String {
        let kinds = self.kubectl(&["api-resources", "--verbs=list", "-o", "name"]);
        let passing = ["events", "leases.", "endpoints", "endpointslices.", "componentstatuses"];
        let kinds: Vec<&str> =
            kinds.lines().filter(|kind| !passing.iter().any(|passing| kind.starts_with(passing))).collect();
        let columns = "custom-columns=A:.kind,B:.metadata.namespace,C:.metadata.name";
        let listed = self.kubectl(&["get", &kinds.join(","), "-A", "--no-headers", "-o", columns]);
        let mut lines: Vec<String> =
            listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        lines.sort();
        lines.join("\n")
    }

    /// The file that tells clients of the API server where it is, and who they are.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("pki/admin.kubeconfig")
    }

    /// What `remora` prints; it must succeed.
    pub(crate) fn remora(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(binary("remora"));
        let output = run(command.args(arguments).arg("--kubeconfig").arg(self.kubeconfig())).unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// kubectl, with its folder in PATH for what it runs.
    pub(crate) fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(arguments);
        command
    }

    /// Runs a document's commands in a folder, as whoever reads it would, with this cluster's kubectl and our programs.
    pub(crate) fn shell(&self, folder: &Path, script: &str) -> Output {
        let programs = self.folder("programs");
        for name in ["remora", "remora-certs"] {
            std::os::unix::fs::symlink(binary(name), programs.join(name)).unwrap();
        }
        let others = std::env::var("PATH").unwrap();
        let path = format!("{}:{}:{others}", programs.display(), self.kubectl.parent().unwrap().display());
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", script]).current_dir(folder);
        command.env("PATH", path).env("KUBECONFIG", self.kubeconfig()).output().unwrap()
    }

    /// What kubectl prints; it must succeed.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        String::from_utf8(run(&mut self.kubectl_command(arguments)).unwrap().stdout).unwrap()
    }

    /// An object or a list of them, as JSON.
    pub(crate) fn object(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.kubectl(&[&["get", "-o", "json"], arguments].concat())).unwrap()
    }

    /// Creates or changes an object in a namespace.
    pub(crate) fn apply(&self, namespace: &str, object: &Value) {
        let file = self.folder.join("object.json");
        std::fs::write(&file, object.to_string()).unwrap();
        self.kubectl(&["-n", namespace, "apply", "--server-side", "--force-conflicts", "-f", file.to_str().unwrap()]);
    }

    /// The pods of an application that are not on their way out.
    pub(crate) fn pods(&self, namespace: &str, app: &str) -> Vec<Value> {
        let pods = self.object(&["pods", "-n", namespace, "-l", &format!("app={app}")]);
        let items = pods["items"].as_array().unwrap().iter();
        items.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).cloned().collect()
    }

    /// The only pod of an application.
    pub(crate) fn pod(&self, namespace: &str, app: &str) -> Value {
        let pods = self.pods(namespace, app);
        assert_eq!(pods.len(), 1, "pods of {app}");
        pods.into_iter().next().unwrap()
    }

    /// Runs one of the node's programs in the node.
    pub(crate) fn on_node(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(tool("run.sh"));
        command.arg("exec").arg(&self.folder).args(arguments);
        command
    }

    /// The process of a container, as the node numbers it.
    pub(crate) fn process(&self, pod: &Value, container: &str) -> String {
        let statuses =
            ["initContainerStatuses", "containerStatuses"].map(|kind| pod["status"][kind].as_array().cloned());
        let mut statuses = statuses.into_iter().flatten().flatten();
        let status =
            statuses.find(|status| status["name"] == container).unwrap_or_else(|| panic!("no container {container}"));
        let id = status["containerID"].as_str().unwrap().trim_start_matches("containerd://").to_owned();
        let tasks =
            run(&mut self.on_node(&["ctr", "-a", "/run/containerd.sock", "-n", "k8s.io", "task", "ls"])).unwrap();
        let tasks = String::from_utf8(tasks.stdout).unwrap();
        let line = tasks
            .lines()
            .find(|line| line.starts_with(&id))
            .unwrap_or_else(|| panic!("{container} does not run:\n{tasks}"));
        line.split_whitespace().nth(1).unwrap().to_owned()
    }

    /// Runs one of this machine's programs in the network of a pod, as a user who is not the proxy.
    pub(crate) fn in_pod(&self, pod: &Value, container: &str, arguments: &[&str]) -> Output {
        let process = self.process(pod, container);
        let enter = ["nsenter", "-t", &process, "-n", "--"];
        self.on_node(&[&enter, arguments].concat()).output().unwrap()
    }

    /// Waits up to three minutes, far beyond what it takes, and shows the pods where it was in vain.
    pub(crate) fn await_that<T>(&self, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(180);
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            if Instant::now() >= deadline {
                let pods = self.kubectl(&["get", "pods", "-A", "-o", "wide"]);
                let events = self.kubectl(&["get", "events", "-A", "--sort-by=.lastTimestamp"]);
                panic!("waited in vain: {what}\n{pods}\n{events}");
            }
            std::thread::park_timeout(Duration::from_millis(200));
        }
    }

    /// Waits until a Deployment is all there, in its newest form.
    pub(crate) fn await_rollout(&self, namespace: &str, deployment: &str) {
        let told = self
            .kubectl_command(&["-n", namespace, "rollout", "status", "deployment", deployment, "--timeout=180s"])
            .output();
        let told = told.unwrap();
        if !told.status.success() {
            let pods = self.kubectl(&["-n", namespace, "describe", "pods", "-l", &format!("app={deployment}")]);
            let logs = self
                .kubectl_command(&[
                    "-n",
                    namespace,
                    "logs",
                    "-l",
                    &format!("app={deployment}"),
                    "--all-containers",
                    "--tail=20",
                ])
                .output();
            panic!(
                "{deployment} is not rolled out: {told:?}\n{pods}\n{}",
                String::from_utf8_lossy(&logs.unwrap().stdout)
            );
        }
    }
}

/// A script of `tests/cluster`.
pub(crate) fn tool(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster").join(name)
}

/// What `clients` do again and again while `change` happens: how often they did it, and what failed.
pub(crate) fn meanwhile(
    clients: usize,
    attempt: impl Fn() -> Result<(), String> + Sync,
    change: impl FnOnce(),
) -> (u32, Vec<String>) {
    /// Ends the clients, also where the change panics.
    struct Done<'d>(&'d AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (done, count) = (AtomicBool::new(false), AtomicU32::new(0));
    let failures = std::thread::scope(|scope| {
        let client = || {
            let mut failed = Vec::new();
            while !done.load(Ordering::Relaxed) {
                failed.extend(attempt().err());
                count.fetch_add(1, Ordering::Relaxed);
            }
            failed
        };
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        let end = Done(&done);
        change();
        drop(end);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    (count.into_inner(), failures)
}

/// Whoever tests something of the shop holds it meanwhile.
pub(crate) static TURN: Mutex<()> = Mutex::new(());
