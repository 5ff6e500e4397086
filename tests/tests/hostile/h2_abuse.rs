//! HTTP/2 that is correct frame by frame and meant to exhaust.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};

use crate::bed::{Bed, Counter, Row, beds};
use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, H2, HEADERS, Outcome, PING, PREFACE, PRIORITY,
    REFUSED_STREAM, RST_STREAM, SETTINGS, WINDOW_UPDATE, field, frame, get, indexed_field, request,
};

const VIOLATIONS: &str = "remora_protocol_violations_total";
const RESETS: &str = "remora_http2_resets_sent_total";
const JOINED: Counter = ("remora_http2_frames_joined_total", &[]);

pub(crate) fn rows() -> Vec<Row> {
    vec![
        Row { name: "rapid-reset", counter: (VIOLATIONS, &[("reason", "h2_calm")]), run: rapid_reset },
        Row {
            name: "server-sent-resets",
            counter: (RESETS, &[("code", "FLOW_CONTROL_ERROR")]),
            run: server_sent_resets,
        },
        Row { name: "continuation-flood", counter: (VIOLATIONS, &[("reason", "h2_calm")]), run: continuation_flood },
        Row { name: "empty-continuations", counter: (VIOLATIONS, &[("reason", "h2_calm")]), run: empty_continuations },
        Row { name: "empty-data", counter: (VIOLATIONS, &[("reason", "h2_calm")]), run: empty_data },
        Row { name: "tiny-data", counter: JOINED, run: tiny_data },
        Row { name: "settings-unread", counter: (VIOLATIONS, &[("reason", "not_read")]), run: settings_unread },
        Row { name: "pings-unread", counter: (VIOLATIONS, &[("reason", "not_read")]), run: pings_unread },
        Row { name: "priority-flood", counter: (VIOLATIONS, &[("reason", "h2_priority_flood")]), run: priority_flood },
        Row {
            name: "window-update-flood",
            counter: (VIOLATIONS, &[("reason", "h2_window_update_flood")]),
            run: window_update_flood,
        },
        Row { name: "header-bomb", counter: (VIOLATIONS, &[("reason", "h2_calm")]), run: header_bomb },
        Row { name: "cookie-crumbs", counter: (VIOLATIONS, &[("reason", "head_too_large")]), run: cookie_crumbs },
        Row {
            name: "bomb-behind-a-closed-window",
            counter: ("remora_requests_total", &[("flag", "SI")]),
            run: bomb_behind_a_closed_window,
        },
        Row { name: "answers-unread", counter: ("remora_requests_total", &[("flag", "SI")]), run: answers_unread },
        Row { name: "large-heads", counter: (VIOLATIONS, &[("reason", "too_many_headers")]), run: large_heads },
        Row { name: "too-many-streams", counter: (RESETS, &[("code", "REFUSED_STREAM")]), run: too_many_streams },
        Row { name: "half-a-preface", counter: (VIOLATIONS, &[("reason", "preface_timeout")]), run: half_a_preface },
    ]
}

