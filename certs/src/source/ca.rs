//! An identity from a certificate authority that speaks Istio's `CreateCertificate`: Remora's own, or istiod.
//!
//! The key is made here and never leaves the process. The certificate in use stays until a better one was checked: an
//! authority that is down, slow, wrong or hostile costs attempts, never the identity.

mod answer;
mod asker;
mod bundles;
mod failure;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use remora_model::TrustDomain;
use remora_model::identity::{CaClient, IdentityConfig};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use self::answer::Answer;
#[cfg(test)]
pub(super) use self::asker::DEADLINE;
use self::asker::{Asker, Dial};
use self::bundles::Told;
use self::failure::Failure;
pub(super) use self::failure::{causes, foreign};
use super::outlet::Outlet;
use super::schedule::{Now, Schedule};
use super::trust_files::TrustFiles;
use super::{CertificateSource, SourceStatus};
use crate::{Identity, Svid, TrustBundle};

/// Within this long after a change of the trust bundle a new certificate is asked for, so that the authority's record
/// shows who knows the change; spread, because every workload hears of it at the same moment.
const AFTER_CHANGE: Duration = Duration::from_secs(5);

/// An identity that a certificate authority gives for a key made here; renewed at half of its life.
#[derive(Debug)]
pub struct CaSource {
    outlet: Arc<Outlet>,
    // Dropped with the source, and with it the work ends.
    _tasks: JoinSet<()>,
}

impl CaSource {
    /// Begins to ask. Call it inside a tokio runtime, which then drives it.
    pub fn start(config: &IdentityConfig, client: &CaClient) -> Self {
        Self::assemble(config, client, Clock::system(), Box::new(asker::tcp))
    }

    fn assemble(config: &IdentityConfig, client: &CaClient, clock: Clock, dial: Dial) -> Self {
        let (outlet, trust_files) = TrustFiles::of(config).open("ca");
        let waiting = format!("no answer yet from the certificate authority {}", client.address);
        outlet.status().set_error(Some(waiting));
        let asker = Arc::new(Asker::new(client.clone(), dial));
        // One waiting bundle is enough: whoever tells the next waits until it is heard.
        let (tell, told) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(bundles::follow(Arc::clone(&asker), config.trust_domain.clone(), clock.clone(), tell));
        let renewal = Renewal {
            trust_domain: config.trust_domain.clone(),
            schedule: Schedule::new(clock.now(), random_seed()),
            outlet: Arc::clone(&outlet),
            asker,
            clock,
            told,
            current: None,
            held: None,
            version: None,
            clock_was_told: false,
            bundle_was_bad: false,
        };
        tasks.spawn(renewal.run());
        if let Some(trust_files) = trust_files {
            tasks.spawn(trust_files);
        }
        Self { outlet, _tasks: tasks }
    }
}

impl CertificateSource for CaSource {
    fn identity(&self) -> watch::Receiver<Option<Arc<Identity>>> {
        self.outlet.identity()
    }

    fn status(&self) -> Arc<SourceStatus> {
        Arc::clone(self.outlet.status())
    }
}

/// Where the time comes from; handed in, so that a test can wind it.
#[derive(Clone)]
pub(super) struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    pub(super) fn system() -> Self {
        Self(Arc::new(SystemTime::now))
    }

    #[cfg(test)]
    pub(super) fn of(wall: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(wall))
    }

    pub(super) fn now(&self) -> Now {
        Now { wall: (self.0)(), steady: Instant::now().into_std() }
    }
}

pub(super) fn random_seed() -> u64 {
    let mut seed = [0; 8];
    // Without randomness there is no key either, and that is said there.
    let _ = rand::fill(&mut seed);
    u64::from_le_bytes(seed)
}

/// The work of one source.
struct Renewal {
    trust_domain: TrustDomain,
    schedule: Schedule,
    outlet: Arc<Outlet>,
    asker: Arc<Asker>,
    clock: Clock,
    told: mpsc::Receiver<Told>,
    current: Option<(Svid, TrustBundle)>,
    /// A newer one that has not begun yet, while the current one is good.
    held: Option<Svid>,
    /// Of the bundle last told.
    version: Option<u64>,
    clock_was_told: bool,
    bundle_was_bad: bool,
}

