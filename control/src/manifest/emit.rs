//! Values to text, in block style (YAML) or flow style (JSON).

use serde_json::{Map, Value};

use super::node::Style;
use super::scalar::{double, write};

/// What people look for first comes first; the rest by name.
const FIRST: [&str; 7] = ["apiVersion", "kind", "metadata", "name", "image", "command", "args"];

/// How block style is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Columns a nested mapping is further in.
    pub(crate) step: usize,
    /// Columns a list's dashes are further in than its key.
    pub(crate) dash: usize,
}

impl Default for Layout {
    /// As kubectl writes.
    fn default() -> Self {
        Self { step: 2, dash: 0 }
    }
}

fn ordered(fields: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut ordered: Vec<_> = fields.iter().collect();
    let rank = |name: &str| FIRST.iter().position(|first| *first == name).unwrap_or(FIRST.len());
    ordered.sort_by_key(|(name, _)| rank(name));
    ordered
}

fn key(name: &str) -> String {
    write(&Value::String(name.to_owned()), None)
}

fn blanks(count: usize) -> String {
    " ".repeat(count)
}

/// `value` behind a key whose first letter is in column `indent`; begins with a blank or a line break and ends without one.
pub(crate) fn behind_key(value: &Value, indent: usize, layout: Layout) -> String {
    match value {
        Value::Null => String::new(),
        Value::Object(fields) if !fields.is_empty() => format!("\n{}", mapping(fields, indent + layout.step, layout)),
        Value::Array(items) if !items.is_empty() => format!("\n{}", sequence(items, indent + layout.dash, layout)),
        scalar => format!(" {}", scalar_or_empty(scalar)),
    }
}

fn scalar_or_empty(value: &Value) -> String {
    match value {
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        scalar => write(scalar, None),
    }
}

/// `name: value` without its indentation.
pub(crate) fn entry(name: &str, value: &Value, indent: usize, layout: Layout) -> String {
    format!("{}:{}", key(name), behind_key(value, indent, layout))
}

/// A mapping's lines.
pub(crate) fn mapping(fields: &Map<String, Value>, indent: usize, layout: Layout) -> String {
    let lines = ordered(fields).into_iter();
    let lines = lines.map(|(name, value)| format!("{}{}", blanks(indent), entry(name, value, indent, layout)));
    lines.collect::<Vec<_>>().join("\n")
}

/// A list's lines.
pub(crate) fn sequence(items: &[Value], indent: usize, layout: Layout) -> String {
    items.iter().map(|value| item(value, indent, layout)).collect::<Vec<_>>().join("\n")
}

/// `- value` with its indentation.
pub(crate) fn item(value: &Value, indent: usize, layout: Layout) -> String {
    let inner = match value {
        Value::Object(fields) if !fields.is_empty() => mapping(fields, indent + 2, layout).trim_start().to_owned(),
        Value::Array(items) if !items.is_empty() => sequence(items, indent + 2, layout).trim_start().to_owned(),
        Value::Null => "null".to_owned(),
        scalar => scalar_or_empty(scalar),
    };
    format!("{}- {inner}", blanks(indent))
}

/// A whole document.
pub(crate) fn document(value: &Value) -> String {
    let layout = Layout::default();
    let text = match value {
        Value::Object(fields) if !fields.is_empty() => mapping(fields, 0, layout),
        Value::Array(items) if !items.is_empty() => sequence(items, 0, layout),
        Value::Null => "null".to_owned(),
        scalar => scalar_or_empty(scalar),
    };
    text + "\n"
}

/// How flow style is laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// On one line, with or without blanks behind commas and colons; `bare`: YAML's, without needless quotes.
    Line { spaced: bool, bare: bool },
    /// A line an item; `indent` is what the closing bracket stands behind, `step` what is added within.
    Lines { indent: String, step: String },
}

impl Flow {
    fn within(&self) -> Self {
        match self {
            Self::Line { spaced, bare } => Self::Line { spaced: *spaced, bare: *bare },
            Self::Lines { indent, step } => Self::Lines { indent: format!("{indent}{step}"), step: step.clone() },
        }
    }

    fn text(&self, text: &str) -> String {
        match self {
            Self::Line { bare: true, .. } => write(&Value::String(text.to_owned()), None),
            _ => double(text),
        }
    }

    /// What separates two items.
    pub(crate) fn separator(&self) -> String {
        match self {
            Self::Line { spaced: true, .. } => ", ".to_owned(),
            Self::Line { spaced: false, .. } => ",".to_owned(),
            Self::Lines { indent, step } => format!(",\n{indent}{step}"),
        }
    }

    fn brackets(&self, items: &[String], open: char, close: char) -> String {
        let joined = items.join(&self.separator());
        match self {
            _ if items.is_empty() => format!("{open}{close}"),
            Self::Line { .. } => format!("{open}{joined}{close}"),
            Self::Lines { indent, step } => format!("{open}\n{indent}{step}{joined}\n{indent}{close}"),
        }
    }
}

/// A value in flow style; what JSON reads, YAML reads too.
pub(crate) fn flow(value: &Value, layout: &Flow) -> String {
    let within = layout.within();
    match value {
        Value::Object(fields) => {
            let entries: Vec<String> =
                ordered(fields).into_iter().map(|(name, value)| flow_entry(name, value, &within)).collect();
            layout.brackets(&entries, '{', '}')
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|value| flow(value, &within)).collect();
            layout.brackets(&items, '[', ']')
        }
        Value::String(text) => layout.text(text),
        other => other.to_string(),
    }
}

/// `"name": value`.
pub(crate) fn flow_entry(name: &str, value: &Value, layout: &Flow) -> String {
    let blank = if matches!(layout, Flow::Line { spaced: false, .. }) { "" } else { " " };
    format!("{}:{blank}{}", layout.text(name), flow(value, layout))
}

/// A scalar in flow style, as it was written before where that is possible.
pub(crate) fn flow_scalar(value: &Value, before: Style, json: bool) -> String {
    match value {
        Value::String(text) if json => double(text),
        other => write(other, Some(before)),
    }
}
