//! Edits of flow style: JSON, and what looks like it in YAML.

use serde_json::Value;

use super::{Editor, NotInPlace, Outcome};
use crate::inject::diff::{Field, Item};
use crate::manifest::emit::{Flow, flow, flow_entry, flow_scalar};
use crate::manifest::node::{Content, Entry, Node, Style};

/// What stands in a bracket: its place, and how it changes.
struct Part {
    start: usize,
    end: usize,
    removed: bool,
}

impl Editor<'_> {
    pub(super) fn replace_flow(&mut self, node: &Node, value: &Value) -> Outcome {
        if matches!(&node.content, Content::Scalar { style: Style::Block, .. }) || node.is_absent() {
            return Err(NotInPlace);
        }
        let text = match (&node.content, value) {
            (Content::Scalar { style, .. }, scalar) if !scalar.is_object() && !scalar.is_array() => {
                flow_scalar(scalar, *style, self.json)
            }
            (_, value) => flow(value, &self.around(node.start)),
        };
        self.push(node.start, node.end, text);
        Ok(())
    }

    pub(super) fn flow_object(&mut self, node: &Node, entries: &[Entry], fields: &[(String, Field)]) -> Outcome {
        let find = |name: &str| entries.iter().position(|entry| entry.key == name).ok_or(NotInPlace);
        let layout = self.inside(node, entries.first().map(|entry| entry.key_start));
        let within = layout.clone().deeper();
        let end = |entry: &Entry| entry.value.end.max(entry.colon);
        let mut parts: Vec<Part> =
            entries.iter().map(|e| Part { start: e.key_start, end: end(e), removed: false }).collect();
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for (name, field) in fields {
            match field {
                Field::Add(value) => added.push(flow_entry(name, value, &within)),
                Field::Remove => removed.push(find(name)?),
                Field::Change(change) => self.change(&entries[find(name)?].value, change, None)?,
            }
        }
        if let ([text], [index]) = (&added[..], &removed[..]) {
            let (start, end, text) = (parts[*index].start, parts[*index].end, text.clone());
            self.push(start, end, text);
            return Ok(());
        }
        for index in removed {
            parts[index].removed = true;
        }
        self.remove_parts(&parts);
        if !added.is_empty() {
            let last = parts.iter().rev().find(|part| !part.removed).ok_or(NotInPlace)?;
            let text = added.into_iter().map(|entry| layout.separator() + &entry).collect();
            self.push(last.end, last.end, text);
        }
        Ok(())
    }

    pub(super) fn flow_array(&mut self, node: &Node, items: &[Node], steps: &[Item]) -> Outcome {
        let layout = self.inside(node, items.first().map(|item| item.start));
        let within = layout.clone().deeper();
        let mut parts: Vec<Part> =
            items.iter().map(|item| Part { start: item.start, end: item.end, removed: false }).collect();
        let (mut index, mut kept, mut front) = (0_usize, None::<usize>, String::new());
        for step in steps {
            match step {
                Item::Insert(value) => {
                    let text = flow(value, &within);
                    match kept {
                        Some(kept) => self.push(parts[kept].end, parts[kept].end, layout.separator() + &text),
                        None => front.push_str(&(text + &layout.separator())),
                    }
                }
                Item::Remove => {
                    parts.get_mut(index).ok_or(NotInPlace)?.removed = true;
                    index += 1;
                }
                Item::Keep(change) => {
                    let item = items.get(index).ok_or(NotInPlace)?;
                    if !front.is_empty() {
                        self.push(item.start, item.start, std::mem::take(&mut front));
                    }
                    self.change(item, change, None)?;
                    kept = Some(index);
                    index += 1;
                }
            }
        }
        self.remove_parts(&parts);
        Ok(())
    }

    /// Takes parts out, each with the separator before it; those before the first that stays with the one behind them.
    fn remove_parts(&mut self, parts: &[Part]) {
        let first_kept = parts.iter().position(|part| !part.removed).unwrap_or(parts.len());
        for (index, part) in parts.iter().enumerate().filter(|(_, part)| part.removed) {
            if index < first_kept {
                let next = parts.get(index + 1).map_or(part.end, |next| next.start);
                self.push(part.start, next, String::new());
            } else {
                self.push(parts[index - 1].end, part.end, String::new());
            }
        }
    }

    /// The layout of what is in brackets, seen from its first part.
    fn inside(&self, node: &Node, first: Option<usize>) -> Flow {
        let own = self.indentation(node.start);
        match first.filter(|first| self.text[node.start..*first].contains('\n')) {
            Some(first) => {
                let inner = self.indentation(first);
                let step = inner.strip_prefix(own.as_str()).unwrap_or("  ").to_owned();
                Flow::Lines { indent: own, step }
            }
            None => Flow::Line { spaced: self.spaced(), bare: !self.json },
        }
    }

    /// The layout for a value that stands at `at`: over lines where the whole document is.
    fn around(&self, at: usize) -> Flow {
        if !self.json || !self.text.trim().contains('\n') {
            return Flow::Line { spaced: self.spaced(), bare: !self.json };
        }
        let second = self.text.trim_start().find('\n').map(|at| &self.text.trim_start()[at + 1..]).unwrap_or_default();
        let step: String = second.chars().take_while(|c| matches!(c, ' ' | '\t')).collect();
        Flow::Lines { indent: self.indentation(at), step: if step.is_empty() { "  ".to_owned() } else { step } }
    }

    fn indentation(&self, at: usize) -> String {
        self.text[self.line_start(at)..].chars().take_while(|c| matches!(c, ' ' | '\t')).collect()
    }

    fn spaced(&self) -> bool {
        !self.json || self.text.contains("\": ")
    }
}

impl Flow {
    /// The layout of a value that is itself a part.
    fn deeper(self) -> Self {
        match self {
            Self::Lines { indent, step } => Self::Lines { indent: format!("{indent}{step}"), step },
            line => line,
        }
    }
}