beds! {
    gateway abuse_of_http2_at_a_gateway [
        "rapid-reset", "server-sent-resets", "continuation-flood", "empty-continuations", "empty-data", "priority-flood",
        "window-update-flood", "header-bomb", "cookie-crumbs", "large-heads", "too-many-streams", "half-a-preface",
        "malformed-frames", "malformed-fields", "malformed-pseudo-headers", "host-beside-another-authority", "length-without-a-body",
    ] => |rows| rows.run(&mut Bed::gateway());

    gateway small_frames_to_a_service_that_does_not_read ["tiny-data"] => |rows| rows.run(&mut Bed::gateway_with(
        |server| format!("    - {{path: /unread, endpoints: [\"{}\"], protocol: http}}\n", server.at(9001)), "", &[],
    ));

    chain abuse_of_http2_through_two_sidecars [
        "rapid-reset", "server-sent-resets", "continuation-flood", "empty-continuations", "empty-data", "priority-flood",
        "window-update-flood", "header-bomb", "cookie-crumbs", "large-heads", "too-many-streams", "half-a-preface",
        "malformed-frames", "malformed-fields", "malformed-pseudo-headers", "host-beside-another-authority", "length-without-a-body",
    ] => |rows| rows.run(&mut Bed::chain("", ""));

    chain floods_of_frames_before_two_sidecars ["settings-unread", "pings-unread"] =>
        |rows| rows.run(&mut Bed::chain(", timeouts: {idle: 2s}", ""));

    sidecar floods_of_frames_that_must_be_answered ["settings-unread", "pings-unread"] =>
        |rows| rows.run(&mut Bed::inbound("inbound: {timeouts: {idle: 2s}}"));

    gateway streams_that_stand_still ["bomb-behind-a-closed-window", "answers-unread"] =>
        |rows| rows.run(&mut Bed::gateway_with(|_| String::new(), "limits: {stream_idle: 2s}", &[]));

    chain streams_that_stand_still_before_two_sidecars ["bomb-behind-a-closed-window", "answers-unread"] =>
        |rows| rows.run(&mut Bed::chain("", "limits: {stream_idle: 2s}"));

    chain small_frames_through_two_sidecars ["tiny-data"] => |rows| rows.run(&mut Bed::chain("", ""));
}

/// Asserts that the connection ended, and told of too much where it told at all.
fn calmed(h2: &mut H2) {
    let (_, goaway) = h2.end();
    assert!(matches!(goaway, None | Some(ENHANCE_YOUR_CALM)), "{goaway:?}");
}

fn rapid_reset(bed: &Bed) {
    let mut h2 = bed.h2();
    let mut sent = 0;
    for _ in 0..5_000 {
        let id = h2.stream_id();
        let both = [
            frame(HEADERS, END_STREAM | END_HEADERS, id, &get("/evil")),
            frame(RST_STREAM, 0, id, &8u32.to_be_bytes()),
        ];
        if !h2.send(&both.concat()) {
            break;
        }
        sent += 1;
    }
    calmed(&mut h2);
    let seen = bed.origin.seen("/evil").len();
    assert!(seen < 1_200, "{sent} were sent, {seen} reached the origin");
    // And where each reset comes only when its request is on its way.
    let mut h2 = bed.h2();
    let mut asked = 0;
    while asked < 5_000 {
        let id = h2.ask(&get("/silent"));
        if !h2.settled() || !h2.send(&frame(RST_STREAM, 0, id, &8u32.to_be_bytes())) {
            break;
        }
        asked += 1;
    }
    assert!(asked < 1_200, "{asked}");
}

fn server_sent_resets(bed: &Bed) {
    type Provoke = fn(u32) -> Vec<u8>;
    let window: Provoke = |id| frame(WINDOW_UPDATE, 0, id, &[0; 4]);
    let data: Provoke = |id| frame(DATA, 0, id, b"more");
    let overflow: Provoke = |id| frame(WINDOW_UPDATE, 0, id, &0x7fff_ffff_u32.to_be_bytes());
    for provoke in [window, data, overflow] {
        let mut h2 = bed.h2();
        let mut resets = 0;
        // Each is answered before the next, so that none is lost when the connection ends.
        let ended = (0..5_000).any(|_| {
            let id = h2.stream_id();
            let head = frame(HEADERS, END_STREAM | END_HEADERS, id, &get("/silent"));
            h2.send(&[head, provoke(id)].concat());
            resets += 1;
            matches!(h2.outcome(id), Outcome::Closed(_))
        });
        assert!(ended && resets <= 1_200, "{resets} streams were reset before the end");
    }
}

fn continuation_flood(bed: &Bed) {
    let mut h2 = bed.h2();
    let id = h2.stream_id();
    h2.send(&frame(HEADERS, 0, id, &get("/evil")));
    let more = frame(CONTINUATION, 0, id, &field(b"x-more", &[b'm'; 16_000]));
    // The kernel takes some, too, even when it has ended.
    let taken = (0..1_000).take_while(|_| h2.send(&more)).count();
    calmed(&mut h2);
    assert!(taken < 1_000, "all of it was read");
    assert!(bed.origin.seen("/evil").is_empty());
}

