//! Gets loud when an SVID nears its end and no newer one has come: in the log, and at its end in the readiness.

use std::time::{Duration, SystemTime};

use remora_certs::Svid;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use crate::readiness::{Readiness, ReadyGuard};

/// How often the same is said again.
const AGAIN: Duration = Duration::from_secs(60);

/// How near the end is; each but the first is told of only once renewal is overdue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Far,
    /// Less than a fifth of the life is left.
    Near,
    /// Less than a twentieth.
    Imminent,
    /// Nothing.
    Over,
}

/// What was said of the SVID in use, and when.
#[derive(Default)]
pub(super) struct Alarm {
    stage: Stage,
    said: Option<Instant>,
    /// Held while the SVID has expired.
    expired: Option<ReadyGuard>,
}

impl Alarm {
    /// Looks at the SVID in use. `overdue`: a newer one should have come by now; `reason` says why none has.
    pub(super) fn check(
        &mut self,
        svid: &Svid,
        now: SystemTime,
        (overdue, reason): (bool, &dyn Fn() -> String),
        readiness: &Readiness,
    ) {
        let stage = match stage(svid.not_before(), svid.not_after(), now) {
            // A short life, dated back, is near its end from its beginning.
            Stage::Near | Stage::Imminent if !overdue => Stage::Far,
            stage => stage,
        };
        if stage == Stage::Over {
            let message = format!(
                "identity: the SVID expired at {} and cannot be renewed: {}",
                timestamp(svid.not_after()),
                reason()
            );
            match &self.expired {
                Some(guard) => guard.rename(message),
                None => self.expired = Some(readiness.register(message)),
            }
        } else if self.expired.take().is_some() {
            tracing::info!(serial = svid.serial(), "the SVID in use is valid again");
        }
        let due = stage > self.stage || self.said.is_none_or(|said| said.elapsed() >= AGAIN);
        if stage != Stage::Far && due {
            self.said = Some(Instant::now());
            say(stage, svid, &reason());
        }
        self.stage = stage;
    }
}

fn say(stage: Stage, svid: &Svid, reason: &str) {
    let (spiffe_id, serial, not_after) = (svid.spiffe_id(), svid.serial(), timestamp(svid.not_after()));
    match stage {
        Stage::Far => {}
        Stage::Near => {
            tracing::warn!(%spiffe_id, serial, not_after, "the SVID nears its end and was not renewed: {reason}");
        }
        Stage::Imminent => {
            tracing::error!(%spiffe_id, serial, not_after, "the SVID is about to expire and was not renewed: {reason}");
        }
        Stage::Over => {
            tracing::error!(%spiffe_id, serial, not_after, "the SVID has expired and was not renewed: {reason}");
        }
    }
}

fn stage(not_before: SystemTime, not_after: SystemTime, now: SystemTime) -> Stage {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    match not_after.duration_since(now) {
        Err(_) | Ok(Duration::ZERO) => Stage::Over,
        Ok(left) if left < life / 20 => Stage::Imminent,
        Ok(left) if left < life / 5 => Stage::Near,
        Ok(_) => Stage::Far,
    }
}

fn timestamp(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gets_louder_towards_the_end() {
        let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |seconds| stage(begin, begin + Duration::from_secs(100), begin + Duration::from_secs(seconds));
        let stages = [0, 80, 81, 95, 96, 99, 100, 40_000_000].map(at);
        use Stage::{Far, Imminent, Near, Over};
        assert_eq!(stages, [Far, Far, Near, Near, Imminent, Imminent, Over, Over]);
        // A clock that went back is nothing a newer SVID would help against.
        assert_eq!(stage(begin, begin + Duration::from_secs(100), begin - Duration::from_secs(86_400)), Far);
    }
}
