//! How far this clock and another's are apart: pure but for `Date` headers, which somebody else fetched.

use std::time::{Duration, SystemTime};

use super::Finding;

/// A clock that is further behind refuses certificates that were just made.
const FAILS: u64 = remora_certs::ca::LEAF_BACKDATE.as_secs();
/// What nobody notices; a `Date` header tells whole seconds.
const FINE: u64 = 5;

/// When another clock was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// Whose clock it is.
    pub(super) of: String,
    /// What it said: a whole second.
    pub(super) theirs: SystemTime,
    /// When we asked.
    pub(super) asked: SystemTime,
    /// How long the answer took.
    pub(super) took: Duration,
}

impl Reading {
    /// Seconds that the other clock is ahead; 0 within what the reading is uncertain by.
    fn ahead(&self) -> i64 {
        let millis = |time: SystemTime| {
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        };
        let half = i64::try_from(self.took.as_millis() / 2).unwrap_or(i64::MAX);
        // In the middle of its second, on average.
        let ahead = millis(self.theirs) + 500 - millis(self.asked) - half;
        if ahead.abs() <= half + 500 { 0 } else { ahead / 1000 }
    }
}

/// The moment in an HTTP `Date` header (RFC 9110, section 5.6.7; the form that is sent today).
pub(super) fn date(headers: &http::HeaderMap) -> Option<SystemTime> {
    let text = headers.get(http::header::DATE)?.to_str().ok()?;
    // RFC 2822 knows "GMT" too, as an obsolete zone.
    let parsed = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc2822).ok()?;
    Some(parsed.into())
}

/// Judges the clock by a reading of another, or by there being none.
pub(super) fn judge(reading: Option<&Reading>) -> Finding {
    let Some(reading) = reading else {
        return Finding::warning(
            "this clock cannot be compared: no server that was asked told the time",
            "see to it that an authority or a collector is configured and can be reached, or compare by hand",
        );
    };
    let ahead = reading.ahead();
    let which = if ahead > 0 { "behind" } else { "ahead of" };
    let off = ahead.unsigned_abs();
    let says = format!("this clock is {off} s {which} {}'s", reading.of);
    let remedy = "synchronise both clocks (chrony, systemd-timesyncd)";
    match off {
        0..=FINE => Finding::ok("this clock agrees with the server's that was asked"),
        _ if off < FAILS => Finding::warning(says, remedy),
        _ => Finding::failure(format!("{says}: certificates may be refused as not yet or no longer valid"), remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict;

    fn judged(ahead: i64, took: u64) -> (Verdict, String) {
        let asked = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let theirs = asked.checked_add_signed(ahead);
        let reading = Reading { of: "it".to_owned(), theirs, asked, took: Duration::from_secs(took) };
        let finding = judge(Some(&reading));
        (finding.result, finding.says)
    }

    /// `SystemTime` knows only unsigned durations.
    trait Signed {
        fn checked_add_signed(self, seconds: i64) -> SystemTime;
    }

    impl Signed for SystemTime {
        fn checked_add_signed(self, seconds: i64) -> SystemTime {
            let by = Duration::from_secs(seconds.unsigned_abs());
            if seconds < 0 { self - by } else { self + by }
        }
    }

    #[test]
    fn a_little_is_fine_more_is_a_warning_and_what_certificates_do_not_bear_fails() {
        let agrees = (Verdict::Ok, "this clock agrees with the server's that was asked".to_owned());
        for ahead in [-5, -1, 0, 1, 5] {
            assert_eq!(judged(ahead, 0), agrees, "{ahead}");
        }
        assert_eq!(judged(10, 0), (Verdict::Warning, "this clock is 10 s behind it's".to_owned()));
        assert_eq!(judged(-30, 0), (Verdict::Warning, "this clock is 29 s ahead of it's".to_owned()));
        assert_eq!(judged(150, 0).0, Verdict::Failure);
        assert_eq!(judged(-150, 0).0, Verdict::Failure);
        // A slow answer proves less.
        assert_eq!(judged(10, 20), agrees);
        assert_eq!(judge(None).result, Verdict::Warning);
    }

    #[test]
    fn the_date_of_http_is_read() {
        let mut headers = http::HeaderMap::new();
        assert_eq!(date(&headers), None);
        headers.insert(http::header::DATE, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
        assert_eq!(date(&headers), Some(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)));
        headers.insert(http::header::DATE, "yesterday".parse().unwrap());
        assert_eq!(date(&headers), None);
    }
}