fn empty_continuations(bed: &Bed) {
    let mut h2 = bed.h2();
    let id = h2.stream_id();
    h2.send(&frame(HEADERS, 0, id, &get("/evil")));
    let more = frame(CONTINUATION, 0, id, b"").repeat(100);
    for _ in 0..500 {
        if !h2.send(&more) {
            break;
        }
    }
    calmed(&mut h2);
    assert!(bed.origin.seen("/evil").is_empty());
}

fn empty_data(bed: &Bed) {
    let mut h2 = bed.h2();
    let id = h2.stream_id();
    h2.send(&frame(HEADERS, END_HEADERS, id, &request("POST", "/silent")));
    let more = frame(DATA, 0, id, b"").repeat(100);
    for _ in 0..2_000 {
        if !h2.send(&more) {
            break;
        }
    }
    calmed(&mut h2);
}

fn tiny_data(bed: &Bed) {
    // Takes connections, and never a byte of them.
    let listener = bed.server.enter(|| TcpListener::bind(bed.server.at(9001))).unwrap();
    let before = bed.memory();
    let joined = bed.proxy.metric(JOINED.0, JOINED.1);
    let mut h2 = bed.h2();
    // Its settings are there, and acknowledged: 256 KiB a stream.
    assert!(h2.settled() && h2.send(&frame(SETTINGS, 1, 0, b"")));
    // A whole window each, which the endpoint does not read.
    for _ in 0..2 {
        let id = h2.stream_id();
        h2.send(&frame(HEADERS, END_HEADERS, id, &request("POST", "/unread")));
        for _ in 0..51 {
            // No more at once than the h2 crate takes in before anybody looks.
            assert!(h2.send(&frame(DATA, 0, id, b"x").repeat(5 * 1_024)) && h2.settled(), "the connection goes on");
        }
    }
    let id = h2.ask(&get("/after"));
    assert_eq!(h2.outcome(id), Outcome::Answer(200));
    let (metric, labels) = JOINED;
    bed.proxy.metric_until(metric, labels, |count| count >= joined + 1_000.0);
    assert!(bed.memory() < before + 24e6, "{} bytes of memory, {before} before", bed.memory());
    drop(listener);
}

/// Sends what must be answered, and reads nothing, until the proxy takes no more; then it must end the connection by itself.
fn unread(bed: &Bed, frames: &[u8]) {
    let mut h2 = bed.h2();
    let many = frames.repeat(1_000);
    // The kernel's buffers hold a few megabytes each way.
    let taken = (0..5_000).take_while(|_| h2.send(&many)).count();
    assert!(taken < 5_000, "all were taken though no answer was read");
    let counted = bed.proxy.metric_until("remora_downstream_connections_active", &[], |count| count <= 1.0);
    assert!(counted <= 1.0, "only the good client's is left");
}

fn settings_unread(bed: &Bed) {
    unread(bed, &frame(SETTINGS, 0, 0, b""));
}

fn pings_unread(bed: &Bed) {
    unread(bed, &frame(PING, 0, 0, b"answer!!"));
}

/// Sends frames that mean nothing: of some, fewer than the bound of a connection with one stream, it serves as before, and many end it.
fn meaningless(bed: &Bed, some: u32, frames: &dyn Fn(u32) -> Vec<u8>) {
    let mut h2 = bed.h2();
    let id = h2.ask(&get("/first"));
    assert_eq!(h2.outcome(id), Outcome::Answer(200));
    assert!(h2.send(&(0..some).flat_map(frames).collect::<Vec<_>>()));
    let id = h2.ask(&get("/last"));
    assert_eq!(h2.outcome(id), Outcome::Answer(200));
    let flood: Vec<u8> = (some..some + 1_000).flat_map(frames).collect();
    // What the kernel takes in before the end is met is no more than some buffers.
    assert!((0..5_000).any(|_| !h2.send(&flood)), "the connection goes on");
    calmed(&mut h2);
}

