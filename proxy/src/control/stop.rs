//! What ends the proxy: a signal, being asked to on the admin interface, or the application's own end.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::spawn_local;

use super::application::Application;

/// Everything that ends the proxy. Signals are caught from the beginning: as process 1 it would not notice them otherwise.
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
    quit: Arc<Notify>,
    /// Whether the application was there and is gone; `None`: that is nobody's affair.
    application: Option<watch::Receiver<bool>>,
}

/// Why the proxy ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Asked,
    ApplicationGone,
}

impl Stop {
    pub(super) fn catch() -> io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, quit: Arc::default(), application: None })
    }

    /// From now on the application's end is the proxy's too.
    pub(super) fn end_with(&mut self, application: Application) {
        let (sender, gone) = watch::channel(false);
        spawn_local(async move {
            application.gone().await;
            let _ = sender.send(true);
        });
        self.application = Some(gone);
    }

    /// Completes when the application is gone; at once, if that is nobody's affair.
    pub(super) fn application_gone(&self) -> impl Future<Output = ()> + use<> {
        let application = self.application.clone();
        async move {
            if let Some(mut gone) = application {
                let _ = gone.wait_for(|gone| *gone).await;
            }
        }
    }

    /// Completes when the proxy is to end.
    pub(super) async fn due(&mut self) -> Why {
        let (watched, gone) = (self.application.is_some(), self.application_gone());
        tokio::select! {
            () = self.asked() => Why::Asked,
            () = gone, if watched => {
                tracing::info!("the application is gone");
                Why::ApplicationGone
            }
        }
    }

    /// Whoever notifies this asks the proxy to end.
    pub(super) fn quit(&self) -> Arc<Notify> {
        self.quit.clone()
    }

    /// Completes each time the proxy is asked to end.
    pub(super) async fn asked(&mut self) {
        let who = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = self.quit.notified() => "/quitquitquit",
        };
        tracing::info!("asked to end by {who}");
    }
}
