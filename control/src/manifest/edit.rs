//! A change of values to edits of the text: everything that does not change stays byte for byte.
//!
//! Block style is edited by whole lines, put in behind the line before and taken out with the line break before, so that
//! taking out is the inverse of putting in. What cannot be edited in place (aliases, unusual layouts) is said, never guessed;
//! the caller reads the result again and compares.

mod flow;

use serde_json::Value;

use super::emit::{self, Layout};
use super::node::{Content, Entry, Node, Style};
use super::scalar::write;
use crate::inject::diff::{Change, Field, Item};

/// One replacement in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) text: String,
}

/// The text cannot be edited in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotInPlace;

type Outcome = Result<(), NotInPlace>;

/// The edits that make `root` what `change` says.
pub(crate) fn edits(text: &str, root: &Node, change: &Change, json: bool) -> Result<Vec<Edit>, NotInPlace> {
    let mut editor = Editor { text, json, layout: layout(text, root), edits: Vec::new() };
    editor.change(root, change, None)?;
    // Stable: what is put in at a place comes before what is taken out from there.
    editor.edits.sort_by_key(|edit| edit.start);
    let apart = editor.edits.windows(2).all(|pair| pair[0].end <= pair[1].start);
    if apart { Ok(editor.edits) } else { Err(NotInPlace) }
}

/// The text with its edits.
pub(crate) fn apply(text: &str, edits: &[Edit]) -> String {
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    for edit in edits {
        out.push_str(&text[at..edit.start]);
        out.push_str(&edit.text);
        at = edit.end;
    }
    out.push_str(&text[at..]);
    out
}

struct Editor<'a> {
    text: &'a str,
    json: bool,
    layout: Layout,
    edits: Vec<Edit>,
}

/// Where a value hangs: the column of its key and the end of its colon. Values that are items hang on nothing.
type Anchor = Option<(usize, usize)>;