fn priority_flood(bed: &Bed) {
    meaningless(bed, 1_050, &|n| frame(PRIORITY, 0, 2 * n + 1, &[0, 0, 0, 0, 16]));
}

fn window_update_flood(bed: &Bed) {
    meaningless(bed, 990, &|_| frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes()));
}

fn header_bomb(bed: &Bed) {
    let before = bed.memory();
    let mut h2 = bed.h2();
    let id = h2.stream_id();
    // One entry of 4 KB, then a byte for each time that it is meant again.
    let block = [get("/evil"), indexed_field(b"x-bomb", &[b'b'; 4_000]), vec![0x80 | 62; 16_000 - 4_200]].concat();
    h2.send(&frame(HEADERS, END_STREAM | END_HEADERS, id, &block));
    calmed(&mut h2);
    assert!(bed.memory() < before + 32e6, "{before} bytes before, {} after", bed.memory());
    assert!(bed.origin.seen("/evil").is_empty());
}

fn cookie_crumbs(bed: &Bed) {
    let mut h2 = bed.h2();
    let crumb = |name: String| field(b"cookie", name.as_bytes());
    let ninety: Vec<u8> = (0..90).flat_map(|n| crumb(format!("crumb-{n}=of-a-cookie"))).collect();
    let id = h2.ask(&[get("/ninety"), ninety].concat());
    assert_eq!(h2.outcome(id), Outcome::Answer(200));
    let seen = bed.origin.seen("/ninety");
    let cookies = seen[0].values("cookie");
    assert_eq!(cookies.len(), 1, "{cookies:?}");
    assert!(cookies[0].starts_with("crumb-0=of-a-cookie; crumb-1=") && cookies[0].ends_with("crumb-89=of-a-cookie"));
    // Each is one byte behind the first.
    for crumbs in [2_000, 12_000] {
        let mut h2 = bed.h2();
        let id = h2.ask(&[get("/evil"), indexed_field(b"cookie", b"a="), vec![0x80 | 62; crumbs]].concat());
        let outcome = h2.outcome(id);
        let answered = matches!(outcome, Outcome::Answer(code) if code != 431);
        assert!(!answered, "{crumbs}: {outcome:?}");
    }
    assert!(bed.origin.seen("/evil").is_empty());
}

fn bomb_behind_a_closed_window(bed: &Bed) {
    // INITIAL_WINDOW_SIZE (4) of 0: no answer can be sent, so none would ever end.
    let mut h2 = bed.h2_with(&[(4, 0)]);
    // Larger than the windows and buffers on its way, so that none is whole anywhere before its stream is reset.
    let block = [get("/big/600000"), field(b"x-large", &[b'l'; 15_000])].concat();
    let mut open: Vec<u32> = (0..100).map(|_| h2.ask(&block)).collect();
    while !open.is_empty() {
        match h2.frame() {
            Some(frame) if frame.kind == RST_STREAM => open.retain(|id| *id != frame.stream),
            Some(_) => {}
            None => break,
        }
    }
    bed.proxy.metric_until("remora_requests_active", &[], |count| count <= 1.0);
}

fn answers_unread(bed: &Bed) {
    const ANSWERS: usize = 100;
    let before = bed.memory();
    let stalled = || bed.proxy.metric("remora_requests_total", &[("flag", "SI")]);
    let (stalled_before, mut most) = (stalled(), 0.0_f64);
    // Windows as large as there are, of streams and of the connection: nothing but the reading is missing.
    let mut h2 = bed.h2_with(&[(4, u32::MAX >> 1)]);
    assert!(h2.send(&frame(WINDOW_UPDATE, 0, 0, &0x7f00_0000_u32.to_be_bytes())));
    for _ in 0..ANSWERS {
        h2.ask(&get("/big/600000"));
    }
    remora_test::eventually("all stand still", || {
        most = most.max(bed.memory());
        (stalled() >= stalled_before + (ANSWERS - 40) as f64).then_some(())
    });
    assert!(
        most < before + (ANSWERS * bed.held_of_an_answer()) as f64 + 16e6,
        "{most} bytes of memory, {before} before"
    );
}

