//! Kubernetes manifests as text: read within bounds, changed in place, written back byte for byte where nothing changes.
//!
//! Handed the bytes of a file, hands on its [`Document`]s, each with its value; handed new values, hands on the text with only
//! that much changed. Where a document cannot be edited in place it alone is written anew, and that is said.
//! Invariant: the text handed on always means exactly the values asked for; it is read again to make sure.

mod edit;
mod emit;
mod json;
mod node;
mod scalar;
mod yaml;

use std::fmt;

use serde_json::Value;

use crate::inject::diff::Change;
use node::Node;

/// How much is read; far more than any cluster takes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest file, in bytes.
    pub bytes: usize,
    /// The deepest nesting.
    pub depth: usize,
    /// The most values in a file, aliases counted as what they stand for.
    pub values: usize,
    /// The most documents in a file.
    pub documents: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 16 << 20, depth: 200, values: 1_000_000, documents: 20_000 }
    }
}

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

impl Place {
    fn of(text: &str, at: usize) -> Self {
        let before = String::from_utf8_lossy(&text.as_bytes()[..at.min(text.len())]);
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        Self { line, column: before.rsplit('\n').next().unwrap_or_default().chars().count() + 1 }
    }
}

/// Why a file is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{}: {message}", place.line, place.column)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub message: String,
}

impl Problem {
    fn new(place: Place, message: String) -> Self {
        let message = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self { place, message }
    }
}

/// A file's text and its documents.
#[derive(Debug)]
pub struct Manifest {
    text: String,
    /// A byte order mark comes first.
    mark: bool,
    json: bool,
    /// The documents, in order.
    pub documents: Vec<Document>,
}

/// One document.
#[derive(Debug)]
pub struct Document {
    /// Its value; [`None`] where there is none.
    pub value: Option<Value>,
    root: Option<Node>,
    start: usize,
    end: usize,
    explicit: bool,
}

/// A text, and which of its documents (from 0) had to be written anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The text.
    pub text: String,
    /// The documents whose comments and layout are lost.
    pub rewritten: Vec<usize>,
}

