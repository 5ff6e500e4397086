//! What kernel and iptables can do here, tried where nobody is: in a network namespace made for the moment.

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use remora_model::capture::CaptureSpec;

use crate::apply::{Report, apply};
use crate::{Error, Options, netlink};

/// Redirects a new network namespace as `spec` says, and lets it go. Needs SYS_ADMIN. The kernel may load the modules
/// that it takes, as for any other rules; nothing else is left.
///
/// # Errors
/// See [`Error`]: what would keep any other namespace from being redirected.
pub fn trial(spec: &CaptureSpec, options: &Options) -> Result<Report, Error> {
    std::thread::scope(|scope| {
        // Only this thread and the programs it starts are in the new namespace, which ends with them.
        let trial = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
                Errno::EPERM => Error::Capability("SYS_ADMIN"),
                errno => Error::io("make a network namespace", errno.into()),
            })?;
            netlink::set_lo_up()?;
            apply(spec, options)
        });
        trial.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    })
}
