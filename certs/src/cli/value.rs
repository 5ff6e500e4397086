//! Values of command-line options.

use std::time::{Duration, SystemTime};

use remora_model::identity::KeyKind;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::file::Owner;

/// A distance from now, either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offset {
    Before(Duration),
    After(Duration),
}

impl Offset {
    pub(super) fn from(self, now: SystemTime) -> SystemTime {
        match self {
            Self::Before(distance) => now.checked_sub(distance).unwrap_or(SystemTime::UNIX_EPOCH),
            Self::After(distance) => now + distance,
        }
    }
}

/// Why an option's value is not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidValue {
    #[error("a duration is a number with s, m, h or d, such as 90s or 24h; at most 36500d")]
    Duration,
    #[error("a time is written like 2026-01-31T12:00:00Z")]
    Moment,
    #[error("an owner is UID or UID:GID, in numbers")]
    Owner,
    #[error("a kind of key is p256, ed25519 or rsa-2048")]
    Key,
}

/// The longest duration: a hundred years, far from where calendars end.
const LONGEST: u64 = 36500 * 24 * 60 * 60;

pub(super) fn duration(text: &str) -> Result<Duration, InvalidValue> {
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or(InvalidValue::Duration)?;
    let (number, unit) = text.split_at(split);
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(InvalidValue::Duration),
    };
    let number: u64 = number.parse().map_err(|_| InvalidValue::Duration)?;
    match number.checked_mul(unit) {
        Some(seconds) if seconds <= LONGEST => Ok(Duration::from_secs(seconds)),
        _ => Err(InvalidValue::Duration),
    }
}

pub(super) fn offset(text: &str) -> Result<Offset, InvalidValue> {
    match text.strip_prefix('-') {
        Some(distance) => duration(distance).map(Offset::Before),
        None => duration(text.strip_prefix('+').unwrap_or(text)).map(Offset::After),
    }
}

pub(super) fn moment(text: &str) -> Result<SystemTime, InvalidValue> {
    let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| InvalidValue::Moment)?;
    match time.unix_timestamp() {
        0.. => Ok(time.into()),
        _ => Err(InvalidValue::Moment),
    }
}

pub(super) fn owner(text: &str) -> Result<Owner, InvalidValue> {
    let number = |text: &str| text.parse::<u32>().map_err(|_| InvalidValue::Owner);
    Ok(match text.split_once(':') {
        Some((uid, gid)) => Owner { uid: number(uid)?, gid: Some(number(gid)?) },
        None => Owner { uid: number(text)?, gid: None },
    })
}

pub(super) fn key_kind(text: &str) -> Result<KeyKind, InvalidValue> {
    match text {
        "p256" => Ok(KeyKind::P256),
        "ed25519" => Ok(KeyKind::Ed25519),
        "rsa-2048" => Ok(KeyKind::Rsa2048),
        _ => Err(InvalidValue::Key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_offsets() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(604_800)));
        assert_eq!(offset("-2m"), Ok(Offset::Before(Duration::from_secs(120))));
        assert_eq!(offset("+1h"), Ok(Offset::After(Duration::from_secs(3600))));
        for text in ["", "5", "h", "-5s", "1w", "1h30m", "1.5h", "99999999999999999999s", "36501d", "５s"] {
            assert_eq!(duration(text), Err(InvalidValue::Duration), "{text:?}");
        }
    }

    #[test]
    fn moments_and_owners() {
        assert_eq!(moment("1970-01-02T00:00:00Z"), Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400)));
        assert_eq!(moment("1969-12-31T00:00:00Z"), Err(InvalidValue::Moment));
        assert_eq!(moment("yesterday"), Err(InvalidValue::Moment));
        assert_eq!(owner("1337"), Ok(Owner { uid: 1337, gid: None }));
        assert_eq!(owner("1337:7"), Ok(Owner { uid: 1337, gid: Some(7) }));
        assert_eq!(owner("root"), Err(InvalidValue::Owner));
    }
}
