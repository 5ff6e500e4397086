//! What separates two values, as a tree; the RFC 6902 patch and the edits of a manifest's text are both made from it.
//!
//! Lists of named objects (containers, volumes, variables) are matched by name, other lists by equal items, so that what is
//! added in front moves nothing else.

use json_patch::jsonptr::{PointerBuf, Token};
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation};
use serde_json::Value;

/// Lists whose differing parts are longer than this are replaced whole.
const MAX_ALIGNED: usize = 512;

/// How one value becomes another.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    /// It is equal.
    Same,
    /// It is another.
    Replace(Value),
    /// Some fields of an object change.
    Object(Vec<(String, Field)>),
    /// Some items of a list change; every old item is mentioned, in order.
    Array(Vec<Item>),
}

/// How a field changes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Field {
    Add(Value),
    Remove,
    Change(Change),
}

/// How an item changes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Item {
    Insert(Value),
    Remove,
    Keep(Change),
}

impl Change {
    /// How `old` becomes `new`.
    pub(crate) fn between(old: &Value, new: &Value) -> Self {
        if old == new {
            return Self::Same;
        }
        match (old, new) {
            (Value::Object(old), Value::Object(new)) => {
                let mut fields = Vec::new();
                for (name, value) in old {
                    match new.get(name) {
                        None => fields.push((name.clone(), Field::Remove)),
                        Some(other) if other != value => {
                            fields.push((name.clone(), Field::Change(Self::between(value, other))));
                        }
                        Some(_) => {}
                    }
                }
                let added = new.iter().filter(|(name, _)| !old.contains_key(*name));
                fields.extend(added.map(|(name, value)| (name.clone(), Field::Add(value.clone()))));
                Self::Object(fields)
            }
            (Value::Array(old), Value::Array(new)) => {
                items(old, new).map_or_else(|| Self::Replace(Value::Array(new.clone())), Self::Array)
            }
            (_, new) => Self::Replace(new.clone()),
        }
    }

    /// The same as a patch.
    pub(crate) fn into_patch(self) -> Patch {
        let mut operations = Vec::new();
        self.write(&PointerBuf::root(), &mut operations);
        Patch(operations)
    }

    fn write(self, at: &PointerBuf, operations: &mut Vec<PatchOperation>) {
        match self {
            Self::Same => {}
            Self::Replace(value) => {
                operations.push(PatchOperation::Replace(ReplaceOperation { path: at.clone(), value }));
            }
            Self::Object(fields) => {
                for (name, field) in fields {
                    let path = below(at, Token::new(name));
                    match field {
                        Field::Add(value) => operations.push(PatchOperation::Add(AddOperation { path, value })),
                        Field::Remove => operations.push(PatchOperation::Remove(RemoveOperation { path })),
                        Field::Change(change) => change.write(&path, operations),
                    }
                }
            }
            Self::Array(items) => {
                // An index counts what stands there when its operation is applied.
                let mut index = 0_usize;
                for item in items {
                    let path = below(at, Token::from(index));
                    match item {
                        Item::Insert(value) => operations.push(PatchOperation::Add(AddOperation { path, value })),
                        Item::Remove => {
                            operations.push(PatchOperation::Remove(RemoveOperation { path }));
                            continue;
                        }
                        Item::Keep(change) => change.write(&path, operations),
                    }
                    index += 1;
                }
            }
        }
    }
}

fn below(at: &PointerBuf, token: Token<'_>) -> PointerBuf {
    let mut path = at.clone();
    path.push_back(token);
    path
}

/// Whether two items are the same thing, possibly changed.
fn matches(old: &Value, new: &Value) -> bool {
    match (old.get("name").and_then(Value::as_str), new.get("name").and_then(Value::as_str)) {
        (Some(old), Some(new)) => old == new,
        _ => old == new,
    }
}

/// Aligns two lists by their longest common subsequence; [`None`]: too long to be worth it.
fn items(old: &[Value], new: &[Value]) -> Option<Vec<Item>> {
    let keep = |(old, new): (&Value, &Value)| Item::Keep(Change::between(old, new));
    // Where nothing has a name, as in a List of objects, and nothing was added, each is what stood there.
    if old.len() == new.len() && !old.iter().chain(new).any(|item| item.get("name").is_some()) {
        return Some(old.iter().zip(new).map(keep).collect());
    }
    let front = old.iter().zip(new).take_while(|(old, new)| matches(old, new)).count();
    let (old_rest, new_rest) = (&old[front..], &new[front..]);
    let back = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(old, new)| matches(old, new)).count();
    let (old_middle, new_middle) = (&old_rest[..old_rest.len() - back], &new_rest[..new_rest.len() - back]);
    if old_middle.len().max(new_middle.len()) > MAX_ALIGNED {
        return None;
    }
    let mut steps: Vec<Item> = old.iter().zip(new).take(front).map(keep).collect();
    steps.extend(middle(old_middle, new_middle));
    steps.extend(old_rest[old_rest.len() - back..].iter().zip(&new_rest[new_rest.len() - back..]).map(keep));
    Some(steps)
}

fn middle(old: &[Value], new: &[Value]) -> Vec<Item> {
    // lengths[i][j]: the longest common subsequence of old[i..] and new[j..].
    let mut lengths = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            lengths[i][j] = if matches(&old[i], &new[j]) {
                lengths[i + 1][j + 1] + 1
            } else {
                lengths[i + 1][j].max(lengths[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut steps) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && matches(&old[i], &new[j]) {
            steps.push(Item::Keep(Change::between(&old[i], &new[j])));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && lengths[i + 1][j] >= lengths[i][j + 1]) {
            steps.push(Item::Remove);
            i += 1;
        } else {
            steps.push(Item::Insert(new[j].clone()));
            j += 1;
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_leads_from_old_to_new() {
        let values = [
            json!({}),
            json!({"a": 1, "b/c~d": {"e": [1, 2, 3]}}),
            json!({"a": null, "l": [{"name": "x", "v": 1}, {"name": "y"}]}),
            json!({"a": "1", "l": [{"name": "new"}, {"name": "x", "v": 2}, {"name": "y"}, {"name": "last"}]}),
            json!({"l": [{"name": "y"}, {"name": "x"}], "b/c~d": {"e": [3, 1, 4, 2]}}),
            json!({"l": [], "b/c~d": {"e": [1, 1, 1]}}),
            json!([1, 2]),
        ];
        for old in &values {
            for new in &values {
                let patch = Change::between(old, new).into_patch();
                let mut patched = old.clone();
                json_patch::patch(&mut patched, &patch).unwrap();
                assert_eq!(&patched, new, "{old} -> {new} by {patch}");
                assert_eq!(patch.0.is_empty(), old == new);
            }
        }
    }

    #[test]
    fn what_is_added_in_front_moves_nothing() {
        let old = json!([{"name": "app", "image": "a"}]);
        let new = json!([{"name": "init"}, {"name": "app", "image": "b"}]);
        let patch = Change::between(&old, &new).into_patch();
        let expected = json!([
            {"op": "add", "path": "/0", "value": {"name": "init"}},
            {"op": "replace", "path": "/1/image", "value": "b"},
        ]);
        assert_eq!(serde_json::to_value(patch).unwrap(), expected);
    }
}
