//! What host names resolve to, asked again and again on the control thread.
//!
//! Is handed the names a snapshot mentions, hands on an `Arc<Resolved>` through a `watch`, whenever an answer changes and
//! only then. Names are asked for again when their answers are no longer good (TTL), within bounds. Invariant: an answer once had stays until a newer one replaces it; a name server that fails takes nothing away.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use remora_model::{Discovery, Snapshot};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

mod system;

use system::{Found, System};

/// Between two questions for a name that resolves, however short the life of its answers is.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// And however long.
const MAX_INTERVAL: Duration = Duration::from_secs(30);
/// After the first failure; doubled by each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Bound of the doubling.
const MAX_RETRY: Duration = Duration::from_secs(30);
/// After which a question counts as failed.
const LOOKUP: Duration = Duration::from_secs(5);

/// What each watched name resolves to now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    hosts: BTreeMap<Arc<str>, Answer>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Answer {
    /// Sorted, each once.
    addresses: Vec<IpAddr>,
    /// Whether there was any answer yet, a failure included.
    asked: bool,
}

impl Resolved {
    /// Names with their addresses, in any order.
    pub fn new(hosts: impl IntoIterator<Item = (Arc<str>, Vec<IpAddr>)>) -> Self {
        let answer = |addresses| Answer { addresses: sorted(addresses), asked: true };
        Self { hosts: hosts.into_iter().map(|(host, addresses)| (host, answer(addresses))).collect() }
    }

    /// The addresses of `host`, sorted; none if it is not watched or has never resolved.
    pub fn addresses(&self, host: &str) -> &[IpAddr] {
        self.hosts.get(host).map_or(&[], |answer| &answer.addresses)
    }

    /// Whether `host` resolves to `ip`.
    pub fn contains(&self, host: &str, ip: IpAddr) -> bool {
        self.addresses(host).binary_search(&ip).is_ok()
    }
}

fn sorted(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.iter_mut().for_each(|ip| *ip = ip.to_canonical());
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// The names that `snapshot` needs resolved: those its filter chains match on and those of its DNS clusters.
pub fn names_of(snapshot: &Snapshot) -> Vec<Arc<str>> {
    let clusters = snapshot.clusters.iter().filter_map(|cluster| match &cluster.discovery {
        Discovery::Dns { host, .. } => Some(host),
        Discovery::Static(_) | Discovery::OriginalDst => None,
    });
    let mut names: Vec<_> = snapshot.resolved_hosts.iter().chain(clusters).cloned().collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Watches names until it is dropped.
#[derive(Debug)]
pub struct Resolver {
    publish: Arc<watch::Sender<Arc<Resolved>>>,
    tasks: BTreeMap<Arc<str>, AbortHandle>,
    system: Arc<System>,
}

impl Resolver {
    /// Begins to resolve `names` on the current runtime.
    pub fn spawn(names: Vec<Arc<str>>) -> Self {
        let mut resolver = Self { publish: Arc::default(), tasks: BTreeMap::new(), system: Arc::default() };
        resolver.set_names(names);
        resolver
    }

    /// Where answers appear.
    pub fn watch(&self) -> watch::Receiver<Arc<Resolved>> {
        self.publish.subscribe()
    }

    /// Replaces the names. Those that stay keep their answers.
    pub fn set_names(&mut self, names: Vec<Arc<str>>) {
        let system = self.system.clone();
        self.set_names_with(names, move |name| {
            let system = system.clone();
            async move { system.lookup(&name).await }
        });
    }

    /// Waits until every name has had an answer, be it a failure, but no longer than `bound`: to start with endpoints.
    pub async fn first_answers(&self, bound: Duration) {
        let mut answers = self.watch();
        let all_asked = answers.wait_for(|resolved| resolved.hosts.values().all(|answer| answer.asked));
        // Out of time: the names that have not answered have no addresses for now.
        let _ = timeout(bound, all_asked).await;
    }

    fn set_names_with<L, F>(&mut self, names: Vec<Arc<str>>, lookup: L)
    where
        L: Fn(Arc<str>) -> F + Clone + Send + 'static,
        F: Future<Output = io::Result<Found>> + Send + 'static,
    {
        self.tasks.retain(|name, task| {
            let stays = names.contains(name);
            if !stays {
                task.abort();
            }
            stays
        });
        self.publish.send_if_modified(|resolved| {
            let resolved = Arc::make_mut(resolved);
            let before = resolved.hosts.len();
            resolved.hosts.retain(|name, _| names.contains(name));
            let changed = resolved.hosts.len() != before;
            for name in &names {
                resolved.hosts.entry(Arc::clone(name)).or_default();
            }
            changed
        });
        for name in names {
            let publish = Arc::clone(&self.publish);
            self.tasks.entry(name).or_insert_with_key(|name| {
                tokio::spawn(watch_name(Arc::clone(name), lookup.clone(), publish)).abort_handle()
            });
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.tasks.values().for_each(AbortHandle::abort);
    }
}

async fn watch_name<L, F>(name: Arc<str>, lookup: L, publish: Arc<watch::Sender<Arc<Resolved>>>)
where
    L: Fn(Arc<str>) -> F,
    F: Future<Output = io::Result<Found>>,
{
    let mut retry = FIRST_RETRY;
    loop {
        let answer =
            timeout(LOOKUP, lookup(Arc::clone(&name))).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let answer = match answer {
            Ok(Found { addresses, .. }) if addresses.is_empty() => Err("no address".to_owned()),
            Ok(Found { addresses, good_for }) => Ok((sorted(addresses), good_for)),
            Err(error) => Err(error.to_string()),
        };
        let good_for = answer.as_ref().map(|(_, good_for)| *good_for).map_err(Clone::clone);
        let mut addresses = answer.ok().map(|(addresses, _)| addresses);
        let changed = publish.send_if_modified(|resolved| record(resolved, &name, addresses.take()));
        let wait = match good_for {
            Ok(good_for) => {
                retry = FIRST_RETRY;
                good_for.clamp(MIN_INTERVAL, MAX_INTERVAL)
            }
            Err(error) => {
                if retry == FIRST_RETRY {
                    tracing::warn!(%name, %error, "a name does not resolve; its last addresses stay");
                }
                let wait = retry;
                retry = (retry * 2).min(MAX_RETRY);
                wait
            }
        };
        if changed {
            tracing::debug!(%name, addresses = ?publish.borrow().addresses(&name), "a name was resolved anew");
        }
        sleep(wait).await;
    }
}

/// Enters an answer, `None` being a failure; says whether anyone should know.
fn record(resolved: &mut Arc<Resolved>, name: &str, addresses: Option<Vec<IpAddr>>) -> bool {
    // A name that was removed in the meantime stays so.
    let Some(known) = resolved.hosts.get(name) else { return false };
    let addresses = addresses.unwrap_or_else(|| known.addresses.clone());
    let answer = Answer { addresses, asked: true };
    if *known == answer {
        return false;
    }
    Arc::make_mut(resolved).hosts.insert(name.into(), answer);
    true
}

#[cfg(test)]
mod tests;
