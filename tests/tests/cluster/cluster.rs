//! The running cluster: kubectl, images, the authority, and commands in the network of a pod.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use remora_test::binaries::binary;
use remora_test::mesh::make_authority;
use remora_test::netns::run;
use remora_test::process::Process;
use serde_json::Value;

/// The trust domain of the cluster.
pub(crate) const TRUST_DOMAIN: &str = "cluster.local";

/// A node that `tests/cluster/run.sh` started.
pub(crate) struct Cluster {
    folder: PathBuf,
    kubectl: PathBuf,
    /// The node's address, where its authority listens too.
    pub(crate) node: String,
    _authority: Option<Process>,
}

impl Cluster {
    /// Loads the images and starts an authority on the node, unless an earlier run did.
    pub(crate) fn prepare(folder: &Path) -> Self {
        let bin = run(Command::new(tool("build.sh")).args(["node", "--cached"])).unwrap().stdout;
        let kubectl = Path::new(String::from_utf8(bin).unwrap().trim()).join("kubectl");
        let slot = std::fs::read_to_string(folder.join("slot")).unwrap();
        let node = format!("10.99.{}.1", slot.trim());
        let mut cluster = Self { folder: folder.to_owned(), kubectl, node, _authority: None };
        let images = PathBuf::from(std::env::var_os("REMORA_IMAGES").expect("REMORA_IMAGES names target/images"));
        let archives = ["init", "proxy", "control", "shop"].map(|name| images.join(format!("{name}.tar")));
        run(Command::new(tool("run.sh")).arg("load").arg(folder).args(archives)).unwrap();
        let ca = folder.join("ca");
        if !ca.exists() {
            make_authority(&ca, TRUST_DOMAIN);
            cluster.start_authority(&ca);
        }
        cluster
    }

    /// In the node's namespaces: it ends with them.
    fn start_authority(&mut self, ca: &Path) {
        let mut command = Command::new(tool("run.sh"));
        command.arg("exec").arg(&self.folder).arg(binary("remora-certs")).arg("serve").arg("--dir").arg(ca);
        command.args(["--listen", &format!("{}:15012", self.node), "--dns-name", &self.node]);
        command.args(["--admin", "127.0.0.1:15013", "--kubernetes", "--kubeconfig"]);
        command.arg(self.folder.join("pki/admin.kubeconfig"));
        self._authority = Some(Process::start("authority", &self.folder.join("log/authority"), &mut command));
    }

    /// The roots that vouch for the authority and for every workload.
    pub(crate) fn bundle(&self) -> String {
        std::fs::read_to_string(self.folder.join("ca/bundle.pem")).unwrap()
    }

    fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(self.folder.join("pki/admin.kubeconfig")).args(arguments);
        command
    }

    /// What kubectl prints; it must succeed.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        String::from_utf8(run(&mut self.kubectl_command(arguments)).unwrap().stdout).unwrap()
    }

    /// An object or a list of them, as JSON.
    pub(crate) fn object(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.kubectl(&[&["get", "-o", "json"], arguments].concat())).unwrap()
    }

    /// The objects that a file of manifests holds.
    pub(crate) fn read(&self, namespace: &str, file: &Path) -> Vec<Value> {
        let file = file.to_str().unwrap();
        let said = self.kubectl(&[
            "-n",
            namespace,
            "create",
            "--dry-run=client",
            "--validate=ignore",
            "-o",
            "json",
            "-f",
            file,
        ]);
        serde_json::Deserializer::from_str(&said).into_iter().map(Result::unwrap).collect()
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

/// Whoever tests something of the shop holds it meanwhile.
pub(crate) static TURN: Mutex<()> = Mutex::new(());
