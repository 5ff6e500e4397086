//! OpenTelemetry's semantic conventions for HTTP and gRPC, and what counts as a failure.

use http::{HeaderMap, StatusCode};

use super::span::Outcome;

/// gRPC's CANCELLED.
pub(crate) const GRPC_CANCELLED: u8 = 1;
/// gRPC's UNKNOWN.
const GRPC_UNKNOWN: u8 = 2;

/// The `grpc-status` of trailers or of a trailers-only head; what is not one of gRPC's codes is UNKNOWN.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    let text = headers.get("grpc-status")?.to_str().unwrap_or_default();
    Some(text.parse().ok().filter(|status| *status <= 16).unwrap_or(GRPC_UNKNOWN))
}

/// The gRPC status of a response that has none, by its HTTP status (gRPC's HTTP to gRPC status code mapping).
pub(crate) fn grpc_status_of(status: Option<StatusCode>) -> Option<u8> {
    Some(match status?.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => GRPC_UNKNOWN,
    })
}

/// Whether a gRPC status is the server's failure (the semantic conventions' rule for server spans).
pub(crate) fn grpc_server_error(status: u8) -> bool {
    matches!(status, 2 | 4 | 12 | 13 | 14 | 15)
}

/// Whether a request failed: a response flag, a status of 500 or more, or a gRPC status that means the server's failure.
pub(crate) fn failed(outcome: &Outcome) -> bool {
    outcome.flag.is_some()
        || outcome.status.is_some_and(|status| status.as_u16() >= 500)
        || outcome.grpc_status.is_some_and(grpc_server_error)
}
