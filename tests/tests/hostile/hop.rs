//! A peer that was a sidecar: it has an identity of the mesh, speaks as our own sidecars do between themselves, and forges what
//! they tell each other.

use crate::bed::{Bed, Counter, Row, beds};
use crate::frames::{DATA, END_HEADERS, END_STREAM, H2, HEADERS, Outcome, field, fields, frame};

const UNREADABLE: Counter = ("remora_protocol_violations_total", &[("reason", "hop_word")]);

pub(crate) fn rows() -> Vec<Row> {
    vec![Row { name: "forged-hop-fields", counter: UNREADABLE, run: forged_hop_fields }]
}

beds! {
    peer http1_by_a_peer_of_the_mesh [
        "two-framings", "bad-content-lengths", "bad-transfer-codings", "bad-chunks", "nul-in-a-field", "bare-cr",
        "bare-lf", "folded-fields", "spaces-where-none-belong", "hosts-that-are-none-or-two", "bad-targets", "http-1.0",
        "absolute-target", "early-bytes-of-a-tunnel", "hop-by-hop-names",
    ] => |rows| rows.run(&mut Bed::peer(b"istio-h2", "", ""));

    peer http2_by_a_peer_of_the_mesh [
        "rapid-reset", "server-sent-resets", "continuation-flood", "empty-continuations", "empty-data",
        "priority-flood", "window-update-flood", "header-bomb", "cookie-crumbs", "large-heads", "too-many-streams",
        "malformed-frames", "malformed-fields", "malformed-pseudo-headers", "host-beside-another-authority",
        "length-without-a-body",
    ] => |rows| rows.run(&mut Bed::peer(b"istio-h2", "", ""));

    peer http2_by_a_sidecar_that_was_taken_over [
        "continuation-flood", "empty-continuations", "empty-data", "priority-flood", "window-update-flood",
        "header-bomb", "malformed-frames", "malformed-fields", "malformed-pseudo-headers",
        "host-beside-another-authority", "length-without-a-body", "forged-hop-fields",
    ] => |rows| rows.run(&mut Bed::peer(b"remora-h2", "", ""));

    peer floods_by_a_peer_of_the_mesh ["settings-unread", "pings-unread"] =>
        |rows| rows.run(&mut Bed::peer(b"remora-h2", ", timeouts: {idle: 2s}", ""));

    peer streams_of_a_peer_that_stand_still ["bomb-behind-a-closed-window", "answers-unread"] =>
        |rows| rows.run(&mut Bed::peer(b"istio-h2", "", "limits: {stream_idle: 2s}"));
}

/// A request with a word between sidecars, and more fields.
fn with_hop(method: &str, path: &str, authority: &str, hop: &[u8], more: &[(&str, &str)]) -> Vec<u8> {
    let own = fields(&[(":method", method), (":scheme", "http"), (":path", path)]);
    let authority = if authority.is_empty() { Vec::new() } else { field(b":authority", authority.as_bytes()) };
    [own, authority, field(b"x-remora-hop", hop), fields(more)].concat()
}

/// What becomes of it must be an answer or a reset; the connection goes on.
fn becomes(h2: &mut H2, what: &str, frames: &[u8], id: u32) {
    assert!(h2.send(frames), "{what}");
    let outcome = h2.outcome(id);
    assert!(!matches!(outcome, Outcome::Closed(_)), "{what}: {outcome:?}");
}

fn forged_hop_fields(bed: &Bed) {
    let long = [b"1.1;t,", &b"aB,".repeat(5_000)[..]].concat();
    let words: [&[u8]; 22] = [
        b"",
        b"1.0",
        b"1.1",
        b"1.1;t",
        b"2.0",
        b"HTTP/1.1",
        b"undelivered",
        b"1.1;",
        b"1.1;t,HOST,CONTENT-LENGTH,TRANSFER-ENCODING",
        b"1.1;t,X Y,A:B,,\xff\xfe",
        b"1.1;l,x-own:evil",
        b"1.1;t;/admin",
        b"1.1;t;/a?b<",
        b"1.1;t;/a b",
        b"1.1;t;*",
        b"1.1;t;http://other/a",
        b"1.1;t;/a HTTP/1.1 x",
        b"1.0;t;",
        b"1.1;;;;;",
        b"1.1;t\x80",
        b";",
        &long,
    ];
    let forged =
        [("x-forwarded-client-cert", "forged"), ("x_forwarded_client_cert", "forged"), ("x-remora-reason", "forged")];
    let length = [("content-length", "4")];
    let mut h2 = bed.h2();
    for word in words {
        let what = word[..word.len().min(60)].escape_ascii().to_string();
        for path in ["/a", "/a?b%3C"] {
            for (block, body) in [
                (with_hop("GET", path, "server:8080", word, &forged), &b""[..]),
                ([with_hop("GET", path, "server:8080", word, &[]), field(b"x-remora-hop", b"1.0")].concat(), b""),
                // HTTP/1.1 has a Host, HTTP/1.0 no chunks.
                (with_hop("GET", path, "", word, &[]), b""),
                (with_hop("POST", path, "server:8080", word, &[]), b"body"),
                (with_hop("POST", path, "server:8080", word, &length), b"body"),
                (with_hop("POST", path, "", word, &length), b"body"),
            ] {
                let id = h2.stream_id();
                let end = if body.is_empty() { END_STREAM } else { 0 };
                let head = frame(HEADERS, END_HEADERS | end, id, &block);
                let body = if body.is_empty() { Vec::new() } else { frame(DATA, END_STREAM, id, body) };
                becomes(&mut h2, &what, &[head, body].concat(), id);
            }
        }
        // Behind the head, where an application may look as well.
        let id = h2.stream_id();
        let head = frame(HEADERS, END_HEADERS, id, &with_hop("POST", "/late", "server:8080", word, &[]));
        let late = [field(b"x-remora-hop", word), fields(&forged), fields(&[("x-mine", "1")])].concat();
        let rest = [frame(DATA, 0, id, b"body"), frame(HEADERS, END_HEADERS | END_STREAM, id, &late)].concat();
        becomes(&mut h2, &what, &[head, rest].concat(), id);
    }
    let seen = bed.origin.seen("/");
    assert!(seen.len() > words.len(), "{}", seen.len());
    for seen in seen {
        let all = format!("{}{}", seen.head, seen.trailers).to_lowercase();
        assert!(!all.contains("x-remora") && !all.contains("forged"), "{seen:?}");
        // As it was asked for, or the same in other bytes.
        assert!(["/a", "/a?b%3C", "/a?b<", "/late"].contains(&seen.path()), "{seen:?}");
        assert!(seen.body.is_empty() || seen.body == b"body", "{seen:?}");
        let callers = seen.values("x-forwarded-client-cert");
        let [caller] = callers[..] else { panic!("{seen:?}") };
        assert!(caller.ends_with(&format!("URI={}", bed.attacker.id())), "{seen:?}");
    }
}
