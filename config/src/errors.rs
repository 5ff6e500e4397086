//! What is wrong with a configuration, and where.

use std::fmt;

use crate::decode::Place;
use crate::yaml::Position;

/// More problems than this are counted, not listed: a hostile file must not fill the log.
const MAX_LISTED: usize = 100;

/// All the problems of one configuration, in file order; at least one.
///
/// Displayed one a line: `FILE:LINE:COL: path.to[0].field: message (did you mean "x"?)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors {
    source: String,
    problems: Vec<Problem>,
    omitted: usize,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// `None`: not about a place in the file.
    at: Option<Position>,
    /// Such as `outbound[0].routes[2].cluster`; empty: the document itself.
    path: String,
    message: String,
    suggestion: Option<String>,
}

/// The problems found so far.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    list: Vec<Problem>,
    omitted: usize,
}

/// Why a value is refused, before its place is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    /// A sentence without full stop, following `path: `.
    pub(crate) message: String,
    /// What was probably meant.
    pub(crate) suggestion: Option<String>,
}

impl Errors {
    /// `problems` must not be empty.
    pub(crate) fn new(source: &str, problems: Problems) -> Self {
        let Problems { list: mut problems, omitted } = problems;
        // A stable sort: what has no place comes last, in the order found.
        problems.sort_by_key(|problem| (problem.at.is_none(), problem.at));
        Self { source: source.to_owned(), problems, omitted }
    }

    /// One line for each problem, as [`Display`](fmt::Display) writes them.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        let omitted = (self.omitted > 0).then(|| format!("{}: {} more problems", self.source, self.omitted));
        self.problems.iter().map(|problem| problem.line(&self.source)).chain(omitted)
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self.lines().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&line)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

impl Problem {
    fn line(&self, source: &str) -> String {
        let mut line = source.to_owned();
        if let Some(Position { line: row, column }) = self.at {
            line.push_str(&format!(":{row}:{column}"));
        }
        line.push_str(": ");
        if !self.path.is_empty() {
            line.push_str(&self.path);
            line.push_str(": ");
        }
        line.push_str(&self.message);
        if let Some(suggestion) = &self.suggestion {
            line.push_str(&format!(" (did you mean {}?)", quoted(suggestion)));
        }
        line
    }
}

impl Problems {
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are, the omitted ones too.
    pub(crate) fn count(&self) -> usize {
        self.list.len() + self.omitted
    }

    /// Reports `complaint` about the value at `place`.
    pub(crate) fn report(&mut self, place: &Place, complaint: impl Into<Complaint>) {
        self.push(|| (Some(place.at()), place.to_string()), complaint.into());
    }

    /// Reports `complaint` about a place whose path is already text.
    pub(crate) fn report_at(&mut self, at: Position, path: String, complaint: impl Into<Complaint>) {
        self.push(|| (Some(at), path), complaint.into());
    }

    /// Reports `complaint` about an environment variable.
    pub(crate) fn variable(&mut self, name: &str, complaint: impl Into<Complaint>) {
        self.push(|| (None, format!("environment: {name}")), complaint.into());
    }

    /// Reports what is wrong inside an environment variable, with the places there.
    pub(crate) fn of_variable(&mut self, name: &str, inside: Self) {
        for Problem { at, path, message, suggestion } in inside.list {
            let at = at.map(|Position { line, column }| format!(":{line}:{column}")).unwrap_or_default();
            let path = if path.is_empty() { path } else { format!(": {path}") };
            self.push(|| (None, format!("environment: {name}{at}{path}")), Complaint { message, suggestion });
        }
        self.omitted += inside.omitted;
    }

    /// Reports what has no place.
    pub(crate) fn unlocated(&mut self, complaint: impl Into<Complaint>) {
        self.push(|| (None, String::new()), complaint.into());
    }

    fn push(&mut self, place: impl FnOnce() -> (Option<Position>, String), complaint: Complaint) {
        if self.list.len() == MAX_LISTED {
            self.omitted += 1;
            return;
        }
        let (at, path) = place();
        self.list.push(Problem { at, path, message: complaint.message, suggestion: complaint.suggestion });
    }
}

impl Complaint {
    /// Adds what was probably meant, if that is known.
    pub(crate) fn suggest(mut self, suggestion: Option<impl Into<String>>) -> Self {
        self.suggestion = suggestion.map(Into::into);
        self
    }
}

impl From<String> for Complaint {
    fn from(message: String) -> Self {
        Self { message, suggestion: None }
    }
}

impl From<&str> for Complaint {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}

/// A message made elsewhere, without the control characters it may repeat from the input.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// `text` in quotes for a message: on one line, and not longer than a line should be.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    // The Debug escapes would turn a harmless apostrophe into \'.
    format!("\"{}\"", shown.replace("\\'", "'"))
}
