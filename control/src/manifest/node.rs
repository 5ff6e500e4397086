//! A document's values, and where each stands in the text.

use serde_json::{Map, Value};

/// A value and its place, in bytes of the file's text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    /// Where it begins; of a block collection, where its first child does.
    pub(crate) start: usize,
    /// Where it ends; of a block collection, where its last child does.
    pub(crate) end: usize,
    pub(crate) content: Content,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    Scalar {
        value: Value,
        style: Style,
    },
    Sequence {
        items: Vec<Node>,
        flow: bool,
    },
    Mapping {
        entries: Vec<Entry>,
        flow: bool,
    },
    /// What stands elsewhere: it cannot be edited here.
    Alias(Value),
}

/// How a scalar is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Single,
    Double,
    Block,
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_start: usize,
    /// Behind the colon.
    pub(crate) colon: usize,
    pub(crate) value: Node,
}

impl Node {
    /// The value alone; merge keys (`<<`) are resolved as kubectl does: what is written beside them wins.
    pub(crate) fn value(&self) -> Value {
        match &self.content {
            Content::Scalar { value, .. } | Content::Alias(value) => value.clone(),
            Content::Sequence { items, .. } => Value::Array(items.iter().map(Self::value).collect()),
            Content::Mapping { entries, .. } => {
                let mut fields = Map::new();
                for entry in entries.iter().filter(|entry| entry.key == "<<") {
                    merge(&mut fields, entry.value.value());
                }
                let own = entries.iter().filter(|entry| entry.key != "<<");
                fields.extend(own.map(|entry| (entry.key.clone(), entry.value.value())));
                Value::Object(fields)
            }
        }
    }

    /// Whether nothing is written where the value would be.
    pub(crate) fn is_absent(&self) -> bool {
        self.start == self.end
    }
}

fn merge(fields: &mut Map<String, Value>, from: Value) {
    match from {
        Value::Object(other) => {
            for (name, value) in other {
                fields.entry(name).or_insert(value);
            }
        }
        Value::Array(several) => several.into_iter().for_each(|other| merge(fields, other)),
        _ => {}
    }
}
