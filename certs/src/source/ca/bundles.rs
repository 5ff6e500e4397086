//! Hearing of a new trust bundle long before the next renewal, from an authority that tells.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use remora_model::TrustDomain;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tonic::{Code, Request};

use super::asker::{Asker, MAX_ANSWER};
use super::failure::{Failure, foreign};
use super::{Clock, Schedule, random_seed};
use crate::TrustBundle;
use crate::proto::trust_bundle::trust_bundles_client::TrustBundlesClient;
use crate::proto::trust_bundle::{TrustBundle as Message, WatchTrustBundleRequest};

/// How long an authority that does not tell is left in peace; it may have learnt it after an upgrade.
const NOT_TOLD: Duration = Duration::from_secs(600);

/// What an authority told of by itself.
pub(super) struct Told {
    pub(super) bundle: Result<TrustBundle, Failure>,
    pub(super) version: u64,
    /// How far its clock is ahead of ours; only known where the way there and back was timed.
    pub(super) clock_skew_ms: Option<i64>,
}

/// Follows the authority's bundle until nobody listens.
pub(super) async fn follow(asker: Arc<Asker>, trust_domain: TrustDomain, clock: Clock, tell: mpsc::Sender<Told>) {
    let mut schedule = Schedule::new(clock.now(), random_seed());
    while !tell.is_closed() {
        let mut heard = false;
        let ended = listen(&asker, &trust_domain, &clock, &tell, &mut heard).await;
        if ended.as_ref().err().and_then(Failure::code) == Some(Code::Unimplemented) {
            // istiod, for one. Its bundles come with renewals.
            tracing::debug!(authority = %asker.address(), "bundles are not told between renewals");
            sleep(NOT_TOLD).await;
            continue;
        }
        if heard {
            schedule = Schedule::new(clock.now(), random_seed());
        }
        if let Err(failure) = ended {
            tracing::debug!(error = %failure, "not told of trust bundles for now");
        }
        schedule.failed(clock.now());
        while let Some(wait) = schedule.wait(clock.now()) {
            sleep(wait).await;
        }
    }
}

/// One stream, to its end.
async fn listen(
    asker: &Asker,
    trust_domain: &TrustDomain,
    clock: &Clock,
    tell: &mpsc::Sender<Told>,
    heard: &mut bool,
) -> Result<(), Failure> {
    let failed = |status: &_| Failure::status(asker.address(), status);
    let channel = asker.in_time(asker.connect(None)).await?;
    let mut client = TrustBundlesClient::new(channel).max_decoding_message_size(MAX_ANSWER);
    let asked = clock.now();
    let opened = async {
        let mut stream = client
            .watch(Request::new(WatchTrustBundleRequest {}))
            .await
            .map_err(|status| failed(&status))?
            .into_inner();
        let first = stream.message().await.map_err(|status| failed(&status))?;
        Ok((stream, first))
    };
    let (mut stream, mut message) = asker.in_time(opened).await?;
    let way = clock.now().steady.saturating_duration_since(asked.steady);
    let mut clock_skew_ms = message.as_ref().and_then(|message| skew(message, asked.wall + way / 2, way));
    while let Some(told) = message {
        *heard = true;
        let version = told.version;
        let told = Told { bundle: read(asker, trust_domain, told), version, clock_skew_ms: clock_skew_ms.take() };
        if tell.send(told).await.is_err() {
            return Ok(());
        }
        message = stream.message().await.map_err(|status| failed(&status))?;
    }
    Ok(())
}

fn read(asker: &Asker, trust_domain: &TrustDomain, told: Message) -> Result<TrustBundle, Failure> {
    let address = asker.address();
    if told.trust_domain != trust_domain.as_str() {
        return Err(Failure::ForeignBundle { address: Arc::clone(address), found: foreign(&told.trust_domain) });
    }
    TrustBundle::parse(trust_domain.clone(), Path::new("the trust bundle"), told.roots.as_bytes())
        .map_err(|reason| Failure::Answer { address: Arc::clone(address), reason })
}

/// How far the authority's clock, which tells whole seconds, is ahead of `ours` at the middle of the way there and
/// back; 0 where that is too little to tell.
fn skew(told: &Message, ours: std::time::SystemTime, way: Duration) -> Option<i64> {
    let ours = ours.duration_since(std::time::SystemTime::UNIX_EPOCH).ok()?.as_millis();
    // In the middle of its second, on average.
    let theirs = i128::from(told.now).checked_mul(1000)? + 500;
    let ahead = theirs - i128::try_from(ours).ok()?;
    let doubt = 500 + i128::try_from(way.as_millis()).ok()? / 2;
    if told.now <= 0 {
        return None;
    }
    i64::try_from(if ahead.abs() <= doubt { 0 } else { ahead }).ok()
}
