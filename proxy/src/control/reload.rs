//! Newer configuration, certificates and addresses on their way to the workers. What cannot be used changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use remora_certs::watch::FileWatcher;
use remora_model::Snapshot;
use tokio::signal::unix::Signal;
use tokio::sync::watch;

use super::FIRST_NAMES;
use super::gateway::{self, GatewayCertificates};
use super::identity::IdentityInput;
use crate::readiness::Readiness;
use crate::resolve::{self, Resolver};
use crate::telemetry::Registry;
use crate::worker::Input;

/// The latest that is known of each input, and where it goes.
pub(super) struct Reload {
    pub(super) config: PathBuf,
    pub(super) watcher: FileWatcher,
    /// SIGHUP has the files read again, changed or not, as an administrator knows it of other servers.
    pub(super) hangup: Signal,
    pub(super) identity: IdentityInput,
    pub(super) resolver: Resolver,
    pub(super) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(super) inputs: watch::Sender<Input>,
    pub(super) registry: Arc<Registry>,
    pub(super) readiness: Readiness,
    /// Why the newest configuration is not in use; shown by the admin interface.
    pub(super) rejected: watch::Sender<Option<String>>,
}

impl Reload {
    /// Follows every input for ever.
    pub(super) async fn follow(mut self) {
        let mut resolved = self.resolver.watch();
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.watcher.changed() => self.reload().await,
                Some(()) = self.hangup.recv() => self.reload().await,
                () = self.identity.changed() => self.rotate(),
                Ok(()) = resolved.changed() => {
                    let resolved = resolved.borrow_and_update().clone();
                    self.inputs.send_modify(|input| input.resolved = resolved);
                }
                _ = second.tick() => self.identity.tick(&self.registry, &self.readiness),
            }
        }
    }

    fn rotate(&mut self) {
        let Some(identity) = self.identity.current() else { return };
        let (serial, spiffe_id) = (identity.svid().serial(), identity.svid().spiffe_id());
        let known = self.inputs.borrow().identity.clone();
        // Whom we trust may change alone.
        if known.is_some_and(|known| known.svid().certificates() == identity.svid().certificates()) {
            tracing::info!(serial, %spiffe_id, "trust bundle renewed");
            self.registry.bundle_reload();
        } else {
            tracing::info!(serial, %spiffe_id, "identity renewed");
            self.registry.identity_reload(true);
        }
        self.registry.identity(&identity);
        self.identity.tick(&self.registry, &self.readiness);
        self.inputs.send_modify(|input| input.identity = Some(identity));
    }

    async fn reload(&mut self) {
        match self.read() {
            Ok((snapshot, gateways)) => self.apply(Arc::new(snapshot), gateways).await,
            Err(reason) => {
                self.registry.config_reload(false);
                for line in reason.lines() {
                    tracing::error!("configuration rejected, the last good one stays: {line}");
                }
                self.rejected.send_replace(Some(reason));
            }
        }
    }

    /// Reads everything that the configuration names, so that it is used whole or not at all.
    fn read(&mut self) -> Result<(Snapshot, GatewayCertificates), String> {
        let new = remora_config::load(&self.config).map_err(|errors| errors.to_string())?;
        let current = self.snapshots.borrow().clone();
        fixed(&current, &new, &self.config)?;
        let gateways = gateway::load(&new).map_err(|error| error.to_string())?;
        Ok((new, gateways))
    }

    async fn apply(&mut self, snapshot: Arc<Snapshot>, gateways: GatewayCertificates) {
        self.registry.config_reload(true);
        self.rejected.send_replace(None);
        let watched = gateway::watched(&self.config, &snapshot);
        if watched != gateway::watched(&self.config, &self.snapshots.borrow()) {
            self.watcher = FileWatcher::new(watched);
        }
        self.resolver.set_names(resolve::names_of(&snapshot));
        self.resolver.first_answers(FIRST_NAMES).await;
        self.snapshots.send_replace(snapshot.clone());
        let (identity, resolved) = (self.identity.current(), self.resolver.watch().borrow().clone());
        self.inputs.send_replace(Input { snapshot, resolved, identity, gateways });
        tracing::info!(config = %self.config.display(), "configuration reloaded");
    }
}

/// Refuses what only a restart can change: listening addresses, the identity's files, the number of workers.
fn fixed(current: &Snapshot, new: &Snapshot, path: &Path) -> Result<(), String> {
    let listeners = |snapshot: &Snapshot| -> Vec<_> {
        let of = |at: &remora_model::Listener| (at.name.clone(), at.addresses.clone(), at.original_dst);
        snapshot.listeners.iter().map(of).collect()
    };
    let refused = |what: &str| Err(format!("{}: {what} changed, which needs a restart", path.display()));
    if listeners(current) != listeners(new) {
        return refused("a listening address");
    }
    if current.identity != new.identity {
        return refused("where the identity comes from");
    }
    if current.admin != new.admin {
        return refused("an admin address");
    }
    if current.workers != new.workers {
        return refused("the number of workers");
    }
    Ok(())
}