fn large_heads(bed: &Bed) {
    let mut h2 = bed.h2();
    for (block, what) in [
        ((0..7).flat_map(|n| field(format!("x-{n}").as_bytes(), &[b'l'; 10_000])).collect::<Vec<u8>>(), "70 KB"),
        ((0..300).flat_map(|n| field(format!("x-{n}").as_bytes(), b"1")).collect(), "300 fields"),
    ] {
        let id = h2.stream_id();
        let whole = [get("/evil"), block].concat();
        let mut parts = whole.chunks(16_000);
        let first = frame(HEADERS, END_STREAM, id, parts.next().unwrap());
        let more: Vec<u8> = parts.flat_map(|part| frame(CONTINUATION, 0, id, part)).collect();
        assert!(h2.send(&[first, more, frame(CONTINUATION, END_HEADERS, id, b"")].concat()), "{what}");
        let outcome = h2.outcome(id);
        // The second 431 may come from the dynamic table, which is not read here.
        assert!(matches!(outcome, Outcome::Answer(431 | 0)), "{what}: {outcome:?}");
        let id = h2.ask(&get("/after"));
        assert_eq!(h2.outcome(id), Outcome::Answer(200), "the connection goes on after {what}");
    }
    for (sizes, what) in
        [(&[30_000, 30_000, 30_000][..], "three fields"), (&[62_000], "one field"), (&[1; 101], "101 fields")]
    {
        let mut h2 = bed.h2();
        let id = h2.stream_id();
        let head = frame(HEADERS, END_HEADERS, id, &request("POST", "/evil"));
        let block: Vec<u8> = sizes.iter().flat_map(|size| field(b"x-large", &vec![b'l'; *size])).collect();
        let mut parts = block.chunks(16_000);
        let first = frame(HEADERS, END_STREAM, id, parts.next().unwrap());
        let more: Vec<u8> = parts.flat_map(|part| frame(CONTINUATION, 0, id, part)).collect();
        let end = frame(CONTINUATION, END_HEADERS, id, b"");
        assert!(h2.send(&[head, frame(DATA, 0, id, b"hello"), first, more, end].concat()), "{what}");
        let outcome = h2.outcome(id);
        assert!(matches!(outcome, Outcome::Answer(400) | Outcome::Reset(_)), "trailers of {what}: {outcome:?}");
    }
    let id = h2.ask(&[get("/evil"), field(b"", b"").repeat(2_000)].concat());
    let outcome = h2.outcome(id);
    assert!(!matches!(outcome, Outcome::Answer(_)), "{outcome:?}");
    assert!(bed.origin.seen("/evil").is_empty());
}

fn too_many_streams(bed: &Bed) {
    let mut h2 = bed.h2();
    let block = get("/silent");
    let all: Vec<u8> =
        (0..1_500).flat_map(|_| frame(HEADERS, END_STREAM | END_HEADERS, h2.stream_id(), &block)).collect();
    assert!(h2.send(&all));
    assert!(h2.send(&frame(PING, 0, 0, b"settled?")));
    let mut refused = 0;
    loop {
        let frame = h2.frame().expect("the connection goes on");
        match frame.kind {
            RST_STREAM => {
                assert_eq!(frame.code(), REFUSED_STREAM);
                refused += 1;
            }
            PING if frame.payload == b"settled?" => break,
            _ => {}
        }
    }
    // How many it may have open is configuration's to say.
    assert!(refused >= 400, "{refused} were refused");
}

fn half_a_preface(bed: &Bed) {
    // Of the second it is clear already that it is HTTP/2.
    let mut halves = [&PREFACE[..5], &PREFACE[..18]].map(|half| {
        let mut stream = bed.connect();
        stream.write_all(half).unwrap();
        stream
    });
    for stream in &mut halves {
        let mut answer = Vec::new();
        // An end, by whatever name.
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
        let _ = stream.shutdown(Shutdown::Both);
    }
}
