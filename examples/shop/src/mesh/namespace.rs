//! Network namespaces: made and removed by `ip netns`, entered by a thread for the demo's own connections.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns};

/// Runs a future inside the namespace, on a thread of its own with a runtime of its own: sockets belong to the namespace
/// in which they are made. Dropping the returned future ends the inner one.
pub async fn within<F, T>(namespace: &str, work: impl FnOnce() -> F + Send + 'static) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
    T: Send + 'static,
{
    let path = Path::new("/run/netns").join(namespace);
    let (mut answer, answered) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name(format!("in {namespace}")).spawn(move || {
        let runtime = File::open(&path)
            .and_then(|file| setns(file, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from))
            .and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build());
        match runtime.with_context(|| format!("cannot enter {}", path.display())) {
            Ok(runtime) => runtime.block_on(async move {
                tokio::select! {
                    result = work() => drop(answer.send(result)),
                    () = answer.closed() => {}
                }
            }),
            Err(error) => drop(answer.send(Err(error))),
        }
    })?;
    answered.await.with_context(|| format!("the work in {namespace} ended early"))?
}

/// Where `ip netns exec` takes a namespace's /etc files from.
pub fn etc(namespace: &str) -> PathBuf {
    Path::new("/etc/netns").join(namespace)
}
