//! One initialiser at a time per network namespace.
//!
//! `iptables-save` and `iptables-restore` are two steps: a second initialiser between them would add our entries twice. Names of
//! abstract sockets belong to a network namespace and end with their process, so one is just the lock this needs; a file would
//! not be shared by two containers.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::{Duration, Instant};

use crate::Error;

/// The lock; it ends with this value or the process.
#[derive(Debug)]
pub(crate) struct Lock {
    _listener: UnixListener,
}

/// Takes the lock, waiting up to `seconds`.
pub(crate) fn take(seconds: u32) -> Result<Lock, Error> {
    let failed = |source| Error::io("take the namespace's lock", source);
    let address = SocketAddr::from_abstract_name(b"remora-init").map_err(failed)?;
    let deadline = Instant::now() + Duration::from_secs(seconds.into());
    loop {
        match UnixListener::bind_addr(&address) {
            Ok(listener) => return Ok(Lock { _listener: listener }),
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(failed(error)),
            Err(_) if Instant::now() >= deadline => {
                return Err(Error::Locked { what: "lock of another remora-init", seconds });
            }
            // A released name tells nobody: asking again is the only way.
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_waits_and_then_gives_up() {
        let first = take(0).unwrap();
        assert!(matches!(take(0), Err(Error::Locked { .. })));
        drop(first);
        assert!(take(0).is_ok());
    }
}