impl Manifest {
    /// Reads YAML, or JSON where the text begins with a brace.
    ///
    /// # Errors
    /// The first place that is wrong, or beyond the limits.
    pub fn read(bytes: &[u8], limits: &Limits) -> Result<Self, Problem> {
        let start = Place { line: 1, column: 1 };
        if bytes.len() > limits.bytes {
            return Err(Problem::new(start, format!("larger than {} bytes", limits.bytes)));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            Problem::new(Place::of(&valid, valid.len()), "not UTF-8 text".to_owned())
        })?;
        let (mark, text) = match text.strip_prefix('\u{feff}') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if text.trim_start().starts_with('{') {
            match json::read(text, limits) {
                Ok(values) => return Ok(Self::of_json(text, mark, values)),
                // Flow style with comments or bare words is YAML still; what is neither is called what it looks like.
                Err(problem) => match yaml::read(text, limits) {
                    Ok(documents) => return Ok(Self::of_yaml(text, mark, documents)),
                    Err(_) => return Err(problem),
                },
            }
        }
        Ok(Self::of_yaml(text, mark, yaml::read(text, limits)?))
    }

    fn of_json(text: &str, mark: bool, values: Vec<Node>) -> Self {
        let document = |root: Node| Document {
            value: Some(root.value()),
            start: root.start,
            end: root.end,
            explicit: false,
            root: Some(root),
        };
        Self { text: text.to_owned(), mark, json: true, documents: values.into_iter().map(document).collect() }
    }

    fn of_yaml(text: &str, mark: bool, documents: Vec<yaml::Yaml>) -> Self {
        let document = |read: yaml::Yaml| Document {
            value: read.root.as_ref().map(Node::value),
            root: read.root,
            start: read.start,
            end: read.end,
            explicit: read.explicit,
        };
        Self { text: text.to_owned(), mark, json: false, documents: documents.into_iter().map(document).collect() }
    }

    /// Whether it is JSON.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether its first document begins with `---`, or there is none.
    #[must_use]
    pub fn begins_with_marker(&self) -> bool {
        self.documents.first().is_none_or(|document| document.explicit)
    }

    /// The text in which the documents are `values` ([`None`]: as it is).
    #[must_use]
    pub fn with(&self, values: &[Option<Value>]) -> Written {
        let (mut text, mut at, mut rewritten) = (String::new(), 0, Vec::new());
        if self.mark {
            text.push('\u{feff}');
        }
        for (index, document) in self.documents.iter().enumerate() {
            let Some(value) = values.get(index).and_then(Option::as_ref) else { continue };
            if document.value.as_ref() == Some(value) {
                continue;
            }
            // A document's own text reaches to where the next begins; comments before it are the one's before.
            let next = self.documents.get(index + 1).map_or(self.text.len(), |next| self.margin(next.start));
            let (start, end) =
                if self.json { (document.start, document.end) } else { (self.margin(document.start), next) };
            text.push_str(&self.text[at..start]);
            match self.edited(document, value, start..end) {
                Some(edited) => text.push_str(&edited),
                None => {
                    rewritten.push(index);
                    text.push_str(&self.anew(document, value));
                }
            }
            at = end;
        }
        text.push_str(&self.text[at..]);
        // Each edit was checked alone; only what was written anew can fit badly between its neighbours.
        if rewritten.is_empty() || self.means(&text, values) {
            Written { text, rewritten }
        } else {
            self.all_anew(values)
        }
    }

    /// Where the blanks before `at` begin: a document's first column counts.
    fn margin(&self, at: usize) -> usize {
        self.text[..at].trim_end_matches([' ', '\t']).len()
    }

    /// Whether `text` holds just `values` (what is [`None`] there is as it was).
    fn means(&self, text: &str, values: &[Option<Value>]) -> bool {
        let limits = Limits { bytes: usize::MAX, values: usize::MAX, ..Limits::default() };
        let again = Self::read(text.as_bytes(), &limits).map(|manifest| manifest.documents);
        again.is_ok_and(|again| {
            again.iter().filter_map(|document| document.value.as_ref()).eq(self.wanted(values).map(|(_, value)| value))
        })
    }

    /// Every value as it is to be, with its document's index.
    fn wanted<'v>(&'v self, values: &'v [Option<Value>]) -> impl Iterator<Item = (usize, &'v Value)> {
        let each = self.documents.iter().enumerate();
        each.filter_map(|(index, document)| {
            Some((index, values.get(index).and_then(Option::as_ref).or(document.value.as_ref())?))
        })
    }

    fn all_anew(&self, values: &[Option<Value>]) -> Written {
        let (rewritten, texts): (Vec<usize>, Vec<String>) =
            self.wanted(values).map(|(index, value)| (index, emit::document(value))).unzip();
        Written { text: texts.join("---\n"), rewritten }
    }

    /// The document's text edited in place; [`None`] where that does not give just the value.
    fn edited(&self, document: &Document, value: &Value, range: std::ops::Range<usize>) -> Option<String> {
        let root = document.root.as_ref()?;
        let change = Change::between(document.value.as_ref()?, value);
        let edits = edit::edits(&self.text, root, &change, self.json).ok()?;
        let within = edits.iter().all(|edit| range.start <= edit.start && edit.end <= range.end);
        if !within {
            return None;
        }
        let shifted: Vec<edit::Edit> = edits
            .into_iter()
            .map(|edit| edit::Edit { start: edit.start - range.start, end: edit.end - range.start, text: edit.text })
            .collect();
        let text = edit::apply(&self.text[range], &shifted);
        let limits = Limits { bytes: usize::MAX, values: usize::MAX, ..Limits::default() };
        let again = if self.json {
            json::read(&text, &limits).ok()?.into_iter().map(|node| node.value()).collect::<Vec<_>>()
        } else {
            yaml::read(&text, &limits)
                .ok()?
                .iter()
                .filter_map(|document| Some(document.root.as_ref()?.value()))
                .collect()
        };
        (again.as_slice() == std::slice::from_ref(value)).then_some(text)
    }

    fn anew(&self, document: &Document, value: &Value) -> String {
        if self.json {
            return to_json(value).trim_end().to_owned();
        }
        let marker = if document.explicit { "---\n" } else { "" };
        format!("{marker}{}", emit::document(value))
    }
}

/// A value as YAML that every reader takes for it.
#[must_use]
pub fn to_yaml(value: &Value) -> String {
    emit::document(value)
}

/// A value as indented JSON.
#[must_use]
pub fn to_json(value: &Value) -> String {
    let layout = emit::Flow::Lines { indent: String::new(), step: "  ".to_owned() };
    emit::flow(value, &layout) + "\n"
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.mark { "\u{feff}" } else { "" })?;
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests;
