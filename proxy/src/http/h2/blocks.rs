//! What of the frames that are read the h2 crate does not bound, or bounds too closely.

use std::rc::Rc;

use super::floods::Floods;
use super::frames::{ACK, CONTINUATION, DATA, END_STREAM, Frame, Frames, HEAD, HEADERS, KIND, SETTINGS, UNKNOWN};
use super::takes::Takes;

const MAX_HEADER_LIST_SIZE: u16 = 6;
/// A client's, before its frames (RFC 9113 section 3.4).
const PREFACE: usize = 24;

/// Of empty DATA frames the h2 crate takes a hundred in a connection's life, which then ends with everybody's streams: those that come
/// singly, as of an application that flushes, are hidden from it. It gets to see the first, and those that come in a row.
#[derive(Default)]
struct Empties {
    shown: u32,
    row: u32,
}

impl Empties {
    /// The first that are shown in any case, so that what is wrong about one is told.
    const FIRST: u32 = 50;
    /// Of so many in a row none is shown.
    const ROW: u32 = 8;

    fn hides(&mut self, frame: &Frame) -> bool {
        if (frame.kind, frame.flags, frame.size) != (DATA, 0, 0) {
            self.row = 0;
            return false;
        }
        self.row += 1;
        let shown = self.shown < Self::FIRST || self.row > Self::ROW;
        self.shown = self.shown.saturating_add(shown.into());
        !shown
    }
}

/// The header blocks of the frames that were read (RFC 9113 section 4.3), as far as they may be trailers'. Heads the h2 crate bounds itself.
pub(super) struct Blocks {
    frames: Frames,
    /// How much of one has come that ends its stream, as trailers do.
    bytes: Option<usize>,
    most: usize,
    /// The newest stream of a client: a block of a newer one is a request's head. An endpoint's answers come in any order, so that of one
    /// without a body the head is bounded as trailers are.
    newest: u32,
    /// Who learns what an endpoint says.
    takes: Option<Rc<Takes>>,
    empties: Empties,
    /// A client's.
    floods: Option<Floods>,
}

impl Blocks {
    pub(super) fn downstream(most: usize) -> Self {
        let (frames, floods) = (Frames::behind(PREFACE), Some(Floods::default()));
        Self { frames, bytes: None, most, newest: 0, takes: None, empties: Empties::default(), floods }
    }

    pub(super) fn upstream(most: usize, takes: Rc<Takes>) -> Self {
        let (frames, takes, empties) = (Frames::default(), Some(takes), Empties::default());
        Self { frames, bytes: None, most, newest: u32::MAX, takes, empties, floods: None }
    }

    /// Looks at what was read when as much was `sent`, in DATA frames. What is none of the h2 crate's business is made a frame that it ignores.
    ///
    /// # Errors
    /// A bound was not kept to; which, as metrics count it.
    pub(super) fn see(&mut self, read: &mut [u8], sent: u64) -> Result<(), &'static str> {
        let Self { frames, bytes, most, newest, takes, empties, floods } = self;
        let (mut within, mut hidden) = (Ok(()), Vec::new());
        frames.see(read, |frame| {
            if empties.hides(&frame) {
                hidden.push(frame.end);
            }
            *bytes = match frame.kind {
                HEADERS if frame.stream > *newest => {
                    *newest = frame.stream;
                    if let Some(floods) = floods {
                        floods.opened();
                    }
                    None
                }
                HEADERS if frame.flags & END_STREAM != 0 => Some(frame.size),
                CONTINUATION => bytes.map(|bytes| bytes + frame.size),
                SETTINGS if frame.flags & ACK == 0 => {
                    if let Some(takes) = takes {
                        takes.hear(frame.setting(MAX_HEADER_LIST_SIZE), frame.ends);
                    }
                    None
                }
                _ => None,
            };
            if bytes.is_some_and(|bytes| bytes > *most) {
                within = Err("h2_calm");
            } else if let Some(floods) = floods
                && within.is_ok()
            {
                within = floods.see(&frame, sent);
            }
        });
        for end in hidden {
            // One whose kind was read before has been seen.
            if let Some(kind) = (end + KIND).checked_sub(HEAD) {
                read[kind] = UNKNOWN;
            }
        }
        within
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::h2::frames::{RST_STREAM, SETTING};

