use super::*;

const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
const SPAN: u64 = 0x00f0_67aa_0ba9_02b7;
const TRACEPARENT_SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
}

/// Parent, decision and debug flag that the headers tell.
fn read_all(pairs: &[(&'static str, &str)]) -> (Option<(u128, u64)>, Option<bool>, bool) {
    let incoming = read(&headers(pairs));
    (incoming.parent.map(|parent| (parent.trace_id, parent.span_id)), incoming.sampled, incoming.debug)
}

#[test]
fn reads_what_the_specifications_allow() {
    let known = Some((TRACE, SPAN));
    let short = Some((0xa3ce_929d_0e0e_4736, SPAN));
    let table: &[(&[(&'static str, &str)], _)] = &[
        (&[], (None, None, false)),
        (&[("traceparent", TRACEPARENT_SAMPLED)], (known, Some(true), false)),
        (&[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")], (known, Some(false), false)),
        (&[("traceparent", " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03 ")], (known, Some(true), false)),
        // A later version may say more.
        (&[("traceparent", "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x")], (known, Some(true), false)),
        (&[("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1-05e3ac9a4f6e3b90")], (known, Some(true), false)),
        (&[("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7")], (known, None, false)),
        (&[("b3", "a3ce929d0e0e4736-00f067aa0ba902b7-d")], (short, Some(true), true)),
        (&[("b3", "0")], (None, Some(false), false)),
        (&[("b3", "1")], (None, Some(true), false)),
        (
            &[
                ("x-b3-traceid", "4BF92F3577B34DA6A3CE929D0E0E4736"),
                ("x-b3-spanid", "00f067aa0ba902b7"),
                ("x-b3-sampled", "true"),
            ],
            (known, Some(true), false),
        ),
        (&[("x-b3-traceid", "a3ce929d0e0e4736"), ("x-b3-spanid", "00f067aa0ba902b7")], (short, None, false)),
        (&[("x-b3-sampled", "0")], (None, Some(false), false)),
        (&[("x-b3-flags", "1")], (None, Some(true), true)),
        // W3C first, then the single header.
        (
            &[
                ("traceparent", TRACEPARENT_SAMPLED),
                ("b3", "0"),
                ("x-b3-traceid", "a3ce929d0e0e4736"),
                ("x-b3-spanid", "1111111111111111"),
            ],
            (known, Some(true), false),
        ),
        (&[("traceparent", "00-0-0-00"), ("b3", "a3ce929d0e0e4736-00f067aa0ba902b7-1")], (short, Some(true), false)),
    ];
    for (pairs, expected) in table {
        assert_eq!(read_all(pairs), *expected, "{pairs:?}");
    }
}

#[test]
fn what_cannot_be_read_is_as_if_absent() {
    let long = "0".repeat(10_000);
    let traceparents = [
        "",
        "00",
        "00-",
        &long,
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
        "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
        "+0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ];
    for value in traceparents {
        assert_eq!(read_all(&[("traceparent", value)]), (None, None, false), "traceparent {value:.80?}");
    }
    let singles = [
        "",
        "-",
        "2",
        &long,
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "4bf92f3577b34da6a3ce929d0e0e4736-",
        "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-2",
        "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1-xyz",
        "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1-05e3ac9a4f6e3b90-1",
        "0000000000000000-00f067aa0ba902b7-1",
        "4bf92f3577b34da6a3ce-00f067aa0ba902b7-1",
    ];
    for value in singles {
        assert_eq!(read_all(&[("b3", value)]), (None, None, false), "b3 {value:.80?}");
    }
    let multi: [&[(&'static str, &str)]; 3] = [
        &[("x-b3-traceid", "xyz"), ("x-b3-spanid", "00f067aa0ba902b7")],
        &[("x-b3-traceid", "a3ce929d0e0e4736")],
        &[("x-b3-sampled", "maybe"), ("x-b3-flags", "7")],
    ];
    for pairs in multi {
        assert_eq!(read_all(pairs), (None, None, false), "{pairs:?}");
    }
    let mut binary = HeaderMap::new();
    binary.insert("traceparent", HeaderValue::from_bytes(&[0xff; 55]).unwrap());
    assert_eq!(read(&binary).parent, None);
}

#[test]
fn a_header_that_comes_twice_is_not_believed() {
    let twice = [("traceparent", TRACEPARENT_SAMPLED), ("traceparent", TRACEPARENT_SAMPLED)];
    assert_eq!(read_all(&twice), (None, None, false));
    assert!(read(&headers(&twice)).is_unreadable());
    for pairs in [&[][..], &twice[..1], &[("b3", "0")], &[("traceparent", "?"), ("b3", "1")]] {
        assert!(!read(&headers(pairs)).is_unreadable(), "{pairs:?}");
    }
}

#[test]
fn writes_the_formats_asked_for_and_removes_what_others_said() {
    let context = TraceContext { trace_id: TRACE, span_id: SPAN, sampled: true, debug: false, random: true };
    let stale = [
        ("b3", "a3ce929d0e0e4736-1111111111111111-0"),
        ("x-b3-traceid", "a3ce929d0e0e4736"),
        ("x-b3-spanid", "1111111111111111"),
        ("x-b3-parentspanid", "2222222222222222"),
        ("x-b3-sampled", "0"),
        ("x-other", "stays"),
    ];
    let mut all = headers(&stale);
    let present = read(&all).present;
    write(&mut all, &context, Formats::TRACE_CONTEXT.and(Formats::B3).and(Formats::B3_MULTI), present);
    assert_eq!(
        all,
        headers(&[
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03"),
            ("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1"),
            ("x-b3-traceid", "4bf92f3577b34da6a3ce929d0e0e4736"),
            ("x-b3-spanid", "00f067aa0ba902b7"),
            ("x-b3-sampled", "1"),
            ("x-other", "stays"),
        ])
    );
    let mut one = headers(&stale);
    let unsampled = TraceContext { sampled: false, random: false, ..context };
    write(&mut one, &unsampled, Formats::TRACE_CONTEXT, present);
    assert_eq!(
        one,
        headers(&[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"), ("x-other", "stays")])
    );
    let mut debug = headers(&[("traceparent", TRACEPARENT_SAMPLED)]);
    let present = read(&debug).present;
    write(&mut debug, &TraceContext { debug: true, ..context }, Formats::B3.and(Formats::B3_MULTI), present);
    assert_eq!(read_all_of(&debug), (Some((TRACE, SPAN)), Some(true), true));
    assert!(!debug.contains_key("traceparent") && !debug.contains_key("x-b3-sampled"));
    // Found or not, what says nothing does not stay beside what is written.
    let mut lone = headers(&[("x-b3-parentspanid", "2222222222222222"), ("x-other", "stays")]);
    let incoming = read(&lone);
    assert_eq!((incoming.found, incoming.is_unreadable()), (Formats::default(), false));
    write(&mut lone, &unsampled, Formats::TRACE_CONTEXT, incoming.present);
    assert_eq!(lone, one);
}

fn read_all_of(headers: &HeaderMap) -> (Option<(u128, u64)>, Option<bool>, bool) {
    let incoming = read(headers);
    (incoming.parent.map(|parent| (parent.trace_id, parent.span_id)), incoming.sampled, incoming.debug)
}

#[test]
fn what_is_written_is_read_again() {
    for format in [Formats::TRACE_CONTEXT, Formats::B3, Formats::B3_MULTI] {
        for (trace_id, span_id, sampled) in [(TRACE, SPAN, true), (1, 1, false), (u128::MAX, u64::MAX, true)] {
            let mut headers = HeaderMap::new();
            let context = TraceContext { trace_id, span_id, sampled, debug: false, random: false };
            write(&mut headers, &context, format, Formats::default());
            assert_eq!(read_all_of(&headers), (Some((trace_id, span_id)), Some(sampled), false), "{format:?}");
        }
    }
}

#[test]
fn tracestate_is_kept_with_its_trace_cut_when_too_long_and_removed_otherwise() {
    let limited = |values: &[&str], continued| {
        let mut map = HeaderMap::new();
        for value in values {
            map.append("tracestate", HeaderValue::from_str(value).unwrap());
        }
        limit_tracestate(&mut map, continued);
        map.get_all("tracestate").iter().map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(limited(&["a=1,b=2", "c=3"], true), ["a=1,b=2", "c=3"]);
    assert_eq!(limited(&["a=1"], false), Vec::<String>::new());
    let many: Vec<String> = (0..200).map(|n| format!("k{n}=v")).collect();
    assert_eq!(limited(&[&many.join(",")], true), [many[..32].join(",")]);
    let wide: Vec<String> = (0..10).map(|n| format!("k{n}={}", "v".repeat(100))).collect();
    assert_eq!(limited(&[&wide.join(",")], true), [wide[..4].join(",")]);
    assert_eq!(limited(&[&format!("k={}", "v".repeat(10_000))], true), Vec::<String>::new());
    assert_eq!(limited(&[&",".repeat(10_000)], true), Vec::<String>::new());
}

#[test]
fn only_one_voice_that_says_unsampled_may_pass_untouched() {
    let unsampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let passes = |pairs: &[(&'static str, &str)], written| read(&headers(pairs)).says_unsampled_to(written);
    assert!(passes(&[("traceparent", unsampled)], Formats::TRACE_CONTEXT));
    assert!(!passes(&[("traceparent", unsampled)], Formats::TRACE_CONTEXT.and(Formats::B3)));
    assert!(!passes(&[("traceparent", TRACEPARENT_SAMPLED)], Formats::TRACE_CONTEXT));
    assert!(!passes(&[("traceparent", unsampled), ("b3", "1")], Formats::TRACE_CONTEXT));
    assert!(!passes(&[("b3", "0")], Formats::B3));
}

#[test]
fn every_byte_is_a_digit_or_is_refused_wherever_it_stands() {
    let digits = *b"4bf92f3577b34da6a3ce929d0e0e4736";
    for (place, byte) in (0..32).flat_map(|place| (0..=u8::MAX).map(move |byte| (place, byte))) {
        let mut text = digits;
        text[place] = byte;
        let value = str::from_utf8(&text).ok().and_then(|text| u128::from_str_radix(text, 16).ok());
        // A number's own parser takes a sign.
        let value = value.filter(|_| byte.is_ascii_hexdigit());
        assert_eq!(hex(&text), value, "{byte:#04x} at {place}");
        let mut lower = Digits::LOWER;
        let read = lower.all(&text);
        let lower = lower.are_valid().then_some(read);
        assert_eq!(lower, value.filter(|_| !byte.is_ascii_uppercase()), "{byte:#04x} at {place}");
    }
}

#[test]
fn a_head_that_is_full_is_left_as_it_is() {
    let mut full = HeaderMap::new();
    let names = (0..).map(|n| HeaderName::try_from(format!("x-{n}")).unwrap());
    let written = names.take_while(|name| full.try_insert(name, HeaderValue::from_static("")).is_ok()).count();
    let context = TraceContext { trace_id: TRACE, span_id: SPAN, sampled: true, debug: true, random: false };
    for format in [Formats::TRACE_CONTEXT, Formats::B3, Formats::B3_MULTI] {
        write(&mut full, &context, format, Formats::default());
    }
    assert_eq!(full.len(), written);
}
