//! Bytes to a tree of nodes that know their lines.
//!
//! Handed untrusted bytes, hands on a [`Node`] of bounded size and depth. Stricter than YAML where YAML surprises:
//! one document, scalar keys, no key twice, no aliases (a few lines could otherwise stand for gigabytes), no tags.
//! Built on the parser's events, not its loader: the loader recurses and knows none of these limits.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use crate::errors::{Problems, one_line, quoted};

/// The largest file that is read.
pub(crate) const MAX_BYTES: usize = 4 << 20;
/// The deepest nesting.
const MAX_DEPTH: usize = 64;
/// The most values: bounds the memory a file of the largest size can take.
const MAX_NODES: usize = 250_000;

/// A place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// From 1.
    pub(crate) line: usize,
    /// From 1, in characters.
    pub(crate) column: usize,
}

/// A value and where it begins.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) at: Position,
    pub(crate) content: Content,
}

/// What a value is.
#[derive(Debug)]
pub(crate) enum Content {
    Scalar {
        text: String,
        /// Written without quotes, so that it may be a number, a boolean or nothing.
        plain: bool,
    },
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) at: Position,
    pub(crate) value: Node,
}

/// The single document in `text`; `None` after a problem that leaves nothing to go on with.
pub(crate) fn read(text: &[u8], problems: &mut Problems) -> Option<Node> {
    if text.len() > MAX_BYTES {
        problems.unlocated(format!("larger than {} MiB", MAX_BYTES >> 20));
        return None;
    }
    let text = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => {
            let valid = String::from_utf8_lossy(&text[..error.valid_up_to()]);
            problems.report_at(end_of(&valid), String::new(), "not UTF-8 text");
            return None;
        }
    };
    let mut reader = Reader { stack: Vec::new(), root: None, nodes: 0, problems };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let step = match event {
            Ok((event, span)) => reader.event(event, position(span.start)),
            Err(error) => {
                let at = position(*error.marker());
                let line = text.lines().nth(at.line.saturating_sub(1)).unwrap_or_default();
                // The commonest slip: [::]:8080 without quotes begins a list.
                let hint = if line.contains("[::") { " (an address such as \"[::]:8080\" needs quotes)" } else { "" };
                reader.fail(at, &format!("not valid YAML: {}{hint}", one_line(error.info())))
            }
        };
        step?;
    }
    let root = reader.root.take();
    if root.is_none() && problems.is_empty() {
        problems.unlocated("the file is empty");
    }
    root
}

/// An unfinished collection.
enum Frame {
    Sequence { at: Position, items: Vec<Node> },
    Mapping { at: Position, entries: Vec<Entry>, seen: HashMap<String, usize>, key: Option<(String, Position)> },
}

struct Reader<'p> {
    stack: Vec<Frame>,
    root: Option<Node>,
    nodes: usize,
    problems: &'p mut Problems,
}

impl Reader<'_> {
    /// Takes one event; `None`: stop, the problem is reported.
    fn event(&mut self, event: Event<'_>, at: Position) -> Option<()> {
        match event {
            Event::Scalar(_, _, _, Some(_)) | Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_)) => {
                self.fail(at, "YAML tags (!) are not used here")
            }
            Event::Alias(_) => self.fail(at, "YAML aliases (*) are not used here; write the value out"),
            Event::Scalar(text, style, ..) => self.scalar(text.into_owned(), matches!(style, ScalarStyle::Plain), at),
            Event::SequenceStart(..) => self.open(Frame::Sequence { at, items: Vec::new() }, at),
            Event::MappingStart(..) => {
                self.open(Frame::Mapping { at, entries: Vec::new(), seen: HashMap::new(), key: None }, at)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::DocumentStart(_) if self.root.is_some() => {
                self.fail(at, "a second YAML document (---); one file holds one configuration")
            }
            Event::DocumentStart(_) | Event::DocumentEnd | Event::StreamStart | Event::StreamEnd | Event::Nothing => {
                Some(())
            }
        }
    }

    fn fail(&mut self, at: Position, message: &str) -> Option<()> {
        let path = self.path();
        self.problems.report_at(at, path, message);
        None
    }

    fn scalar(&mut self, text: String, plain: bool, at: Position) -> Option<()> {
        if let Some(Frame::Mapping { key: key @ None, .. }) = self.stack.last_mut() {
            *key = Some((text, at));
            return Some(());
        }
        self.place(Node { at, content: Content::Scalar { text, plain } })
    }

    fn open(&mut self, frame: Frame, at: Position) -> Option<()> {
        if matches!(self.stack.last(), Some(Frame::Mapping { key: None, .. })) {
            return self.fail(at, "a key must be a plain word");
        }
        if self.stack.len() == MAX_DEPTH {
            return self.fail(at, &format!("nested deeper than {MAX_DEPTH} levels"));
        }
        self.stack.push(frame);
        Some(())
    }

    fn close(&mut self) -> Option<()> {
        let node = match self.stack.pop()? {
            Frame::Sequence { at, items } => Node { at, content: Content::Sequence(items) },
            Frame::Mapping { at, entries, .. } => Node { at, content: Content::Mapping(entries) },
        };
        self.place(node)
    }

    /// Puts a finished value where it belongs.
    fn place(&mut self, node: Node) -> Option<()> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return self.fail(node.at, &format!("more than {MAX_NODES} values"));
        }
        match self.stack.last_mut() {
            None => self.root = is_something(&node).then_some(node),
            Some(Frame::Sequence { items, .. }) => items.push(node),
            Some(Frame::Mapping { entries, seen, key, .. }) => {
                let (text, at) = key.take()?;
                if let Some(line) = seen.get(&text) {
                    let complaint = format!("key {} is already given in line {line}", quoted(&text));
                    let path = self.path();
                    self.problems.report_at(at, path, complaint);
                } else {
                    seen.insert(text.clone(), at.line);
                    entries.push(Entry { key: text, at, value: node });
                }
            }
        }
        Some(())
    }

    /// Where reading stands, such as `outbound[0].routes`.
    fn path(&self) -> String {
        let mut path = String::new();
        for frame in &self.stack {
            match frame {
                Frame::Sequence { items, .. } => path.push_str(&format!("[{}]", items.len())),
                Frame::Mapping { key: Some((key, _)), .. } => push_field(&mut path, key),
                Frame::Mapping { key: None, .. } => {}
            }
        }
        path
    }
}

/// Appends a field's name to a path; a name that could be misread is quoted.
pub(crate) fn push_field(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    let plain = !name.is_empty()
        && name.len() <= MAX_DEPTH
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if plain { path.push_str(name) } else { path.push_str(&quoted(name)) }
}

/// An empty document is no value at all.
fn is_something(node: &Node) -> bool {
    !matches!(&node.content, Content::Scalar { text, plain: true } if is_nothing(text))
}

/// Whether an unquoted scalar means "no value" (YAML 1.2 core schema).
pub(crate) fn is_nothing(plain: &str) -> bool {
    matches!(plain, "" | "~" | "null" | "Null" | "NULL")
}

fn position(mark: Marker) -> Position {
    Position { line: mark.line(), column: mark.col() + 1 }
}

fn end_of(text: &str) -> Position {
    let line = text.bytes().filter(|b| *b == b'\n').count() + 1;
    let column = text.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Position { line, column }
}
