//! JSON to values that know their places: one value after another, as kubectl reads a JSON file.
//!
//! A reader of its own, since YAML's escapes are not JSON's. Scalars are read by `serde_json`.

use std::collections::HashSet;

use serde_json::Value;

use super::node::{Content, Entry, Node, Style};
use super::yaml::shortened;
use super::{Limits, Place, Problem};

/// Every value in `text`.
pub(crate) fn read(text: &str, limits: &Limits) -> Result<Vec<Node>, Problem> {
    let mut reader = Reader { text, at: 0, values: 0, depth: 0, limits };
    let mut values = Vec::new();
    loop {
        reader.blanks();
        if reader.at == text.len() {
            return Ok(values);
        }
        if values.len() == limits.documents {
            return Err(reader.problem(format!("more than {} documents", limits.documents)));
        }
        values.push(reader.value()?);
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    values: usize,
    depth: usize,
    limits: &'a Limits,
}

impl Reader<'_> {
    fn problem(&self, message: impl Into<String>) -> Problem {
        Problem::new(Place::of(self.text, self.at), message.into())
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), Problem> {
        self.blanks();
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        Err(self.problem(format!("not valid JSON: expected {:?}", char::from(byte))))
    }

    fn value(&mut self) -> Result<Node, Problem> {
        self.blanks();
        self.values += 1;
        if self.values > self.limits.values {
            return Err(self.problem(format!("more than {} values", self.limits.values)));
        }
        match self.peek() {
            Some(b'{' | b'[') if self.depth == self.limits.depth => {
                Err(self.problem(format!("nested deeper than {} levels", self.limits.depth)))
            }
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            _ => self.scalar(),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Content, Problem>) -> Result<Node, Problem> {
        let start = self.at;
        self.at += 1;
        self.depth += 1;
        let content = read(self)?;
        self.depth -= 1;
        Ok(Node { start, end: self.at, content })
    }

    fn object(&mut self) -> Result<Content, Problem> {
        let (mut entries, mut seen) = (Vec::new(), HashSet::new());
        while self.more(b'}', entries.is_empty())? {
            self.blanks();
            let Node { start, content: Content::Scalar { value: Value::String(key), .. }, .. } = self.scalar()? else {
                return Err(self.problem("not valid JSON: a key must be a string"));
            };
            if !seen.insert(key.clone()) {
                return Err(self.problem(format!("key {:?} is given twice", shortened(&key))));
            }
            self.expect(b':')?;
            let colon = self.at;
            let value = self.value()?;
            entries.push(Entry { key, key_start: start, colon, value });
        }
        Ok(Content::Mapping { entries, flow: true })
    }

    fn array(&mut self) -> Result<Content, Problem> {
        let mut items = Vec::new();
        while self.more(b']', items.is_empty())? {
            items.push(self.value()?);
        }
        Ok(Content::Sequence { items, flow: true })
    }

    /// Whether another item comes before `close`.
    fn more(&mut self, close: u8, first: bool) -> Result<bool, Problem> {
        self.blanks();
        if self.peek() == Some(close) {
            self.at += 1;
            return Ok(false);
        }
        if !first {
            self.expect(b',')?;
        }
        Ok(true)
    }

    fn scalar(&mut self) -> Result<Node, Problem> {
        let (start, bytes) = (self.at, self.text.as_bytes());
        let quoted = self.peek() == Some(b'"');
        let mut end = start + usize::from(quoted);
        if quoted {
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            end = (end + 1).min(bytes.len());
        } else {
            while end < bytes.len() && (bytes[end].is_ascii_alphanumeric() || matches!(bytes[end], b'+' | b'-' | b'.'))
            {
                end += 1;
            }
        }
        let value = self.text.get(start..end).and_then(|token| serde_json::from_str(token).ok());
        let Some(value) = value.filter(|value: &Value| !value.is_array() && !value.is_object()) else {
            return Err(self.problem("not valid JSON: expected a value"));
        };
        self.at = end;
        let style = if quoted { Style::Double } else { Style::Plain };
        Ok(Node { start, end, content: Content::Scalar { value, style } })
    }
}
