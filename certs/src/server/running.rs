//! A service that answers, in the hands of the process it is part of: what it knows about itself, and its end.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::Health;
use super::admin::Shown;
use super::metrics::Metrics;
use super::signing::Kept;

/// The authority's service while it answers; dropped, it still does. See [`Running::end`].
pub struct Running {
    pub(super) address: SocketAddr,
    pub(super) end: watch::Sender<bool>,
    pub(super) state: Watched,
    pub(super) serving: JoinHandle<()>,
    pub(super) background: JoinSet<()>,
    pub(super) writer: JoinHandle<()>,
}

/// What a running service knows about itself.
#[derive(Clone)]
pub struct Watched {
    pub(super) kept: Kept,
    pub(super) health: Health,
    pub(super) metrics: Arc<Metrics>,
}

impl Running {
    /// Where gRPC is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it knows about itself, now and later.
    pub fn watched(&self) -> Watched {
        self.state.clone()
    }

    /// Takes no new connections, and waits until calls under way are finished or their grace is over.
    pub async fn end(self) {
        let Self { end, serving, mut background, writer, .. } = self;
        end.send_replace(true);
        // Both end by themselves: the connections within the grace, the writer when nobody can hand it anything more.
        let _ = serving.await;
        background.shutdown().await;
        let _ = writer.await;
    }
}

impl Watched {
    /// The trust bundle as PEM.
    pub fn bundle(&self) -> String {
        self.kept.signing.borrow().bundle.clone()
    }

    /// Waits until the authority's state was read anew; [`Watched::bundle`] may give something else then. Never again
    /// once the service has ended.
    pub async fn changed(&mut self) {
        if self.kept.signing.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Shown for Watched {
    fn metrics(&self) -> String {
        self.metrics.text()
    }

    fn reasons(&self) -> Vec<String> {
        self.health.reasons()
    }
}
