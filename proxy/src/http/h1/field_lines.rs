//! The fields of a head, read once: what framing, the connection and the target depend on is gathered on the way.

use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Version, header};

use super::framing::{self, Framing, members};
use super::parse::{InvalidHead, entry};
use super::target;
use crate::http::spelling::Spelling;

/// Room for fields that are added on the way through: our word to our own sidecar or who calls, and the trace.
const ADDED: usize = 2;

/// The fields of a head.
#[derive(Default)]
pub(super) struct Fields {
    pub(super) headers: HeaderMap,
    pub(super) spelling: Spelling,
    pub(super) connection: Connection,
    pub(super) expect_continue: bool,
    pub(super) idle_timeout: Option<Duration>,
    host: Once,
    upgrade: Once,
    length: Option<u64>,
    coding: Once,
}

/// What the Connection field says.
#[derive(Clone, Copy, Default)]
pub(super) struct Connection {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
}

/// A field that should come once.
#[derive(Clone, Default)]
enum Once {
    #[default]
    Absent,
    Value(Bytes),
    Several,
}

impl Once {
    fn see(&mut self, value: Bytes) {
        *self = match self {
            Self::Absent => Self::Value(value),
            _ => Self::Several,
        };
    }
}

impl Fields {
    pub(super) fn read(bytes: &Bytes, parsed: &[httparse::Header<'_>]) -> Result<Self, InvalidHead> {
        let mut fields = Self { headers: HeaderMap::with_capacity(parsed.len() + ADDED), ..Self::default() };
        for (index, field) in parsed.iter().enumerate() {
            let (name, value, form) = entry(bytes, field)?;
            fields.spelling.learn(field.name, form, index == 0);
            match name {
                header::HOST => fields.host.see(bytes.slice_ref(field.value)),
                header::CONTENT_LENGTH if fields.length.is_some() => return Err(InvalidHead::ContentLength),
                header::CONTENT_LENGTH => fields.length = Some(framing::content_length(field.value)?),
                header::TRANSFER_ENCODING => fields.coding.see(bytes.slice_ref(field.value)),
                header::CONNECTION => fields.connection.see(field.value),
                header::UPGRADE => fields.upgrade.see(bytes.slice_ref(field.value)),
                header::EXPECT => fields.expect_continue |= field.value.eq_ignore_ascii_case(b"100-continue"),
                _ if name == "keep-alive" => fields.idle_timeout = idle_timeout(field.value),
                _ => {}
            }
            fields.headers.append(name, value);
        }
        Ok(fields)
    }

    /// The Host field: exactly one, and a valid authority, in HTTP/1.1 (RFC 9112 section 3.2).
    pub(super) fn host(&self, version: Version) -> Result<Option<Authority>, InvalidHead> {
        match &self.host {
            Once::Value(value) if value.is_empty() => Ok(None),
            Once::Value(value) => target::authority(value.clone()).map(Some).ok_or(InvalidHead::Host),
            Once::Absent if version == Version::HTTP_11 => Err(InvalidHead::NoHost),
            Once::Absent => Ok(None),
            Once::Several => Err(InvalidHead::Hosts),
        }
    }

    /// Where the body ends, as far as the fields tell.
    pub(super) fn framing(&self, version: Version) -> Result<Option<Framing>, InvalidHead> {
        let coding = match &self.coding {
            Once::Absent => {
                return Ok(self
                    .length
                    .map(|length| if length == 0 { Framing::Empty } else { Framing::Length(length) }));
            }
            Once::Value(coding) => coding,
            Once::Several => return Err(InvalidHead::TransferEncoding),
        };
        if version == Version::HTTP_10 {
            return Err(InvalidHead::TransferEncoding);
        }
        if self.length.is_some() {
            return Err(InvalidHead::TwoLengths);
        }
        framing::only_chunked(coding)?;
        Ok(Some(Framing::Chunked))
    }

    /// Whether they say that there is a body.
    pub(super) fn announce_body(&self) -> bool {
        self.length.is_some_and(|length| length > 0) || !matches!(self.coding, Once::Absent)
    }

    /// What the request asks to upgrade to. HTTP/2 is declined by ignoring it, as RFC 9110 section 7.8 allows.
    pub(super) fn upgrade(&self, version: Version) -> Option<HeaderValue> {
        let Once::Value(protocols) = &self.upgrade else { return None };
        let http2 = members(protocols).any(|protocol| protocol.eq_ignore_ascii_case(b"h2c"));
        let meant = self.connection.upgrade && version == Version::HTTP_11 && !http2 && !protocols.is_empty();
        self.headers.get(header::UPGRADE).filter(|_| meant).cloned()
    }
}

impl Connection {
    fn see(&mut self, value: &[u8]) {
        for option in members(value) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            self.upgrade |= option.eq_ignore_ascii_case(b"upgrade");
        }
    }

    /// RFC 9112 section 9.3.
    pub(super) fn keep_alive(self, version: Version) -> bool {
        !self.close && (self.keep_alive || version == Version::HTTP_11)
    }
}

/// `timeout` of a Keep-Alive field, in seconds.
fn idle_timeout(value: &[u8]) -> Option<Duration> {
    members(value).find_map(|member| {
        let (name, seconds) = member.split_at_checked("timeout=".len())?;
        let seconds = str::from_utf8(seconds).ok()?.parse::<u32>().ok()?;
        name.eq_ignore_ascii_case(b"timeout=").then(|| Duration::from_secs(seconds.into()))
    })
}
