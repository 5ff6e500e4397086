//! How long the server of an endpoint keeps connections that wait for work, as far as it was seen.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// The least age at which idle connections are retired by what was learned of one: a server that restarts closes new ones, too.
const LEAST: Duration = Duration::from_secs(1);
/// How long that is believed.
pub(super) const BELIEVED: Duration = Duration::from_secs(600);

/// What was learned of its closes.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// How old idle connections may become, and when that was learned.
    limit: Cell<Option<(Duration, Instant)>>,
    /// When a connection ended that had waited for work for a moment, see [`Self::learn_haste`].
    hasty: Cell<Option<Instant>>,
}

impl Patience {
    /// How old idle connections may become.
    pub(super) fn limit(&self) -> Option<Duration> {
        let (limit, learned) = self.limit.get()?;
        (learned.elapsed() < BELIEVED).then_some(limit)
    }

    /// The server closed a connection that waited for work `since` then. Others are retired at half that age from now on: what may not
    /// be done twice must not come upon such an end.
    pub(super) fn learn(&self, since: Instant) {
        self.hurries(since);
        self.bound((since.elapsed() / 2).max(LEAST));
    }

    /// The server closed a connection that waited for work `since` then and was used again, without a word to that request. Where that comes soon, on
    /// two connections one after the other, it keeps none for long and does not say so: no connection to it is used again.
    pub(super) fn learn_haste(&self, since: Instant) {
        if self.hurries(since) {
            self.bound(Duration::ZERO);
        }
    }

    /// A connection that was used before answered a request: the server keeps some.
    pub(super) fn answered(&self) {
        self.hasty.set(None);
    }

    /// A connection that waited for work `since` then has ended: whether it followed another that ended as soon, with no request between
    /// them that was answered on a connection used before.
    fn hurries(&self, since: Instant) -> bool {
        let before = self.hasty.take();
        if since.elapsed() < LEAST {
            self.hasty.set(Some(Instant::now()));
        }
        since.elapsed() < LEAST && before.is_some_and(|ended| ended < since)
    }

    fn bound(&self, limit: Duration) {
        if self.limit().is_none_or(|known| limit < known) {
            self.limit.set(Some((limit, Instant::now())));
        }
    }
}
