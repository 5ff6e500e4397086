//! YAML to documents that know their places, built on the parser's events, which neither recurse nor expand aliases.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};
use serde_json::Value;

use super::node::{Content, Entry, Node, Style};
use super::scalar::{resolve, write};
use super::{Limits, Place, Problem};

/// A document of a stream.
#[derive(Debug)]
pub(crate) struct Yaml {
    /// [`None`]: nothing is in it.
    pub(crate) root: Option<Node>,
    /// Where its `---` begins, or its first value where there is none.
    pub(crate) start: usize,
    /// Whether it begins with `---`.
    pub(crate) explicit: bool,
    /// Where it ends.
    pub(crate) end: usize,
}

/// Every document in `text`.
pub(crate) fn read(text: &str, limits: &Limits) -> Result<Vec<Yaml>, Problem> {
    let mut reader = Reader {
        text,
        bytes: offsets(text),
        stack: Vec::new(),
        documents: Vec::new(),
        anchors: HashMap::new(),
        values: 0,
        limits,
    };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        match event {
            Ok((event, span)) => reader.event(event, span)?,
            Err(error) => return Err(Problem::new(place(error.marker()), format!("not valid YAML: {}", error.info()))),
        }
    }
    Ok(reader.documents)
}

/// Where each character begins; [`None`]: every character is a byte.
fn offsets(text: &str) -> Option<Vec<usize>> {
    (!text.is_ascii()).then(|| text.char_indices().map(|(at, _)| at).chain([text.len()]).collect())
}

fn place(mark: &Marker) -> Place {
    Place { line: mark.line().max(1), column: mark.col() + 1 }
}

/// An unfinished collection.
struct Frame {
    start: usize,
    flow: bool,
    anchor: usize,
    at: Place,
    kind: Kind,
}

enum Kind {
    Sequence(Vec<Node>),
    Mapping { entries: Vec<Entry>, seen: HashSet<String>, key: Option<(String, usize, usize)> },
}

/// Characters of a key, with its quotes and escapes: YAML looks no further than 1,024 for a key's colon, quotes included (YAML 1.2.2,
/// 7.4.3), so a longer one could not be read back.
const LONGEST_KEY: usize = 1_024;

struct Reader<'a> {
    text: &'a str,
    bytes: Option<Vec<usize>>,
    stack: Vec<Frame>,
    documents: Vec<Yaml>,
    anchors: HashMap<usize, (Value, usize)>,
    values: usize,
    limits: &'a Limits,
}

