//! Namespaces that nothing but open files of this process holds: they have no name on the host, and go, with what is in them, when
//! the process goes, however it goes.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::Error;

/// A new network namespace.
pub(super) fn network() -> Result<File, Error> {
    apart(|| {
        unshare(CloneFlags::CLONE_NEWNET).map_err(Error::kernel("make a network namespace"))?;
        open("net")
    })
}

/// A new mount namespace, a copy of the host's with `binds` (what, over what) put over files and folders in this order. What the host
/// mounts later appears in it, too.
pub(super) fn mounts(binds: &[(PathBuf, PathBuf)]) -> Result<File, Error> {
    apart(|| {
        unshare(CloneFlags::CLONE_NEWNS).map_err(Error::kernel("make a mount namespace"))?;
        receive_only()?;
        for (what, over) in binds {
            let what_for = format!("mount {} over {}", what.display(), over.display());
            mount(Some(what), over, None::<&Path>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&Path>)
                .map_err(Error::kernel(what_for))?;
        }
        open("mnt")
    })
}

/// From now on the calling thread's mounts stay in its mount namespace.
pub(super) fn receive_only() -> Result<(), Error> {
    let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&Path>, "/", None::<&Path>, flags, None::<&Path>).map_err(Error::kernel("separate the mounts"))
}

/// Runs a closure in the network namespace; sockets it makes stay there wherever they are used later.
pub(super) fn inside<T: Send>(network: &File, closure: impl FnOnce() -> T + Send) -> Result<T, Error> {
    apart(|| {
        setns(network, CloneFlags::CLONE_NEWNET).map_err(Error::kernel("enter the network namespace"))?;
        Ok(closure())
    })
}

/// Where other processes find a namespace, or what else is open, that this process holds.
pub(super) fn path(held: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), held.as_raw_fd()))
}

fn open(kind: &str) -> Result<File, Error> {
    let path = PathBuf::from(format!("/proc/thread-self/ns/{kind}"));
    File::open(&path).map_err(Error::file(path))
}

/// On a thread of its own: namespaces are a thread's.
fn apart<T: Send>(closure: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    std::thread::scope(|scope| scope.spawn(closure).join().unwrap_or_else(|payload| std::panic::resume_unwind(payload)))
}
