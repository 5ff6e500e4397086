//! The values of labels. Each discriminant is the index of its count.

use http::Version;

/// What a request speaks, as `remora_requests_total` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RequestProtocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 that is not gRPC.
    Http2,
    /// gRPC.
    Grpc,
}

impl RequestProtocol {
    pub(crate) const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Grpc];

    /// The protocol of a request of this version; `grpc` wins.
    pub fn of(version: Version, grpc: bool) -> Self {
        match (grpc, version == Version::HTTP_2) {
            (true, _) => Self::Grpc,
            (false, true) => Self::Http2,
            (false, false) => Self::Http1,
        }
    }

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
        }
    }
}

/// What an upstream connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Opaque bytes.
    Tcp,
}

impl UpstreamProtocol {
    pub(crate) const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Tcp];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tcp => "tcp",
        }
    }
}

/// What a downstream connection turned out to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DownstreamProtocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// The application's own TLS, passed on as bytes.
    Tls,
    /// Opaque bytes.
    Tcp,
    /// It ended, or was refused, before that was known.
    Unknown,
}

impl DownstreamProtocol {
    pub(crate) const ALL: [Self; 5] = [Self::Http1, Self::Http2, Self::Tls, Self::Tcp, Self::Unknown];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tls => "tls",
            Self::Tcp => "tcp",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a downstream connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// Aimed at one of the proxy's own ports.
    Loop,
    /// The kernel could not tell where it was aimed.
    NoOriginalDestination,
    /// Plaintext where mTLS is required.
    Plaintext,
    /// The TLS handshake failed, or the peer's identity is not accepted.
    Tls,
    /// It carries something its filter chain has no way for.
    NoRoute,
    /// It broke its protocol before the first request.
    Protocol,
    /// It said nothing, or not enough, in time.
    Timeout,
    /// Too many connections, or no file descriptor left.
    Limit,
    /// The proxy is draining.
    Draining,
}

impl Refusal {
    pub(crate) const ALL: [Self; 9] = [
        Self::Loop,
        Self::NoOriginalDestination,
        Self::Plaintext,
        Self::Tls,
        Self::NoRoute,
        Self::Protocol,
        Self::Timeout,
        Self::Limit,
        Self::Draining,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loop => "loop",
            Self::NoOriginalDestination => "no_original_destination",
            Self::Plaintext => "plaintext",
            Self::Tls => "tls",
            Self::NoRoute => "no_route",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::Limit => "limit",
            Self::Draining => "draining",
        }
    }
}

/// How clients break their protocols, as metrics count it: what HTTP/1 heads and bodies are refused for, what requests say that is taken
/// out of them or passed over, then HTTP/2.
pub const VIOLATIONS: [&str; 41] = [
    "head_too_large",
    "request_line_too_long",
    "too_many_headers",
    "line_end",
    "request_line",
    "version",
    "target",
    "header_name",
    "header_value",
    "no_host",
    "several_hosts",
    "host",
    "content_length",
    "transfer_encoding",
    "unknown_coding",
    "two_lengths",
    "chunk_size",
    "chunk_line",
    "chunk_end",
    "forged_headers",
    "hop_word",
    "connection_option",
    "host_overridden",
    "trace_context",
    "head_timeout",
    "malformed",
    "preface_timeout",
    "not_read",
    "too_many_resets",
    "too_many_heads",
    "h2_calm",
    "h2_priority_flood",
    "h2_window_update_flood",
    "h2_protocol",
    "h2_flow_control",
    "h2_stream_closed",
    "h2_frame_size",
    "h2_compression",
    "h2_preface",
    "h2_other",
    "other",
];

/// HTTP/2 error codes (RFC 9113 section 7) by number.
pub const RESET_CODES: [&str; 15] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
    "other",
];

/// Which end of a TLS handshake the proxy was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TlsSide {
    /// Downstream: the proxy answered.
    Server,
    /// Upstream: the proxy began.
    Client,
}

impl TlsSide {
    pub(crate) const ALL: [Self; 2] = [Self::Server, Self::Client];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// Why TLS handshakes fail, as metrics count it.
pub const TLS_FAILURE_REASONS: [&str; 12] = [
    "unknown_ca",
    "expired",
    "not_yet_valid",
    "wrong_trust_domain",
    "wrong_identity",
    "no_certificate",
    "bad_certificate",
    "invalid_spiffe_id",
    "revoked",
    "protocol",
    "timeout",
    "closed",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_indexed_by_their_discriminants() {
        assert!(RequestProtocol::ALL.iter().enumerate().all(|(index, value)| *value as usize == index));
        assert!(UpstreamProtocol::ALL.iter().enumerate().all(|(index, value)| *value as usize == index));
        assert!(DownstreamProtocol::ALL.iter().enumerate().all(|(index, value)| *value as usize == index));
        assert!(Refusal::ALL.iter().enumerate().all(|(index, value)| *value as usize == index));
        assert!(TlsSide::ALL.iter().enumerate().all(|(index, value)| *value as usize == index));
    }
}