impl Reader<'_> {
    fn byte(&self, mark: &Marker) -> usize {
        let index = mark.index();
        self.bytes
            .as_ref()
            .map_or(index, |bytes| bytes.get(index).copied().unwrap_or(self.text.len()))
            .min(self.text.len())
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let (start, end, at) = (self.byte(&span.start), self.byte(&span.end), place(&span.start));
        match event {
            Event::DocumentStart(explicit) => {
                if self.documents.len() == self.limits.documents {
                    return Err(Problem::new(at, format!("more than {} documents", self.limits.documents)));
                }
                self.anchors.clear();
                self.documents.push(Yaml { root: None, start, explicit, end });
            }
            Event::DocumentEnd => {
                if let Some(document) = self.documents.last_mut() {
                    document.end = end;
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let literal = tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
                self.scalar(text.into_owned(), style, literal, anchor, (start, end, at))?;
            }
            Event::Alias(id) => {
                let (value, size) = self
                    .anchors
                    .get(&id)
                    .cloned()
                    .ok_or_else(|| Problem::new(at, "an alias (*) to what is not finished yet".to_owned()))?;
                self.count(size, at)?;
                self.place(Node { start, end, content: Content::Alias(value) }, 0, at)?;
            }
            Event::SequenceStart(anchor, _) => {
                self.open(Frame {
                    start,
                    flow: end > start && self.text[start..].starts_with('['),
                    anchor,
                    at,
                    kind: Kind::Sequence(Vec::new()),
                })?;
            }
            Event::MappingStart(anchor, _) => {
                let kind = Kind::Mapping { entries: Vec::new(), seen: HashSet::new(), key: None };
                self.open(Frame { start, flow: end > start && self.text[start..].starts_with('{'), anchor, at, kind })?;
            }
            // The end's span takes in what follows the bracket, comments too.
            Event::SequenceEnd | Event::MappingEnd => self.close(start + 1)?,
            Event::StreamStart | Event::StreamEnd | Event::Nothing => {}
        }
        Ok(())
    }

    fn count(&mut self, values: usize, at: Place) -> Result<(), Problem> {
        self.values = self.values.saturating_add(values);
        if self.values > self.limits.values {
            return Err(Problem::new(
                at,
                format!("more than {} values, aliases counted as what they stand for", self.limits.values),
            ));
        }
        Ok(())
    }

    fn scalar(
        &mut self,
        text: String,
        style: ScalarStyle,
        literal: bool,
        anchor: usize,
        (start, end, at): (usize, usize, Place),
    ) -> Result<(), Problem> {
        if let Some(Frame { kind: Kind::Mapping { key: key @ None, seen, .. }, .. }) = self.stack.last_mut() {
            if text != "<<" && !seen.insert(text.clone()) {
                return Err(Problem::new(at, format!("key {:?} is given twice", shortened(&text))));
            }
            let written = write(&Value::String(text.clone()), None).chars().count();
            if written > LONGEST_KEY {
                let key = shortened(&text);
                return Err(Problem::new(
                    at,
                    format!("key {key:?}… takes {written} characters to write, more than {LONGEST_KEY}"),
                ));
            }
            *key = Some((text, start, end));
            return Ok(());
        }
        let (style, value) = match style {
            ScalarStyle::Plain if literal => (Style::Plain, Value::String(text)),
            ScalarStyle::Plain => (Style::Plain, resolve(&text)),
            ScalarStyle::SingleQuoted => (Style::Single, Value::String(text)),
            ScalarStyle::DoubleQuoted => (Style::Double, Value::String(text)),
            ScalarStyle::Literal | ScalarStyle::Folded => (Style::Block, Value::String(text)),
        };
        // What a block scalar's end or a missing value points at is the next token; nothing but blanks lies between.
        let end = start + self.text[start..end.max(start)].trim_end().len();
        self.place(Node { start, end, content: Content::Scalar { value, style } }, anchor, at)
    }

    fn open(&mut self, frame: Frame) -> Result<(), Problem> {
        if matches!(self.stack.last(), Some(Frame { kind: Kind::Mapping { key: None, .. }, .. })) {
            return Err(Problem::new(frame.at, "a key must be a plain word".to_owned()));
        }
        if self.stack.len() == self.limits.depth {
            return Err(Problem::new(frame.at, format!("nested deeper than {} levels", self.limits.depth)));
        }
        self.stack.push(frame);
        Ok(())
    }

    fn close(&mut self, end: usize) -> Result<(), Problem> {
        let Some(Frame { start, flow, anchor, at, kind }) = self.stack.pop() else { return Ok(()) };
        let last = match &kind {
            Kind::Sequence(items) => items.last().map(|item| item.end),
            Kind::Mapping { entries, .. } => entries.last().map(|entry| entry.value.end.max(entry.colon)),
        };
        let end = if flow { end } else { last.unwrap_or(start) };
        let content = match kind {
            Kind::Sequence(items) => Content::Sequence { items, flow },
            Kind::Mapping { entries, .. } => Content::Mapping { entries, flow },
        };
        self.place(Node { start, end, content }, anchor, at)
    }

    /// Puts a finished value where it belongs.
    fn place(&mut self, node: Node, anchor: usize, at: Place) -> Result<(), Problem> {
        self.count(1, at)?;
        if anchor > 0 {
            let value = node.value();
            let size = size(&value);
            self.anchors.insert(anchor, (value, size));
        }
        match self.stack.last_mut() {
            None => {
                let something = !matches!(&node.content, Content::Scalar { value: Value::Null, .. });
                if let Some(document) = self.documents.last_mut() {
                    document.root = something.then_some(node);
                }
            }
            Some(Frame { kind: Kind::Sequence(items), .. }) => items.push(node),
            Some(Frame { kind: Kind::Mapping { entries, key, .. }, .. }) => {
                let Some((text, key_start, key_end)) = key.take() else {
                    return Err(Problem::new(at, "a key must be a plain word".to_owned()));
                };
                let colon = self.text[key_end..].find(':').map_or(key_end, |offset| key_end + offset + 1);
                let node = match &node.content {
                    // A value that is not there stands behind its colon.
                    Content::Scalar { value: Value::Null, .. } if node.is_absent() => {
                        Node { start: colon, end: colon, ..node }
                    }
                    _ => node,
                };
                entries.push(Entry { key: text, key_start, colon, value: node });
            }
        }
        Ok(())
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Object(fields) => 1 + fields.values().map(size).sum::<usize>(),
        _ => 1,
    }
}

/// Enough of a text to know it by.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}
