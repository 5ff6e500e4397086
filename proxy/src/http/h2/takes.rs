//! How large a request an endpoint takes, as its SETTINGS say (RFC 9113 section 6.5.2). The h2 crate asks nobody, and does not tell.

use std::cell::Cell;
use std::time::Duration;

use tokio::sync::Notify;

use crate::http::body::RequestBody;
use crate::http::h1::parse::InvalidHead;

/// What our own sidecar takes is at least a fourth of what it says: as HPACK writes it, that has no more bytes than it said, so that the
/// connection outlives it. Whether it is within bounds, that sidecar says itself.
const OF_OURS: usize = 4;

/// What every one of ours takes, however it is configured; and hardly any request has more.
const SAFE: usize = 32 * 1024;

/// How long a larger one waits for what a new connection's peer says.
const PATIENCE: Duration = Duration::from_millis(500);

/// The bound of one endpoint's connection, by which it need not serve what is smaller, but may do as it likes with what is larger: most end
/// the connection sooner or later, with everybody's requests on it.
#[derive(Debug)]
pub(crate) struct Takes {
    ours: bool,
    /// In bytes, once its SETTINGS have come.
    most: Cell<Option<usize>>,
    /// What the frame says that is being read.
    said: Cell<Option<u32>>,
    heard: Notify,
}

impl Takes {
    /// Of an endpoint that has not said anything yet; `ours` where it is our own sidecar.
    pub(super) fn new(ours: bool) -> Self {
        Self { ours, most: Cell::default(), said: Cell::default(), heard: Notify::new() }
    }

    /// The value that SETTINGS have, if they do, and whether they are at their end.
    pub(super) fn hear(&self, value: Option<u32>, ends: bool) {
        self.said.set(value.or(self.said.get()));
        if ends {
            let most = self.said.get().map_or(usize::MAX, |bytes| bytes as usize);
            self.most.set(Some(if self.ours { most / OF_OURS } else { most }));
            self.heard.notify_waiters();
        }
    }

    /// Whether the endpoint takes a head of so many `bytes`, as a list of fields counts them.
    ///
    /// # Errors
    /// It does not.
    pub(crate) async fn check(&self, bytes: usize, body: &mut RequestBody) -> Result<(), InvalidHead> {
        if self.most.get().is_none() && bytes > SAFE {
            // Rare, and so it takes no room in every request.
            let heard = tokio::time::timeout(PATIENCE, self.heard.notified());
            let _ = body.wait_for(Box::pin(heard).as_mut()).await;
        }
        self.fits(bytes)
    }

    /// Whether it takes a list of fields of so many `bytes`, by what has come by now.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn fits(&self, bytes: usize) -> Result<(), InvalidHead> {
        match self.most.get() {
            Some(most) if bytes > most => Err(InvalidHead::BeyondEndpoint { bytes, most }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::body::Body;
    use crate::telemetry::ByteCounter;

    async fn check(takes: &Takes, bytes: usize) -> Option<usize> {
        let mut body = RequestBody::new(Body::Empty, ByteCounter::default(), Duration::ZERO);
        match takes.check(bytes, &mut body).await {
            Err(InvalidHead::BeyondEndpoint { most, .. }) => Some(most),
            _ => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_gets_no_more_than_it_said() {
        for (ours, most) in [(false, 400_000), (true, 100_000)] {
            let takes = Takes::new(ours);
            takes.hear(None, false);
            takes.hear(Some(400_000), false);
            takes.hear(None, true);
            assert_eq!(check(&takes, most).await, None, "{ours}");
            assert_eq!(check(&takes, most + 1).await, Some(most), "{ours}");
            // Others that do not name it leave it as it is.
            takes.hear(None, true);
            assert_eq!(check(&takes, most + 1).await, Some(most), "{ours}");
        }
        let takes = Takes::new(false);
        takes.hear(None, true);
        assert_eq!(check(&takes, 10_000_000).await, None, "one that names none takes all");
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_one_waits_for_what_the_endpoint_says() {
        let takes = Takes::new(true);
        let begun = tokio::time::Instant::now();
        assert_eq!(check(&takes, SAFE).await, None);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let (found, ()) = tokio::join!(check(&takes, SAFE + 1), async { takes.hear(Some(8), true) });
        assert_eq!((found, begun.elapsed()), (Some(2), Duration::ZERO));
        assert_eq!(check(&Takes::new(true), SAFE + 1).await, None);
        assert_eq!(begun.elapsed(), PATIENCE);
    }
}
