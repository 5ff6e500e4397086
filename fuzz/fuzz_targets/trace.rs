//! Trace headers: whatever they are, what is read of them is written and read again as the same, in each format, and what is
//! passed on is bounded.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use remora_proxy::telemetry::context::{self, Formats, TraceContext};

const NAMES: [&str; 8] =
    ["traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags", "baggage"];

// Lines: the first byte says which field the rest is.
fuzz_target!(|input: &[u8]| {
    let mut headers = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n').take(40) {
        let Some((name, value)) = line.split_first() else { continue };
        let Ok(value) = HeaderValue::from_bytes(value) else { continue };
        headers.append(HeaderName::from_static(NAMES[usize::from(*name) % NAMES.len()]), value);
    }
    let incoming = context::read(&headers);
    if let Some(parent) = incoming.parent {
        assert!(parent.trace_id != 0 && parent.span_id != 0, "an identifier of zeros");
        for formats in [Formats::TRACE_CONTEXT, Formats::B3, Formats::B3_MULTI] {
            let context = TraceContext {
                trace_id: parent.trace_id,
                span_id: parent.span_id,
                sampled: incoming.sampled == Some(true),
                debug: incoming.debug,
                random: parent.random,
            };
            let mut written = headers.clone();
            context::write(&mut written, &context, formats, incoming.present);
            let again = context::read(&written);
            assert_eq!(again.found, formats);
            let ids = again.parent.map(|parent| (parent.trace_id, parent.span_id));
            assert_eq!(ids, Some((parent.trace_id, parent.span_id)));
            assert_eq!(again.sampled, Some(context.sampled || (context.debug && formats != Formats::TRACE_CONTEXT)));
        }
    }
    let baggage = headers.get_all("baggage").iter().count();
    context::limit_tracestate(&mut headers, incoming.w3c);
    let kept: Vec<_> =
        headers.get_all("tracestate").iter().flat_map(|value| value.as_bytes().split(|b| *b == b',')).collect();
    assert!(incoming.w3c || kept.is_empty(), "a tracestate without its traceparent");
    assert!(kept.iter().filter(|member| !member.trim_ascii().is_empty()).count() <= 32);
    assert!(headers.get_all("tracestate").iter().map(HeaderValue::len).sum::<usize>() <= 512);
    assert_eq!(headers.get_all("baggage").iter().count(), baggage);
});
