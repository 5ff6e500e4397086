//! What a suite found: judged by the waivers, compared with (or written to) the table in docs/conformance.md.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::course::Way;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/conformance.md");
const WAIVERS: &str = include_str!("../../conformance/waivers.tsv");
/// What stands before the generated part of the document; both parts end with an empty line.
const RESULTS: &str = "| suite | version | way | passed | waived |\n|---|---|---|---|---|\n";
const REASONS: &str = "| suite | case | way | reason |\n|---|---|---|---|\n";

/// How often a case that is waived for failing sometimes may pass before that is no longer believed: ten times what was seen at most
/// before one failed. Passing takes some 50 ms.
const TRIES: usize = 200;

/// The results of one suite on one way: each case, and what was wrong if it failed.
pub(crate) struct Report {
    pub(crate) suite: &'static str,
    pub(crate) version: String,
    pub(crate) way: Way,
    pub(crate) cases: BTreeMap<String, Result<(), String>>,
}

/// A line of the waiver file.
struct Waiver<'a> {
    suite: &'a str,
    case: &'a str,
    way: &'a str,
    /// It depends on a race: of several runs one must fail ([`Report::insist`]).
    sometimes: bool,
    reason: &'a str,
}

fn waivers() -> impl Iterator<Item = Waiver<'static>> {
    WAIVERS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let fields: Vec<_> = line.split('\t').collect();
        let [suite, case, way, reason] = fields[..] else { panic!("waivers.tsv: four fields are wanted: {line:?}") };
        let (way, sometimes) = way.strip_suffix(", sometimes").map_or((way, false), |way| (way, true));
        assert!(["one", "chain", "both"].contains(&way), "waivers.tsv: no way is called {way:?}");
        assert!(reason.len() > 20, "waivers.tsv: {suite} {case} lacks its reason");
        Waiver { suite, case, way, sometimes, reason }
    })
}

impl Report {
    /// Nothing found yet.
    pub(crate) fn new(suite: &'static str, version: impl Into<String>, way: Way) -> Self {
        Self { suite, version: version.into(), way, cases: BTreeMap::new() }
    }

    /// Notes what came of a case.
    pub(crate) fn case(&mut self, name: impl Into<String>, came: Result<(), String>) {
        let name = name.into();
        assert!(!self.cases.contains_key(&name), "{}: two cases are called {name:?}", self.suite);
        self.cases.insert(name, came);
    }

    /// Repeats what is waived for failing sometimes and has passed, until it fails; what passes [`TRIES`] times counts as passed.
    pub(crate) fn insist(&mut self, mut again: impl FnMut(&str) -> Result<(), String>) {
        for (case, _) in self.waived().into_iter().filter(|(_, sometimes)| *sometimes) {
            let Some(came) = self.cases.get_mut(case) else { continue };
            let mut tries = 1;
            while came.is_ok() && tries < TRIES {
                *came = again(case);
                tries += 1;
            }
            let came = if came.is_ok() { "passed until" } else { "failed at" };
            println!("{} ({}): {case}: {came} try {tries}", self.suite, self.way.name());
        }
    }

    /// The waivers of this suite and way, and whether each is for a race.
    fn waived(&self) -> BTreeMap<&'static str, bool> {
        let (suite, way) = (self.suite, self.way.name());
        waivers()
            .filter(|w| w.suite == suite && (w.way == way || w.way == "both"))
            .map(|w| (w.case, w.sometimes))
            .collect()
    }

    /// Judges the results, and compares the table's row with them.
    ///
    /// # Panics
    /// On a failure that is not waived, a waived case that passes or does not exist, and a row that says something else.
    pub(crate) fn conclude(self) {
        let (suite, way) = (self.suite, self.way.name());
        assert!(!self.cases.is_empty(), "{suite} ran no case");
        let waived = self.waived();
        let mut wrong = Vec::new();
        for (case, came) in &self.cases {
            match (came, waived.contains_key(case.as_str())) {
                (Err(error), false) => wrong.push(format!("{case}: {error}")),
                (Ok(()), true) => wrong.push(format!("{case}: passes, though it is waived")),
                _ => {}
            }
        }
        let unknown = waived.keys().filter(|case| !self.cases.contains_key(**case));
        wrong.extend(unknown.map(|case| format!("{case}: waived, and there is no such case")));
        let all = self.cases.len();
        println!("{suite} ({way}): {all} cases, {} waived, {} wrong", waived.len(), wrong.len());
        assert!(wrong.is_empty(), "{suite} ({way}):\n{}", wrong.join("\n"));
        let passed = all - waived.len();
        publish(&format!("| {suite} | {} | {way} | {passed} of {all} | {} |\n", self.version, waived.len()));
    }
}