    #[tokio::test]
    async fn what_an_endpoint_says_is_found_however_the_frames_are_cut() {
        use crate::http::body::{Body, RequestBody};
        use crate::http::h1::parse::InvalidHead::BeyondEndpoint;

        let setting = |id: u16, value: u32| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
        let frame = |flags: u8, payload: &[u8]| {
            [&[0, 0, payload.len() as u8, SETTINGS, flags, 0, 0, 0, 0][..], payload].concat()
        };
        let said = [setting(3, 6), setting(MAX_HEADER_LIST_SIZE, 70_000), setting(4, 1)].concat();
        let bytes = [frame(0, &said), frame(ACK, b""), frame(0, &setting(5, 1)), vec![0; HEAD + SETTING]].concat();
        for cut in 1..=bytes.len() {
            let takes = Rc::new(Takes::new(false));
            let mut blocks = Blocks::upstream(100, takes.clone());
            assert!(bytes.clone().chunks_mut(cut).all(|part| blocks.see(part, 0).is_ok()));
            let mut body = RequestBody::new(Body::Empty, Default::default(), std::time::Duration::ZERO);
            let found = takes.check(70_001, &mut body).await;
            assert_eq!(found, Err(BeyondEndpoint { bytes: 70_001, most: 70_000 }), "in parts of {cut}");
        }
    }

    #[test]
    fn empty_frames_that_come_singly_are_hidden() {
        let empty = [0, 0, 0, DATA, 0, 0, 0, 0, 1];
        let full = [&[0, 0, 3, DATA, 0, 0, 0, 0, 1][..], &[DATA; 3]].concat();
        let last = [0, 0, 0, DATA, END_STREAM, 0, 0, 0, 1];
        let single = [&full, &empty[..], &full, &last].concat();
        let row = [&full[..], &empty.repeat(Empties::ROW as usize + 2)].concat();
        let mut blocks = Blocks::downstream(0);
        blocks.see(&mut [0; PREFACE], 0).unwrap();
        let mut shown = |mut part: Vec<u8>| {
            blocks.see(&mut part, 0).unwrap();
            let (mut frames, mut count) = (Frames::default(), 0);
            frames.see(&part, |frame| count += u32::from((frame.kind, frame.size, frame.flags) == (DATA, 0, 0)));
            count
        };
        assert_eq!(shown(empty.repeat(Empties::FIRST as usize)), Empties::FIRST);
        for _ in 0..10 {
            assert_eq!(shown(single.repeat(100)), 0);
            assert_eq!(shown(empty.to_vec()), 0);
        }
        assert_eq!(shown(row), 2);
    }

    #[test]
    fn trailers_are_bounded_over_all_their_frames() {
        let frame = |kind: u8, flags: u8, size: usize| {
            [&[0, 0, size as u8, kind, flags, 0, 0, 0, 1], &*vec![HEADERS; size]].concat()
        };
        let head = [0, 0, 101, HEADERS, END_STREAM, 0, 0, 0];
        let whole = |kinds: &[(u8, u8, usize)], cut: usize| {
            // Heads are not trailers, though they end their streams.
            let heads = [1, 5].map(|stream| [&head[..], &[stream], &[HEADERS; 101]].concat()).concat();
            let mut bytes = [vec![HEADERS; PREFACE], heads].concat();
            kinds.iter().for_each(|(kind, flags, size)| bytes.extend(frame(*kind, *flags, *size)));
            let mut blocks = Blocks::downstream(100);
            bytes.chunks_mut(cut).all(|part| blocks.see(part, 0).is_ok())
        };
        const END: u8 = END_STREAM | 4;
        for cut in [1, 7, 1000] {
            assert!(whole(&[(HEADERS, 1, 60), (CONTINUATION, 4, 40), (0, 1, 200), (HEADERS, END, 100)], cut));
            assert!(whole(&[(HEADERS, 4, 101), (HEADERS, 0, 90), (CONTINUATION, 4, 90), (0, END_STREAM, 101)], cut));
            assert!(!whole(&[(HEADERS, 1, 60), (CONTINUATION, 0, 40), (CONTINUATION, 4, 1)], cut));
            assert!(!whole(&[(RST_STREAM, 0, 5), (HEADERS, END, 101)], cut));
            assert!(!whole(&[(RST_STREAM, 0, 4), (HEADERS, END_STREAM, 50), (CONTINUATION, 4, 51)], cut));
        }
    }
}
