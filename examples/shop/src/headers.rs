//! The one thing an application in a mesh has to do itself: pass the trace headers of the request it serves on to the
//! requests it makes for it. Nobody else can know which of its requests belong together.

use http::{HeaderMap, HeaderName};
use tonic::metadata::MetadataMap;

/// The headers of W3C Trace Context and of B3 (single header, and the `x-b3-` family), and the request id.
fn belongs_to_the_trace(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name, "traceparent" | "tracestate" | "b3" | "x-request-id") || name.starts_with("x-b3-")
}

/// The trace headers among `incoming`.
pub(crate) fn trace_headers(incoming: &HeaderMap) -> HeaderMap {
    incoming
        .iter()
        .filter(|(name, _)| belongs_to_the_trace(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// A gRPC request with the trace headers among `incoming` as its metadata.
pub(crate) fn grpc_request<M>(message: M, incoming: &HeaderMap) -> tonic::Request<M> {
    let mut request = tonic::Request::new(message);
    *request.metadata_mut() = MetadataMap::from_headers(trace_headers(incoming));
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trace_headers_are_passed_on() {
        let mut incoming = HeaderMap::new();
        for name in ["traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-sampled", "x-request-id"] {
            incoming.insert(HeaderName::from_static(name), "1".parse().unwrap());
        }
        let expected = incoming.clone();
        incoming.insert("authorization", "secret".parse().unwrap());
        incoming.insert("b3-like", "no".parse().unwrap());
        assert_eq!(trace_headers(&incoming), expected);
        let request = grpc_request((), &incoming);
        assert_eq!(request.metadata().as_ref(), &expected);
    }

    #[test]
    fn both_values_of_a_repeated_header_survive() {
        let mut incoming = HeaderMap::new();
        incoming.append("tracestate", "a=1".parse().unwrap());
        incoming.append("tracestate", "b=2".parse().unwrap());
        assert_eq!(trace_headers(&incoming).get_all("tracestate").iter().count(), 2);
    }
}
