//! What one client of a listener may take.

use std::time::Duration;

use serde::Serialize;

/// The bounds of HTTP on a listener's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HttpLimits {
    /// Bytes of a head, and of trailers.
    pub header_bytes: u32,
    /// Fields of a head, and of trailers.
    pub headers: u32,
    /// How long a head may take from its first byte to its last.
    pub header_timeout: Duration,
    /// Requests under way on one HTTP/2 connection.
    pub streams: u32,
    /// Bytes of the heads, as they are decoded, of the requests on one HTTP/2 connection that wait for their answers. A single head
    /// always passes, and so do those that another sidecar sends at a time.
    pub connection_header_bytes: u32,
    /// Bytes that one HTTP/2 stream may have sent and nobody has read yet; a connection may have a hundred times as many.
    pub stream_window: u32,
    /// How long a request may stand still while its client sends nothing of it or takes nothing of its answer; zero: for ever.
    pub stream_idle: Duration,
}

/// Envoy's, but for the windows and times: those of a sidecar.
impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            header_bytes: 60 * 1024,
            headers: 100,
            header_timeout: Duration::from_secs(30),
            streams: 1024,
            connection_header_bytes: 4 * 1024 * 1024,
            stream_window: 256 * 1024,
            stream_idle: Duration::ZERO,
        }
    }
}
