//! Hostile input and faults, row by row: each gets its due, is counted by name, and leaves nothing behind, while a client that
//! keeps to the rules is answered on another connection. docs/hostile.md says what each row is.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod bed;
mod frames;
mod h1_framing;
mod h2_abuse;
mod memory;
mod origin;
mod tcp_resources;
mod upstream;

use bed::Row;

/// Every row there is, in the order of docs/hostile.md.
const ROWS: [&str; 60] = [
    "rapid-reset",
    "server-sent-resets",
    "continuation-flood",
    "empty-continuations",
    "empty-data",
    "settings-unread",
    "pings-unread",
    "priority-flood",
    "window-update-flood",
    "header-bomb",
    "cookie-crumbs",
    "bomb-behind-a-closed-window",
    "answers-unread",
    "large-heads",
    "too-many-streams",
    "half-a-preface",
    "malformed-fields",
    "malformed-pseudo-headers",
    "host-beside-another-authority",
    "length-without-a-body",
    "two-framings",
    "bad-content-lengths",
    "bad-transfer-codings",
    "bad-chunks",
    "nul-in-a-field",
    "bare-cr",
    "bare-lf",
    "folded-fields",
    "spaces-where-none-belong",
    "hosts-that-are-none-or-two",
    "bad-targets",
    "http-1.0",
    "absolute-target",
    "early-bytes-of-a-tunnel",
    "hop-by-hop-names",
    "slow-heads",
    "slow-bodies-and-readers",
    "paths-in-disguise",
    "forged-proxy-headers",
    "many-names",
    "gone-before-the-head",
    "gone-within-the-body",
    "answers-that-are-none",
    "answers-behind-an-answer",
    "informational-flood",
    "unasked-101",
    "early-413",
    "never-answers",
    "http2-servers-that-refuse",
    "unreachable",
    "half-closes",
    "servers-that-speak-first",
    "loops",
    "no-original-destination",
    "no-open-files",
    "streams-beyond-the-files",
    "little-memory",
    "log-sinks",
    "packet-loss",
    "address-families",
];

#[test]
fn every_row_has_a_test_and_a_line_in_the_documentation() {
    let sections = [h2_abuse::rows(), h1_framing::rows(), upstream::rows(), tcp_resources::rows()];
    let rows: Vec<&str> = sections.into_iter().flatten().map(|row| row.name).collect();
    assert_eq!(rows, ROWS);
    let documented = include_str!("../../../docs/hostile.md");
    let names: Vec<&str> =
        documented.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name).collect();
    assert_eq!(names, ROWS);
}

/// The rows with these names.
fn named(rows: Vec<Row>, names: &[&str]) -> Vec<Row> {
    let named: Vec<Row> = rows.into_iter().filter(|row| names.contains(&row.name)).collect();
    assert_eq!(named.len(), names.len(), "each is a row: {names:?}");
    named
}