impl Renewal {
    async fn run(mut self) {
        loop {
            let begins_in = self.begin_held();
            match self.schedule.wait(self.clock.now()) {
                None => self.renew().await,
                Some(wait) => tokio::select! {
                    () = sleep(begins_in.map_or(wait, |begins_in| wait.min(begins_in))) => {}
                    Some(told) = self.told.recv() => self.hear(told),
                },
            }
        }
    }

    async fn renew(&mut self) {
        let asked = self.clock.now().wall;
        let svid = self.current.as_ref().map(|(svid, _)| svid);
        let answered = self.asker.certificate(svid, &self.trust_domain, asked).await;
        match answered {
            Ok(answer) => self.take(answer),
            Err(failure) => self.complain(&failure),
        }
        self.outlet.status().set_next_renewal(self.schedule.next_attempt(self.clock.now()));
    }

    fn take(&mut self, answer: Answer) {
        let Answer { svid, bundle, ahead } = answer;
        if !ahead.is_zero() || !self.clock_was_told {
            self.outlet.status().set_clock_skew_ms(ahead.as_millis().try_into().unwrap_or(i64::MAX));
        }
        self.schedule.renewed(self.clock.now(), svid.not_after());
        self.outlet.status().set_error(None);
        self.bundle_was_bad = false;
        // Peers refuse what has not begun. Only where there is nothing better is it worth trying.
        let now = self.clock.now().wall;
        self.held = None;
        let svid = match self.current.take() {
            Some((good, _)) if !ahead.is_zero() && good.check_time(now).is_ok() => {
                self.held = Some(svid);
                good
            }
            _ => svid,
        };
        self.outlet.publish(svid.clone(), bundle.clone());
        self.current = Some((svid, bundle));
    }

    /// Takes the certificate that was held into use once it has begun, or the current one is good no more; otherwise
    /// says when to ask again.
    fn begin_held(&mut self) -> Option<Duration> {
        let (held, (current, bundle)) = (self.held.take()?, self.current.as_ref()?);
        let now = self.clock.now().wall;
        let wait = held.not_before().duration_since(now).unwrap_or_default();
        if !wait.is_zero() && current.check_time(now).is_ok() {
            let left = current.not_after().duration_since(now).unwrap_or_default();
            self.held = Some(held);
            // A little more than the end, so that it is past by then.
            return Some(wait.min(left + Duration::from_millis(1)));
        }
        let bundle = bundle.clone();
        self.outlet.publish(held.clone(), bundle.clone());
        self.current = Some((held, bundle));
        None
    }

    fn complain(&mut self, failure: &Failure) {
        let now = self.clock.now();
        self.schedule.failed(now);
        let again = self.schedule.next_attempt(now).duration_since(now.wall).unwrap_or_default();
        let kept = match &self.current {
            Some((svid, _)) if now.wall <= svid.not_after() => "the certificate in use stays",
            Some(_) => "the certificate has expired",
            None => "there is no certificate yet",
        };
        tracing::warn!(error = %failure, retry_in_ms = again.as_millis(), "no new certificate; {kept}");
        self.outlet.status().record_failure(failure.to_string());
    }

    /// A bundle that the authority told of by itself is in use at once, and a certificate follows soon.
    fn hear(&mut self, told: Told) {
        if let Some(skew) = told.clock_skew_ms {
            self.clock_was_told = true;
            self.outlet.status().set_clock_skew_ms(skew);
        }
        let bundle = match told.bundle {
            Ok(bundle) => bundle,
            Err(failure) => {
                tracing::warn!(error = %failure, "a trust bundle cannot be used; the one in use stays");
                self.bundle_was_bad = true;
                return self.outlet.status().record_failure(failure.to_string());
            }
        };
        if std::mem::take(&mut self.bundle_was_bad) {
            self.outlet.status().set_error(None);
        }
        let newer = self.version.replace(told.version).is_some_and(|known| known != told.version);
        let Some((_, current)) = &mut self.current else { return };
        let differs = !bundle.same(current);
        if differs {
            tracing::info!(version = told.version, roots = bundle.roots().len(), "the trust bundle changed");
            current.clone_from(&bundle);
            self.outlet.publish_bundles(bundle);
        }
        if differs || newer {
            let now = self.clock.now();
            self.schedule.hurry(now, AFTER_CHANGE);
            self.outlet.status().set_next_renewal(self.schedule.next_attempt(now));
        }
    }
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