impl Editor<'_> {
    fn change(&mut self, node: &Node, change: &Change, anchor: Anchor) -> Outcome {
        match (change, &node.content) {
            (Change::Same, _) => Ok(()),
            (Change::Replace(value), _) => self.replace(node, value, anchor),
            (Change::Object(fields), Content::Mapping { entries, flow }) => {
                let removed = fields.iter().filter(|(_, field)| *field == Field::Remove).count();
                let added = fields.iter().any(|(_, field)| matches!(field, Field::Add(_)));
                if removed == entries.len() && !added {
                    return self.replace(node, &Value::Object(serde_json::Map::new()), anchor);
                }
                if entries.is_empty() {
                    let add = |(name, field): &(String, Field)| match field {
                        Field::Add(value) => Some((name.clone(), value.clone())),
                        _ => None,
                    };
                    return self.replace(node, &Value::Object(fields.iter().filter_map(add).collect()), anchor);
                }
                if *flow { self.flow_object(node, entries, fields) } else { self.object(entries, fields) }
            }
            (Change::Array(steps), Content::Sequence { items, flow }) => {
                let added = || {
                    steps.iter().filter_map(|step| match step {
                        Item::Insert(value) => Some(value.clone()),
                        _ => None,
                    })
                };
                if !steps.iter().any(|step| matches!(step, Item::Keep(_))) {
                    return self.replace(node, &Value::Array(added().collect()), anchor);
                }
                if *flow { self.flow_array(node, items, steps) } else { self.array(items, steps, anchor) }
            }
            _ => Err(NotInPlace),
        }
    }

    fn push(&mut self, start: usize, end: usize, text: String) {
        let text = if self.crlf() { text.replace('\n', "\r\n") } else { text };
        self.edits.push(Edit { start, end, text });
    }

    fn crlf(&self) -> bool {
        self.text.find('\n').is_some_and(|at| at > 0 && self.text.as_bytes()[at - 1] == b'\r')
    }

    /// The end of the line in which `at` is, before its line break.
    fn line_end(&self, at: usize) -> usize {
        let end = self.text[at..].find('\n').map_or(self.text.len(), |offset| at + offset);
        if end > at && self.text.as_bytes()[end - 1] == b'\r' { end - 1 } else { end }
    }

    fn line_start(&self, at: usize) -> usize {
        self.text[..at].rfind('\n').map_or(0, |newline| newline + 1)
    }

    /// The column of `at`, where nothing but blanks stands before it in its line.
    fn alone(&self, at: usize) -> Result<usize, NotInPlace> {
        let start = self.line_start(at);
        if self.text[start..at].bytes().all(|b| b == b' ') { Ok(at - start) } else { Err(NotInPlace) }
    }

    /// The column of an entry's key, which may stand behind a dash.
    fn column(&self, at: usize) -> usize {
        self.text[self.line_start(at)..at].chars().count()
    }

    /// Takes out the lines from that of `from` to that of `to`, with the line break before them.
    fn remove_lines(&mut self, from: usize, to: usize) {
        let (start, end) = (self.line_start(from), self.line_end(to));
        match start {
            0 => {
                let after = self.text[end..].find('\n').map_or(end, |offset| end + offset + 1);
                self.push(0, after, String::new());
            }
            start => {
                let before = self.line_end(self.line_start(start - 1));
                self.push(before, end, String::new());
            }
        }
    }

    fn replace(&mut self, node: &Node, value: &Value, anchor: Anchor) -> Outcome {
        let nested = matches!(value, Value::Object(fields) if !fields.is_empty())
            || matches!(value, Value::Array(items) if !items.is_empty());
        match (&node.content, anchor) {
            (Content::Alias(_), _) => Err(NotInPlace),
            _ if self.json => self.replace_flow(node, value),
            (Content::Scalar { style: Style::Block, .. }, _) => Err(NotInPlace),
            (
                Content::Scalar { .. } | Content::Sequence { flow: true, .. } | Content::Mapping { flow: true, .. },
                Some((column, colon)),
            ) if nested => {
                // `key: []` or `key:` becomes `key:` and lines below, behind the comment that may stand there.
                if self.text[colon..node.start].contains('\n') || self.text[node.start..node.end].contains('\n') {
                    return Err(NotInPlace);
                }
                self.push(colon, node.end.max(colon), String::new());
                let end = self.line_end(node.end.max(colon));
                self.push(end, end, emit::behind_key(value, column, self.layout));
                Ok(())
            }
            (Content::Scalar { style, .. }, _) if !nested => {
                let text = match value {
                    Value::Null => String::new(),
                    Value::Object(_) | Value::Array(_) => {
                        emit::behind_key(value, 0, self.layout).trim_start().to_owned()
                    }
                    scalar => write(scalar, Some(*style)),
                };
                let blank = if node.is_absent() { " " } else { "" };
                self.push(node.start, node.end, format!("{blank}{text}"));
                Ok(())
            }
            (Content::Sequence { flow: false, .. } | Content::Mapping { flow: false, .. }, Some((column, colon))) => {
                // The lines below the key go; what replaces them stands behind it.
                let end = self.line_end(colon);
                if self.text[colon..node.start].trim_start_matches(' ').starts_with(['&', '!']) || node.start < end {
                    return Err(NotInPlace);
                }
                self.push(colon, colon, emit::behind_key(value, column, self.layout));
                self.push(end, self.line_end(node.end), String::new());
                Ok(())
            }
            _ => self.replace_flow(node, value),
        }
    }

    fn object(&mut self, entries: &[Entry], fields: &[(String, Field)]) -> Outcome {
        let find = |name: &str| entries.iter().find(|entry| entry.key == name).ok_or(NotInPlace);
        let column = entries.first().map(|entry| self.column(entry.key_start)).ok_or(NotInPlace)?;
        let mut added: Vec<(&String, &Value)> = Vec::new();
        let mut removed: Vec<&Entry> = Vec::new();
        for (name, field) in fields {
            match field {
                Field::Add(value) => added.push((name, value)),
                Field::Remove => removed.push(find(name)?),
                Field::Change(change) => {
                    let entry = find(name)?;
                    let anchor = Some((self.column(entry.key_start), entry.colon));
                    self.change(&entry.value, change, anchor)?;
                }
            }
        }
        if let ([(name, value)], [entry]) = (&added[..], &removed[..]) {
            // One for another: it keeps its place, so that taking it back does too.
            let end = self.line_end(entry.value.end.max(entry.colon));
            self.push(entry.key_start, end, emit::entry(name, value, column, self.layout));
            return Ok(());
        }
        for entry in &removed {
            self.alone(entry.key_start)?;
            self.remove_lines(entry.key_start, entry.value.end.max(entry.colon));
        }
        if !added.is_empty() {
            let last = entries.last().ok_or(NotInPlace)?;
            let at = self.line_end(last.value.end.max(last.colon));
            let lines = added.into_iter().map(|(name, value)| {
                format!("\n{}{}", " ".repeat(column), emit::entry(name, value, column, self.layout))
            });
            self.push(at, at, lines.collect());
        }
        Ok(())
    }

    fn array(&mut self, items: &[Node], steps: &[Item], anchor: Anchor) -> Outcome {
        let dash = |editor: &Self, node: &Node| {
            let before = editor.text[..node.start].trim_end_matches(' ');
            before.strip_suffix('-').map(str::len).ok_or(NotInPlace)
        };
        let first = dash(self, items.first().ok_or(NotInPlace)?)?;
        let column = self.alone(first)?;
        let head = anchor.map(|(_, colon)| self.line_end(colon)).filter(|end| *end <= first);
        let (mut index, mut at) = (0_usize, head);
        for step in steps {
            match step {
                Item::Insert(value) => {
                    let at = at.ok_or(NotInPlace)?;
                    self.push(at, at, format!("\n{}", emit::item(value, column, self.layout)));
                }
                Item::Remove | Item::Keep(_) => {
                    let node = items.get(index).ok_or(NotInPlace)?;
                    index += 1;
                    match step {
                        Item::Keep(change) => self.change(node, change, None)?,
                        _ => {
                            let dash = dash(self, node)?;
                            self.alone(dash)?;
                            self.remove_lines(dash, node.end);
                        }
                    }
                    at = Some(self.line_end(node.end));
                }
            }
        }
        Ok(())
    }
}

/// How the document is laid out, seen from its first nested mapping and list.
fn layout(text: &str, root: &Node) -> Layout {
    let column = |at: usize| at - text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let (mut step, mut dash) = (None, None);
    let mut open = vec![root];
    while let Some(node) = open.pop() {
        let Content::Mapping { entries, flow: false } = &node.content else { continue };
        for entry in entries.iter().rev() {
            let key = column(entry.key_start);
            match &entry.value.content {
                Content::Mapping { flow: false, .. } => {
                    step = step.or_else(|| column(entry.value.start).checked_sub(key));
                    open.push(&entry.value);
                }
                Content::Sequence { items, flow: false } => {
                    let offset = items.first().and_then(|item| {
                        let before = text[..item.start].trim_end_matches(' ').strip_suffix('-')?.len();
                        column(before).checked_sub(key)
                    });
                    dash = dash.or(offset);
                    open.extend(items);
                }
                _ => {}
            }
        }
    }
    Layout {
        step: step.filter(|step| (1..=8).contains(step)).unwrap_or(2),
        dash: dash.filter(|d| *d <= 8).unwrap_or(0),
    }
}
