//! The end of an application: SIGTERM, or Ctrl-C in a shell.

use tokio::signal::unix::{SignalKind, signal};

/// Completes when the process is asked to end.
pub(crate) async fn requested() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        },
        // Without the handler the default action of SIGTERM ends the process anyway.
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}
