//! A peer that holds an identity of the mesh, and speaks mTLS by hand to a sidecar.

use crate::bed::{Bed, beds};

beds! {
    peer http1_by_a_peer_of_the_mesh [
        "two-framings", "bad-content-lengths", "bad-transfer-codings", "bad-chunks", "nul-in-a-field", "bare-cr",
        "bare-lf", "folded-fields", "spaces-where-none-belong", "hosts-that-are-none-or-two", "bad-targets", "http-1.0",
        "absolute-target", "early-bytes-of-a-tunnel", "hop-by-hop-names",
    ] => |rows| rows.run(&mut Bed::peer(b"istio-h2", ""));

    peer http2_by_a_peer_of_the_mesh [
        "rapid-reset", "server-sent-resets", "continuation-flood", "empty-continuations", "empty-data",
        "priority-flood", "window-update-flood", "header-bomb", "cookie-crumbs", "large-heads", "too-many-streams",
        "malformed-frames", "malformed-fields", "malformed-pseudo-headers", "host-beside-another-authority",
        "length-without-a-body",
    ] => |rows| rows.run(&mut Bed::peer(b"istio-h2", ""));

    peer floods_by_a_peer_of_the_mesh ["settings-unread", "pings-unread"] =>
        |rows| rows.run(&mut Bed::peer(b"remora-h2", ", timeouts: {idle: 2s}"));
}
