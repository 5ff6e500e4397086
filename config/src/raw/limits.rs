//! `limits`, of the whole file and of a gateway.

use std::time::Duration;

use remora_model::HttpLimits;

use super::{duration, positive_duration};
use crate::decode::{Located, number};
use crate::errors::Problems;

/// `limits`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    header_bytes: Option<u32>,
    headers: Option<u32>,
    header_timeout: Option<Duration>,
    streams: Option<u32>,
    connection_header_bytes: Option<u32>,
    stream_window: Option<u32>,
    stream_idle: Option<Duration>,
}

impl Limits {
    pub(super) fn decode(at: &Located<'_>, problems: &mut Problems) -> Option<Self> {
        let known = [
            "header_bytes",
            "headers",
            "header_timeout",
            "streams",
            "connection_header_bytes",
            "stream_window",
            "stream_idle",
        ];
        let mut fields = at.fields(&known, problems)?;
        Some(Self {
            header_bytes: fields.optional("header_bytes", number(4096..=1_048_576)).given().copied(),
            // What keeps fields has no room for more names that collide.
            headers: fields.optional("headers", number(16..=6_000)).given().copied(),
            header_timeout: fields.optional("header_timeout", positive_duration).given().copied(),
            streams: fields.optional("streams", number(1..=10_000)).given().copied(),
            connection_header_bytes: fields
                .optional("connection_header_bytes", number(65_536..=1_073_741_824))
                .given()
                .copied(),
            stream_window: fields.optional("stream_window", number(65_535..=16_777_216)).given().copied(),
            stream_idle: fields.optional("stream_idle", duration).given().copied(),
        })
    }

    /// What is given here, and for the rest `other`.
    pub(crate) fn or(self, other: HttpLimits) -> HttpLimits {
        HttpLimits {
            header_bytes: self.header_bytes.unwrap_or(other.header_bytes),
            headers: self.headers.unwrap_or(other.headers),
            header_timeout: self.header_timeout.unwrap_or(other.header_timeout),
            streams: self.streams.unwrap_or(other.streams),
            connection_header_bytes: self.connection_header_bytes.unwrap_or(other.connection_header_bytes),
            stream_window: self.stream_window.unwrap_or(other.stream_window),
            stream_idle: self.stream_idle.unwrap_or(other.stream_idle),
        }
    }
}
