//! Frames that carry nothing and change nothing, of which an honest client sends few (CVE-2019-9511, CVE-2019-9513).

use super::frames::{Frame, PRIORITY, WINDOW_UPDATE};

/// Of PRIORITY, which is ignored, so many for each stream that began, as in Envoy 1.40.
const PRIORITIES: u64 = 100;
/// Of WINDOW_UPDATE, so many for what was sent ([`data_frames`]), as in Envoy 1.40: ten for the stream, and ten for the connection.
const UPDATES: u64 = 20;
/// And besides, for each stream: it may be opened wider, and so may the connection with it.
const OPENED: u64 = 2;
/// Of either, so many besides: one stream may last for days.
const FIRST: u64 = 1_000;
/// What a DATA frame holds where nobody said otherwise (RFC 9113 section 6.5.2).
const USUAL: usize = 16_384;

/// As how many a DATA frame with so many bytes counts: a client may take larger ones, and reads them in as small parts.
pub(super) fn data_frames(size: usize) -> u64 {
    1 + (size / USUAL) as u64
}

/// What a client has sent of both.
#[derive(Default)]
pub(super) struct Floods {
    priorities: u64,
    updates: u64,
    streams: u64,
}

impl Floods {
    /// A stream begins.
    pub(super) fn opened(&mut self) {
        self.streams += 1;
    }

    /// Takes one frame of a connection on which as much was `sent`, in DATA frames: what it is too many of, as metrics count it.
    pub(super) fn see(&mut self, frame: &Frame, sent: u64) -> Result<(), &'static str> {
        match frame.kind {
            PRIORITY => {
                self.priorities += 1;
                let most = FIRST + PRIORITIES * self.streams;
                if self.priorities > most { Err("h2_priority_flood") } else { Ok(()) }
            }
            WINDOW_UPDATE => {
                self.updates += 1;
                let most = FIRST + OPENED * self.streams + UPDATES * sent;
                if self.updates > most { Err("h2_window_update_flood") } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::h2::frames::Frames;

    /// How many of a kind pass when so many streams began and as much was sent.
    fn passes(kind: u8, streams: u64, sent: u64) -> u64 {
        let mut floods = Floods::default();
        (0..streams).for_each(|_| floods.opened());
        let (mut count, mut within) = (0, true);
        while within {
            Frames::default().see(&[0, 0, 0, kind, 0, 0, 0, 0, 1], |frame| within = floods.see(&frame, sent).is_ok());
            count += u64::from(within);
        }
        count
    }

    #[test]
    fn there_are_more_the_more_there_is_to_tell() {
        assert_eq!([passes(PRIORITY, 0, 0), passes(PRIORITY, 9, 50)], [1_000, 1_900]);
        assert_eq!([passes(WINDOW_UPDATE, 0, 0), passes(WINDOW_UPDATE, 9, 50)], [1_000, 1_000 + 18 + 1_000]);
        assert_eq!([0, 1, 16_383, 16_384, 32_768].map(data_frames), [1, 1, 1, 2, 3]);
    }
}