/// Judges each of the cases that `tell` finds on a way by what it finds without sidecars, where none may have an `error`.
///
/// # Panics
/// As [`Report::conclude`], and where there are not `cases` of them.
pub(crate) fn same(suite: &'static str, version: &str, cases: usize, tell: impl Fn(Way) -> BTreeMap<String, Value>) {
    let direct = tell(Way::Direct);
    assert_eq!(direct.len(), cases, "{direct:#?}");
    let failed: Vec<_> = direct.values().filter(|one| one.get("error").is_some()).collect();
    assert!(failed.is_empty(), "without sidecars: {failed:#?}");
    Way::both(|way| {
        let mut through = tell(way);
        let mut report = Report::new(suite, version, way);
        for (case, wanted) in &direct {
            let came = through.remove(case).unwrap_or_default();
            report.case(case, if came == *wanted { Ok(()) } else { Err(format!("{came} instead of {wanted}")) });
        }
        report.conclude();
    });
}

/// Puts a row into the table of results in place of the one of the same suite and way, or demands that it stands there.
fn publish(row: &str) {
    let text = std::fs::read_to_string(DOCUMENT).unwrap();
    let (before, table, after) = table(&text, RESULTS);
    let mut rows: BTreeSet<&str> = table.split_inclusive('\n').collect();
    if std::env::var_os("REMORA_CONFORMANCE_WRITE").is_none() {
        let there = rows.iter().find(|there| key(there) == key(row));
        assert_eq!(there, Some(&row), "docs/conformance.md says something else (make conformance writes it)");
        return;
    }
    rows.retain(|there| key(there) != key(row));
    rows.insert(row);
    write(&[before, &rows.into_iter().collect::<String>(), after]);
}

/// Suite and way of a row.
fn key(row: &str) -> Option<(&str, &str)> {
    let mut cells = row.split('|').map(str::trim).skip(1);
    Some((cells.next()?, cells.nth(1)?))
}

/// A text around the rows of the table that `head` begins.
fn table<'a>(text: &'a str, head: &str) -> (&'a str, &'a str, &'a str) {
    let start = text.find(head).unwrap_or_else(|| panic!("docs/conformance.md lacks the table {head:?}")) + head.len();
    let end = text[start..].find("\n\n").map_or(text.len(), |end| start + end + 1);
    let end = if text[start..].starts_with('\n') { start } else { end };
    (&text[..start], &text[start..end], &text[end..])
}

fn write(parts: &[&str]) {
    std::fs::write(Path::new(DOCUMENT), parts.concat()).unwrap();
}

#[test]
fn the_document_lists_every_waiver() {
    let rows: String = waivers()
        .map(|w| {
            let way = if w.sometimes { format!("{}, sometimes", w.way) } else { w.way.to_owned() };
            format!("| {} | {} | {way} | {} |\n", w.suite, w.case, w.reason)
        })
        .collect();
    let text = std::fs::read_to_string(DOCUMENT).unwrap();
    let (before, there, after) = table(&text, REASONS);
    if std::env::var_os("REMORA_CONFORMANCE_WRITE").is_some() {
        return write(&[before, &rows, after]);
    }
    assert_eq!(there, rows, "docs/conformance.md says something else (make conformance writes it)");
}
