//! Hostile input and faults, row by row: each gets its due, is counted by name, and leaves nothing behind, while a client that
//! keeps to the rules is answered on another connection. docs/hostile.md says what each row is.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeSet;

mod bed;
mod cost;
mod frames;
mod h1_framing;
mod h2_abuse;
mod h2_heads;
mod h2_malformed;
mod hop;
mod memory;
mod origin;
mod paths;
mod peer;
mod tcp_resources;
mod trace;
mod uploads;
mod upstream;

use bed::Row;

/// Every row there is, in the order of docs/hostile.md.
const ROWS: [&str; 67] = [
    "rapid-reset",
    "server-sent-resets",
    "continuation-flood",
    "empty-continuations",
    "empty-data",
    "tiny-data",
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
    "malformed-frames",
    "malformed-fields",
    "malformed-pseudo-headers",
    "host-beside-another-authority",
    "length-without-a-body",
    "heads-of-many-streams",
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
    "forged-hop-fields",
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
    "crowds-that-read-nothing",
    "uploads-that-nobody-reads",
    "log-sinks",
    "packet-loss",
    "address-families",
    "trace-headers",
];

/// Rows that tests of other suites show, behind those.
const ELSEWHERE: [&str; 5] =
    ["failing-collectors", "ends-in-the-midst", "bad-reloads", "killed-or-port-taken", "admin-from-elsewhere"];

/// The rows of all modules.
fn rows() -> Vec<Row> {
    let modules = [
        h2_abuse::rows(),
        h2_malformed::rows(),
        h2_heads::rows(),
        h1_framing::rows(),
        hop::rows(),
        upstream::rows(),
        tcp_resources::rows(),
        trace::rows(),
    ];
    modules.into_iter().flatten().collect()
}

#[test]
fn every_row_has_tests_and_a_line_in_the_documentation() {
    let names: Vec<&str> = rows().iter().map(|row| row.name).collect();
    assert_eq!(names, ROWS);
    // Told from what is declared and not from what was run: a run may be of one test only.
    let beds = [
        h2_abuse::BEDS,
        h2_heads::BEDS,
        h1_framing::BEDS,
        hop::BEDS,
        upstream::BEDS,
        tcp_resources::BEDS,
        memory::BEDS,
        uploads::BEDS,
        trace::BEDS,
    ]
    .concat();
    for bed in &beds {
        let unknown: Vec<_> = bed.rows.iter().filter(|row| !ROWS.contains(row)).collect();
        assert!(unknown.is_empty(), "{} has rows that are none: {unknown:?}", bed.name);
    }
    let declared = ROWS.map(|row| {
        let kinds: BTreeSet<_> = beds.iter().filter(|bed| bed.rows.contains(&row)).map(|bed| bed.kind).collect();
        assert!(!kinds.is_empty(), "{row} lies in no bed");
        (row, kinds)
    });
    let documented = documented();
    let (here, elsewhere) = documented.split_at(ROWS.len());
    let kinds = |line: &Line| (line.row, line.shown_by.split(", ").collect::<BTreeSet<_>>());
    assert_eq!(here.iter().map(kinds).collect::<Vec<_>>(), declared);
    for (row, line) in rows().iter().zip(here) {
        let (metric, labels) = row.counter;
        let labelled = !labels.is_empty() && labels.iter().all(|(_, value)| line.counter.contains(value));
        let named = labelled || line.counter.contains(metric);
        assert!(named, "{}: {:?} is documented as {}", row.name, row.counter, line.counter);
    }
    assert_eq!(elsewhere.iter().map(|line| line.row).collect::<Vec<_>>(), ELSEWHERE);
    elsewhere.iter().for_each(assert_shown);
}

/// A line of a table in docs/hostile.md.
struct Line {
    row: &'static str,
    counter: &'static str,
    /// Beds, or tests of other suites.
    shown_by: &'static str,
}

/// `| `row` | what | becomes | limit | counter | shown by |`
fn documented() -> Vec<Line> {
    let lines = include_str!("../../../docs/hostile.md").lines().filter(|line| line.starts_with("| `"));
    let line = |line: &'static str| {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", row, _, _, _, counter, shown_by, ""] = columns[..] else { panic!("not six columns: {line}") };
        Line { row: row.trim_matches('`'), counter, shown_by }
    };
    lines.map(line).collect()
}

/// Each of "`file::test`, …" is a test there.
fn assert_shown(line: &Line) {
    for shown in line.shown_by.split(", ") {
        let Some((file, test)) = shown.trim_matches('`').split_once("::") else { panic!("{}: {shown}", line.row) };
        let text = std::fs::read_to_string(format!("{}/../{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let before = text.split_once(&format!("fn {test}() ")).map(|(before, _)| before.trim_end_matches("async "));
        let attribute = before.and_then(|before| before.trim_end().lines().next_back()).unwrap_or_default();
        let is_test = attribute.starts_with("#[test]") || attribute.starts_with("#[tokio::test");
        assert!(is_test, "{}: {file} has no test {test}", line.row);
    }
}
