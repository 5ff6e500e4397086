//! The frames of HTTP/2 (RFC 9113 section 4.1), found as they pass.

pub(super) const HEAD: usize = 9;
/// Where in a head is what kind of frame it is.
pub(super) const KIND: usize = 3;
/// Of a reset's error code.
const CODE: usize = 4;
/// Of a setting: what it is, and its value (RFC 9113 section 6.5.1).
pub(super) const SETTING: usize = 6;
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
/// A frame of this kind is ignored (RFC 9113 section 4.1): no extension has it.
pub(super) const UNKNOWN: u8 = 0xbf;
pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;

/// What is looked at of a frame.
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    /// Of its payload.
    pub(super) size: usize,
    /// What is looked at of it: the code of a reset, one of the settings.
    payload: [u8; SETTING],
    /// Whether nothing more of it is looked at.
    pub(super) ends: bool,
    /// Where in the bytes that came is what follows the parts of it that are looked at.
    pub(super) end: usize,
}

impl Frame {
    /// Of a reset.
    pub(super) fn code(&self) -> u32 {
        let [a, b, c, d, ..] = self.payload;
        u32::from_be_bytes([a, b, c, d])
    }

    /// The value of this setting, where SETTINGS have it here.
    pub(super) fn setting(&self, wanted: u16) -> Option<u32> {
        let [x, y, a, b, c, d] = self.payload;
        (self.size > 0 && u16::from_be_bytes([x, y]) == wanted).then(|| u32::from_be_bytes([a, b, c, d]))
    }
}

/// Where in a sequence of frames (RFC 9113 section 4.1) the last byte was.
#[derive(Default)]
pub(super) struct Frames {
    /// The head of the frame, and a part of its payload.
    head: [u8; HEAD + SETTING],
    /// How much of that has come.
    have: usize,
    /// The payload's parts that are looked at: their size, if there are any, and what is left of them.
    part: usize,
    left: usize,
    /// What is left of the payload otherwise.
    skip: usize,
}

impl Frames {
    /// Those that follow so many bytes.
    pub(super) fn behind(skip: usize) -> Self {
        Self { skip, ..Self::default() }
    }

    /// Calls for each frame, for SETTINGS with each setting.
    pub(super) fn see(&mut self, mut bytes: &[u8], mut frame: impl FnMut(Frame)) {
        let all = bytes.len();
        while !bytes.is_empty() {
            if self.skip > 0 {
                let passed = self.skip.min(bytes.len());
                self.skip -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            let want = HEAD + self.part;
            let taken = (want - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have < want {
                return;
            }
            let [a, b, c, kind, flags, w, x, y, z, payload @ ..] = self.head;
            let size = u32::from_be_bytes([0, a, b, c]) as usize;
            if self.part == 0 {
                // Of another size they are none.
                self.part = match kind {
                    RST_STREAM if size == CODE => CODE,
                    SETTINGS if size > 0 && size.is_multiple_of(SETTING) => SETTING,
                    _ => 0,
                };
                (self.left, self.skip) = if self.part > 0 { (size, 0) } else { (0, size) };
                if self.part > 0 {
                    continue;
                }
            }
            self.left -= self.part;
            let ends = self.left == 0;
            if ends {
                (self.have, self.part) = (0, 0);
            } else {
                self.have = HEAD;
            }
            let stream = u32::from_be_bytes([w, x, y, z]) & (u32::MAX >> 1);
            frame(Frame { kind, flags, stream, size, payload, ends, end: all - bytes.len() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_found_however_the_frames_are_cut() {
        let frame =
            |kind: u8, payload: &[u8]| [&[0, 0, payload.len() as u8, kind, 0, 0, 0, 0, 1][..], payload].concat();
        let bytes = [
            frame(0, b"data that holds a \x03"),
            frame(RST_STREAM, &[0, 0, 0, 7]),
            frame(RST_STREAM, &[0; 5]),
            frame(4, b""),
            frame(RST_STREAM, &[0, 0, 0, 1]),
        ]
        .concat();
        for cut in 1..=bytes.len() {
            let (mut frames, mut codes) = (Frames::default(), Vec::new());
            let reset = |frame: &Frame| frame.kind == RST_STREAM && frame.size == CODE;
            bytes
                .chunks(cut)
                .for_each(|part| frames.see(part, |frame| codes.extend(reset(&frame).then(|| frame.code()))));
            assert_eq!(codes, [7, 1], "in parts of {cut}");
        }
    }
}
