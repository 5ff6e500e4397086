//! Trace headers that nobody can read, and baggage that nobody can carry.

use crate::bed::{Bed, Counter, Row, beds};
use crate::frames::{Outcome, fields, get};
use crate::origin::Seen;

const UNREADABLE: Counter = ("remora_protocol_violations_total", &[("reason", "trace_context")]);
/// Everything is traced, for a collector that is not there.
const TRACING: &str = "tracing: {endpoint: \"http://127.0.0.1:9\", sampling: 1.0}";

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

pub(crate) fn rows() -> Vec<Row> {
    vec![Row { name: "trace-headers", counter: UNREADABLE, run: trace_headers }]
}

beds! {
    gateway trace_headers_at_a_gateway ["trace-headers"] =>
        |rows| rows.run(&mut Bed::gateway_with(|_| String::new(), TRACING, &[]));

    chain trace_headers_through_two_sidecars ["trace-headers"] => |rows| rows.run(&mut Bed::chain("", TRACING));
}

/// Fields of one request.
type Fields = Vec<(&'static str, String)>;

/// Of each no position in a trace can be read.
fn unreadable() -> Vec<Fields> {
    let zeros = |length| "0".repeat(length);
    let parents = [
        format!("00-{}-{SPAN}-01", TRACE.replace('a', "g")),
        format!("00-{TRACE}-{}-01", SPAN.replace('b', "x")),
        format!("00-{TRACE}-{SPAN}-0z"),
        format!("00-{}-{SPAN}-01", zeros(32)),
        format!("00-{TRACE}-{}-01", zeros(16)),
        format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("00-{TRACE}-{SPAN}-01-more"),
        format!("00-{TRACE}"),
        String::new(),
        "-".repeat(60),
        "\u{e9}".repeat(30),
        "0".repeat(10_000),
        format!("00-{TRACE}-{SPAN}-01{}", "-more".repeat(2_000)),
    ];
    let singles = [
        format!("{}-{SPAN}-1", TRACE.replace('a', "g")),
        format!("{}-{}-1", zeros(32), zeros(16)),
        format!("{TRACE}-{SPAN}-1-{SPAN}-{SPAN}"),
        format!("{TRACE}-{SPAN}-yes"),
        "-".to_owned(),
        "f".repeat(10_000),
    ];
    let mut all: Vec<Fields> = parents.map(|parent| vec![("traceparent", parent)]).into();
    all.extend(singles.map(|single| vec![("b3", single)]));
    for (trace, span) in
        [(zeros(32), SPAN.to_owned()), ("g".repeat(32), SPAN.to_owned()), ("1".repeat(10_000), zeros(16))]
    {
        all.push(vec![("x-b3-traceid", trace), ("x-b3-spanid", span), ("x-b3-sampled", "perhaps".to_owned())]);
    }
    // Two voices.
    let one_of_two = |trace: &str| ("traceparent", format!("00-{trace}-{SPAN}-01"));
    all.push(vec![one_of_two(TRACE), one_of_two(&TRACE.replace('a', "b"))]);
    all
}

/// What reaches the origin of a GET with these fields, over HTTP/1.1 and over HTTP/2; both are answered.
fn seen(bed: &Bed, sent: &Fields) -> [Seen; 2] {
    let lines: String = sent.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let message = format!("GET /traced HTTP/1.1\r\nhost: server:8080\r\nconnection: close\r\n{lines}\r\n");
    let answer = bed.answer_to(message.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200 "), "{lines}: {answer}");
    let mut h2 = bed.h2();
    let sent: Vec<_> = sent.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let id = h2.ask(&[get("/traced"), fields(&sent)].concat());
    assert_eq!(h2.outcome(id), Outcome::Answer(200), "{lines}");
    let seen = bed.origin.seen("/traced");
    bed.origin.forget();
    seen.try_into().unwrap()
}

/// Whether it is a number of so many hexadecimal digits that is not zero.
fn is_id(text: &str, digits: usize) -> bool {
    let hexadecimal = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    text.len() == digits && hexadecimal && text.bytes().any(|byte| byte != b'0')
}

/// The trace of a `traceparent` that everyone can read.
fn trace_of(seen: &Seen) -> &str {
    let parents = seen.values("traceparent");
    let [parent] = parents[..] else { panic!("{seen:?}") };
    let parts: Vec<&str> = parent.split('-').collect();
    let ["00", trace, span, "01"] = parts[..] else { panic!("{parent}") };
    assert!(is_id(trace, 32) && is_id(span, 16) && span != SPAN, "{parent}");
    trace
}

fn trace_headers(bed: &Bed) {
    let before = bed.proxy.metric(UNREADABLE.0, UNREADABLE.1);
    let unreadable = unreadable();
    for sent in &unreadable {
        let mut with_state = sent.clone();
        with_state.push(("tracestate", "a=1".to_owned()));
        for seen in seen(bed, &with_state) {
            let trace = trace_of(&seen);
            assert!(!sent.iter().any(|(_, value)| value.contains(trace)), "another trace begins: {seen:?}");
            assert!(seen.values("tracestate").is_empty(), "it belonged to the other: {seen:?}");
            // What was said in another format says the same now.
            for b3 in seen.values("b3") {
                assert!(b3.starts_with(&format!("{trace}-")) && b3.len() == 51, "{seen:?}");
            }
            assert!(seen.values("x-b3-traceid").iter().all(|id| *id == trace), "{seen:?}");
        }
    }
    let each_twice = before + 2.0 * unreadable.len() as f64;
    assert_eq!(bed.proxy.metric(UNREADABLE.0, UNREADABLE.1), each_twice);
    // One that can be read goes on, whatever comes with it: a state that is too long is cut, and baggage is the application's.
    let members = |each: &str| (0..200).map(|n| format!("m{n}={each}")).collect::<Vec<_>>().join(",");
    let long = "v".repeat(45);
    for (state, baggage) in [("1", "1"), (&long, "1"), ("1", &long)] {
        let (state, baggage) = (members(state), members(baggage));
        let parent = format!("00-{TRACE}-{SPAN}-01");
        let sent = vec![("traceparent", parent), ("tracestate", state), ("baggage", baggage.clone())];
        for seen in seen(bed, &sent) {
            assert_eq!(trace_of(&seen), TRACE);
            let states = seen.values("tracestate");
            let [state] = states[..] else { panic!("{seen:?}") };
            assert!(state.starts_with("m0=") && state.len() <= 512 && state.split(',').count() <= 32, "{state}");
            assert_eq!(seen.values("baggage"), [baggage.as_str()]);
        }
    }
    assert_eq!(bed.proxy.metric(UNREADABLE.0, UNREADABLE.1), each_twice);
}
