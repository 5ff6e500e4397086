//! What the tests of all sources need.

use std::sync::Arc;
use std::time::Duration;

use remora_model::identity::{IdentityConfig, IdentitySource};
use tokio::sync::watch;

use super::CertificateSource;
use crate::Identity;

/// Far beyond what any of this takes, by the clock of the machine; a paused clock passes it by at once.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

pub(crate) type Updates = watch::Receiver<Option<Arc<Identity>>>;

/// The configuration of `example.org` with nothing besides its source.
pub(crate) fn config(source: IdentitySource) -> IdentityConfig {
    IdentityConfig {
        trust_domain: "example.org".parse().unwrap(),
        source,
        federated: Vec::new(),
        crls: Vec::new(),
        max_connection_age: None,
        startup_timeout: BOUND,
    }
}

/// The serial number in use.
pub(crate) fn serial(updates: &Updates) -> Option<String> {
    updates.borrow().as_ref().map(|identity| identity.svid().serial().to_owned())
}

/// Waits for the identity that `wanted` describes.
pub(crate) async fn until(updates: &mut Updates, wanted: impl Fn(&Identity) -> bool) -> Arc<Identity> {
    let found = updates.wait_for(|identity| identity.as_ref().is_some_and(|identity| wanted(identity)));
    found.await.unwrap().clone().unwrap()
}

/// Looks again and again until the status is as wanted; works with a paused clock too.
pub(crate) async fn until_status(source: &impl CertificateSource, wanted: impl Fn(&super::SourceStatus) -> bool) {
    let status = source.status();
    for look in 0..100_000 {
        if wanted(&status) {
            return;
        }
        // Closely at first, then with steps that pass by half a day.
        tokio::time::sleep(if look < 500 { Duration::from_millis(20) } else { Duration::from_secs(5) }).await;
    }
    panic!("never so: {status:?}");
}
