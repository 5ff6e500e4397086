//! A real Kubernetes API server on loopback, with nothing behind it: no controllers, no scheduler, no node.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::mesh::Folder;
use crate::netns::run;

/// A running one; it ends when this is dropped.
#[derive(Debug)]
pub struct ApiServer {
    folder: Folder,
    kubeconfig: PathBuf,
    kubectl: PathBuf,
}

impl ApiServer {
    /// Starts one; none, said as SKIPPED, where its binaries are not at hand and REMORA_CLUSTER does not ask for them.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start() -> Option<Self> {
        let folder = Folder::new();
        let output = Command::new(tool("run.sh")).arg("api").arg(folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.code() == Some(3) && std::env::var_os("REMORA_CLUSTER").is_none() {
            println!("SKIPPED: {}", said.trim());
            return None;
        }
        assert!(output.status.success(), "{said}");
        let kubeconfig = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
        let bin = run(Command::new(tool("build.sh")).args(["api", "--cached"])).unwrap().stdout;
        let kubectl = Path::new(String::from_utf8(bin).unwrap().trim()).join("kubectl");
        Some(Self { folder, kubeconfig, kubectl })
    }

    /// What it keeps, its certificates in `pki/`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Whoever has it may do everything.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A kubectl command.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        command
    }

    /// What kubectl prints.
    ///
    /// # Panics
    /// When it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        String::from_utf8(run(&mut self.command(arguments)).unwrap().stdout).unwrap()
    }

    /// Ends it before its time.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&self) {
        run(Command::new(tool("run.sh")).arg("down").arg(self.folder.path())).unwrap();
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let _ = Command::new(tool("run.sh")).arg("down").arg(self.folder.path()).status();
    }
}

fn tool(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster").join(name)
}
