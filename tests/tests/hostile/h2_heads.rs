//! Heads that are small on the wire and large in memory, each within its limits, of as many streams as there may be.

use remora_test::eventually;

use crate::bed::{Bed, Row, beds};
use crate::frames::{END_HEADERS, END_STREAM, HEADERS, Outcome, RST_STREAM, field, frame, get, indexed_field};

/// Requests on one connection.
const STREAMS: usize = 900;
/// The entry of the dynamic table, which each of them means as often as this.
const ENTRY: [u8; 14] = [0x80 | 62; 14];

pub(crate) fn rows() -> Vec<Row> {
    vec![Row {
        name: "heads-of-many-streams",
        counter: ("remora_protocol_violations_total", &[("reason", "too_many_heads")]),
        run: heads_of_many_streams,
    }]
}

beds! {
    gateway heads_of_many_streams_at_a_gateway ["heads-of-many-streams"] => |rows| rows.run(&mut Bed::gateway());

    chain heads_of_many_streams_through_two_sidecars ["heads-of-many-streams"] =>
        |rows| rows.run(&mut Bed::chain("", ""));

    peer heads_of_many_streams_by_a_peer_of_the_mesh ["heads-of-many-streams"] =>
        |rows| rows.run(&mut Bed::peer(b"istio-h2", "", ""));

    peer heads_of_many_streams_by_a_sidecar_that_was_taken_over ["heads-of-many-streams"] =>
        |rows| rows.run(&mut Bed::peer(b"remora-h2", "", ""));
}

fn heads_of_many_streams(bed: &Bed) {
    // The crumbs of a cookie are put together, so that the head does not share the entry's memory.
    for name in ["x-large", "cookie"] {
        let before = bed.memory();
        let refused = counts(bed);
        let mut h2 = bed.h2();
        h2.ask(&[get("/silent"), indexed_field(name.as_bytes(), &[b'l'; 3_900])].concat());
        let block = [&get("/silent")[..], &ENTRY].concat();
        let many: Vec<_> = (0..STREAMS).map(|_| h2.stream_id()).collect();
        let frames: Vec<u8> =
            many.iter().flat_map(|id| frame(HEADERS, END_STREAM | END_HEADERS, *id, &block)).collect();
        assert!(h2.send(&frames));
        eventually(&format!("each {name} is with the origin, or refused"), || {
            (bed.origin.seen("/silent").len() + refused() > STREAMS).then_some(())
        });
        let memory = bed.memory() - before;
        println!("{name}: {} of {STREAMS} were refused, {:.1} MB", refused(), memory / 1e6);
        assert!(memory < 32e6, "{memory} bytes of memory beside {before}");
        assert!(refused() > STREAMS / 2, "{}", refused());
        // Requests that are over make room.
        assert!(h2.send(&many.iter().flat_map(|id| frame(RST_STREAM, 0, *id, &[0, 0, 0, 8])).collect::<Vec<u8>>()));
        bed.proxy.metric_until("remora_requests_active", &[], |count| count <= 2.0);
        let id = h2.ask(&[&get("/after")[..], &ENTRY].concat());
        assert_eq!(h2.outcome(id), Outcome::Answer(200), "{name}");
        bed.origin.forget();
    }
    // As many as another sidecar sends at a time, with heads that are large and not meant to harm.
    let refused = counts(bed);
    let mut h2 = bed.h2();
    let block = [get("/silent"), field(b"x-large", &[b'l'; 8_000])].concat();
    for _ in 0..100 {
        h2.ask(&block);
    }
    eventually("a hundred are with the origin", || (bed.origin.seen("/silent").len() == 100).then_some(()));
    assert_eq!(refused(), 0);
}

/// How many streams are refused from now on.
fn counts(bed: &Bed) -> impl Fn() -> usize {
    let count = || bed.proxy.metric("remora_http2_resets_sent_total", &[("code", "REFUSED_STREAM")]);
    let before = count();
    move || (count() - before) as usize
}
