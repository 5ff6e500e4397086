//! Whether traffic may come: everything that must be there before the first connection holds a guard until it is there.
//!
//! Once nothing is missing, readiness still asks: every worker answers for itself, so that one that hangs makes the proxy not ready.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// How long the workers may take to answer.
const ANSWER: Duration = Duration::from_secs(1);

/// What a check brings: the names of what did not answer.
pub type Answer = Pin<Box<dyn Future<Output = Vec<String>> + Send>>;
type Check = Box<dyn Fn() -> Answer + Send + Sync>;

/// What the proxy still waits for. Clones share it.
#[derive(Clone)]
pub struct Readiness(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    ready: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    /// By order of registration, so that a name may come twice.
    missing: BTreeMap<u64, String>,
    next: u64,
    draining: bool,
    check: Option<Arc<Check>>,
}

/// What is missing while this lives. Dropping it says that it is there.
#[must_use = "dropping the guard says that it is ready"]
pub struct ReadyGuard {
    shared: Arc<Shared>,
    key: u64,
}

/// Why the proxy is not ready: a sentence each.
pub type Missing = Vec<String>;

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// Ready, until something is registered.
    pub fn new() -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), ready: watch::Sender::new(true) }))
    }

    /// `name`, such as `worker 0`, is not there yet.
    pub fn register(&self, name: impl Into<String>) -> ReadyGuard {
        let mut state = self.0.lock();
        let key = state.next;
        state.next += 1;
        state.missing.insert(key, name.into());
        self.0.publish(&state);
        ReadyGuard { shared: Arc::clone(&self.0), key }
    }

    /// From now on not ready, for good: the proxy ends.
    pub fn draining(&self) {
        let mut state = self.0.lock();
        state.draining = true;
        self.0.publish(&state);
    }

    /// Sets what [`check`](Self::check) asks once nothing is missing. It has a second; being later counts as no answer.
    pub fn ask(&self, check: impl Fn() -> Answer + Send + Sync + 'static) {
        self.0.lock().check = Some(Arc::new(Box::new(check)));
    }

    /// Whether everything registered is there and the proxy does not drain. Asks nobody.
    pub fn is_ready(&self) -> bool {
        *self.0.ready.borrow()
    }

    /// Waits until everything registered is there.
    pub async fn ready(&self) {
        let mut ready = self.0.ready.subscribe();
        // The sender lives as long as self.
        let _ = ready.wait_for(|ready| *ready).await;
    }

    /// Whether traffic may come, every worker having been asked.
    ///
    /// # Errors
    /// What is missing, draining, or did not answer within a second.
    pub async fn check(&self) -> Result<(), Missing> {
        let check = {
            let state = self.0.lock();
            let mut missing: Missing = state.missing.values().map(|name| format!("waiting for {name}")).collect();
            if state.draining {
                missing.insert(0, "draining".to_owned());
            }
            if !missing.is_empty() {
                return Err(missing);
            }
            state.check.clone()
        };
        let Some(check) = check else { return Ok(()) };
        match tokio::time::timeout(ANSWER, check()).await {
            Ok(silent) if silent.is_empty() => Ok(()),
            Ok(silent) => Err(silent.into_iter().map(|name| format!("{name} does not answer")).collect()),
            Err(_) => Err(vec!["a worker does not answer".to_owned()]),
        }
    }
}

impl ReadyGuard {
    /// What is missing, said anew.
    pub fn rename(&self, name: impl Into<String>) {
        self.shared.lock().missing.insert(self.key, name.into());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is complete at every moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, state: &State) {
        self.ready.send_replace(state.missing.is_empty() && !state.draining);
    }
}

impl Drop for ReadyGuard {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.missing.remove(&self.key);
        self.shared.publish(&state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn is_ready_when_every_guard_is_gone() {
        let readiness = Readiness::new();
        let (first, second) = (readiness.register("worker 0"), readiness.register("identity"));
        assert_eq!(readiness.check().await, Err(vec!["waiting for worker 0".into(), "waiting for identity".into()]));
        drop(first);
        second.rename("identity: no file");
        let missing = Err(vec!["waiting for identity: no file".into()]);
        assert_eq!((readiness.is_ready(), readiness.check().await), (false, missing));
        drop(second);
        readiness.ready().await;
        assert_eq!((readiness.is_ready(), readiness.check().await), (true, Ok(())));
    }

    #[tokio::test]
    async fn a_name_registered_twice_is_missing_until_both_are_there() {
        let readiness = Readiness::new();
        let (first, _second) = (readiness.register("worker"), readiness.register("worker"));
        drop(first);
        assert!(!readiness.is_ready());
    }

    #[tokio::test]
    async fn draining_is_for_good() {
        let readiness = Readiness::new();
        readiness.draining();
        drop(readiness.register("worker 0"));
        assert_eq!(readiness.check().await, Err(vec!["draining".into()]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_does_not_answer_makes_it_not_ready() {
        let readiness = Readiness::new();
        readiness.ask(|| Box::pin(async { vec!["worker 1".to_owned()] }));
        assert_eq!(readiness.check().await, Err(vec!["worker 1 does not answer".into()]));
        readiness.ask(|| Box::pin(std::future::pending()));
        assert_eq!(readiness.check().await, Err(vec!["a worker does not answer".into()]));
        readiness.ask(|| Box::pin(async { Vec::new() }));
        assert_eq!(readiness.check().await, Ok(()));
    }
}
